"""The ledger in memory, as obvious as the other stores here."""

from collections.abc import Iterable, Sequence
from datetime import date

from proxy.core.ledger import ROWS_PER_DAY, Booking, LedgerKey, Receipt, Sums


class MemoryLedgerStore:
    def __init__(self) -> None:
        self._rows: dict[LedgerKey, Sums] = {}
        self._receipts: set[str] = set()

    def add(self, bookings: Iterable[Booking]) -> None:
        """Book at once: what the write that ends a job does."""
        for booking in bookings:
            key = booking.key
            of_day = sum(known.day == key.day for known in self._rows)
            if key not in self._rows and of_day >= ROWS_PER_DAY:
                key = key.others()
            self._rows[key] = self._rows.get(key, Sums()) + booking.sums

    async def book(self, receipts: Sequence[Receipt]) -> frozenset[str]:
        booked = set()
        for receipt in receipts:
            if receipt.id not in self._receipts:
                self._receipts.add(receipt.id)
                self.add(receipt.bookings)
                booked.add(receipt.id)
        return frozenset(booked)

    async def rows(self, *, since: date, until: date) -> Sequence[Booking]:
        keys = sorted(key for key in self._rows if since <= key.day <= until)
        return [Booking(key, self._rows[key]) for key in keys]

    async def prune(self, *, before: date) -> int:
        old = [key for key in self._rows if key.day < before]
        for key in old:
            del self._rows[key]
        return len(old)
