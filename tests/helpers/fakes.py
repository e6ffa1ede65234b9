"""Verified fakes: a clock, a hash and, from next door, stores in memory."""

import asyncio
import hashlib
from base64 import urlsafe_b64encode
from datetime import datetime, timedelta

from tests.helpers.memory import MemoryStores

__all__ = ["FakeClock", "FakeHash", "MemoryStores"]


class FakeClock:
    """Time moves only when a test moves it."""

    def __init__(self, start: datetime) -> None:
        self._start = start
        self._now = start
        self._off = timedelta()
        self._sleepers: list[tuple[datetime, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._now + self._off

    def monotonic(self) -> float:
        return (self._now - self._start).total_seconds()

    async def sleep(self, seconds: float) -> None:
        """Return once `advance` has moved the time far enough."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + timedelta(seconds=seconds), woken))
        await woken

    @property
    def sleepers(self) -> int:
        """How many calls of `sleep` are waiting."""
        return sum(not woken.done() for _, woken in self._sleepers)

    def set(self, **delta: float) -> None:
        """Set the clock on the wall by `timedelta(**delta)`, in which no time passes."""
        self._off += timedelta(**delta)

    def advance(self, **delta: float) -> None:
        """Move the time by `timedelta(**delta)` and wake whose sleep is over."""
        self._now += timedelta(**delta)
        for until, woken in self._sleepers:
            if until <= self._now and not woken.done():
                woken.set_result(None)
        self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[1].done()]


class FakeHash:
    """A `KeyedHash` whose key everybody knows."""

    def digest(self, *parts: str) -> str:
        digest = hashlib.sha256()
        for part in parts:
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8) + encoded)
        return urlsafe_b64encode(digest.digest()).decode().rstrip("=")
