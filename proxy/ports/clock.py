"""Time and chance, as the services ask for them."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The only source of time outside of `proxy.app`."""

    def now(self) -> datetime:
        """Return the current time, aware and in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only grow, for measuring durations and leases."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of this clock."""
        ...


class KeyedHash(Protocol):
    """Hashes by which values are recognised without being kept.

    The key is made with the store and never rotated: what was hashed once must
    be found again.
    """

    def digest(self, *parts: str) -> str:
        """Return the same 43 URL-safe characters for the same parts, and only for them."""
        ...
