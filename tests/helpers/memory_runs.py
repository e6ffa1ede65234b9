"""Counters of runs in memory."""

from collections import Counter
from datetime import datetime


class MemoryRunStore:
    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    async def count(self, place: str, *, now: datetime, until: datetime) -> int:
        assert now < until
        self._counts[place] += 1
        return self._counts[place]
