"""When to give up what a provider has been asked for in vain."""

from datetime import timedelta
from typing import Final

from proxy.core.errors import ProviderError
from proxy.ports.clock import Clock

WINDOW_AND_HOUR: Final = timedelta(hours=25)
"""What a provider may take at the longest, and an hour: after that no news is expected."""

ASKED_FOR: Final = timedelta(hours=1)
"""How long to ask before anything is given up, however late it is by the clock: a machine may
have slept over all of that time, and the first answer after it says nothing of it."""


class InVain:
    """Since when asking for something has failed. Forgotten with the process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def is_hopeless(self, name: str, failure: ProviderError, *, is_late: bool) -> bool:
        """Note that asking for `name` failed again, and tell whether to give it up.

        Only if it `is_late` and has failed for `ASKED_FOR` while this instance was awake. A
        request that was not even sent says nothing of it.
        """
        if not failure.sent:
            return False
        if self.asked_for(name) < ASKED_FOR or not is_late:
            return False
        self.answered(name)
        return True

    def asked_for(self, name: str) -> timedelta:
        """Note that asking for `name` brought nothing again, and tell for how long it has."""
        # Unlike the time of day, this stands still while a machine sleeps.
        now = self._clock.monotonic()
        return timedelta(seconds=now - self._since.setdefault(name, now))

    def answered(self, name: str) -> None:
        """Note that something came of it."""
        self._since.pop(name, None)
