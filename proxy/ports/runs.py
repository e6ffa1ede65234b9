"""How often a call came within a run: what lets a restarted script resume."""

from datetime import datetime
from typing import Protocol


class RunStore(Protocol):
    """Counters that all instances share."""

    async def count(self, place: str, *, now: datetime, until: datetime) -> int:
        """Count one more occurrence at `place`; return how many there are with it.

        No two calls get the same number, whichever instances they come to. Kept until `until` at
        least, which each count moves on.
        """
        ...
