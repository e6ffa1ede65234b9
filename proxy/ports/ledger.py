"""The ledger: what was bought and what it cost, as sums per day."""

from collections.abc import Sequence
from datetime import date
from typing import Protocol

from proxy.core.ledger import Booking, Receipt


class LedgerStore(Protocol):
    """Durable sums. The end of a job is booked by the write that ends it, see `JobWrite`.

    A day has at most `ROWS_PER_DAY` rows (in each shard, where a store has shards); any further one
    is added to the row that `LedgerKey.others` names.
    """

    async def book(self, receipts: Sequence[Receipt]) -> frozenset[str]:
        """Book each receipt that was never booked before, whole or not at all.

        Returns the IDs of these. A receipt is remembered for as long as what it is for may still be
        read.
        """
        ...

    async def rows(self, *, since: date, until: date) -> Sequence[Booking]:
        """Return all rows of the days from `since` to `until`, both included."""
        ...

    async def prune(self, *, before: date) -> int:
        """Erase the rows of all days before, and old receipts; return how many rows."""
        ...
