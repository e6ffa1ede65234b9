"""For how long a provider has been asked in vain, by this instance and while it was awake."""

from datetime import timedelta
from typing import Final

from proxy.ports.clock import Clock

ASKED_FOR: Final = timedelta(hours=1)
"""How long to ask before anything is given up, however late it is by the clock: a machine may
have slept over all of that time, and the first answer after it says nothing of it."""


class InVain:
    """Since when nothing came of asking, by what was asked for. Forgotten with the process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def has_lasted(self, name: str) -> bool:
        """Note that nothing came of it again, and tell whether that has lasted `ASKED_FOR`."""
        # Unlike the time of day, this stands still while a machine sleeps.
        now = self._clock.monotonic()
        return now - self._since.setdefault(name, now) >= ASKED_FOR.total_seconds()

    def is_over(self, name: str) -> None:
        """Note that something came of it, or that it is given up."""
        self._since.pop(name, None)
