"""Which direct calls wait because their provider has just said that it is called too often.

It counts all calls of an account, those that somebody waits for included. Jobs that
came again and again would take from these what the provider still answers.
"""

from datetime import datetime, timedelta
from typing import Final

from proxy.core.lanes import BatchKey
from proxy.core.outcomes import LONGEST_BACKOFF
from proxy.services.pauses import Backoff, Pauses

FIRST_PAUSE: Final = timedelta(seconds=2)
LONGEST_PAUSE: Final = timedelta(minutes=1)
"""Where the provider asks for none: a deadline may be near, and limits mostly hold for a minute."""

LONGEST_ASKED: Final = LONGEST_BACKOFF
"""Where it asks for one: a provider that asks for a day must not make its jobs miss deadlines."""


class BusyKeys:
    """Pauses, by batch key: a limit is one of an account and a model."""

    def __init__(self) -> None:
        backoff = Backoff(first=FIRST_PAUSE, longest=LONGEST_PAUSE, in_a_row=LONGEST_ASKED)
        self._pauses: Pauses[BatchKey] = Pauses(backoff)

    def is_paused(self, key: BatchKey, now: datetime) -> bool:
        """Return whether no call of this key is to begin."""
        return self._pauses.is_on(key, now)

    def refused(self, key: BatchKey, now: datetime, *, asked: timedelta | None) -> None:
        """Pause calls for as long as was `asked`, or twice as long as the last time."""
        self._pauses.refused(key, now, asked=min(asked or timedelta(), LONGEST_ASKED))

    def answered(self, key: BatchKey) -> None:
        """Forget that its provider was busy."""
        self._pauses.end(key)
