"""Which direct calls wait because their provider has just said that it is called too often.

It counts all calls of an account, those that somebody waits for included. Jobs that came
again and again would take from these what the provider still answers.
"""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from proxy.core.lanes import BatchKey

FIRST_PAUSE: Final = timedelta(seconds=2)
LONGEST_PAUSE: Final = timedelta(minutes=1)
"""Of those that nobody asked for. A deadline may be near, and limits mostly hold for a minute."""

LONGEST_ASKED: Final = timedelta(minutes=5)


class _Pause(NamedTuple):
    length: timedelta
    until: datetime


class BusyKeys:
    """Pauses, by batch key: a limit is one of an account and a model. Held in memory."""

    def __init__(self) -> None:
        self._pauses: dict[BatchKey, _Pause] = {}

    def is_paused(self, key: BatchKey, now: datetime) -> bool:
        """Return whether no call of this key is to begin."""
        pause = self._pauses.get(key)
        return pause is not None and now < pause.until

    def refused(self, key: BatchKey, now: datetime, *, asked: timedelta | None) -> None:
        """Pause calls for as long as was `asked`, or twice as long as the last time."""
        self._forget_old(now)
        last = self._pauses.get(key)
        if last is not None and now < last.until:
            # Begun at the same moment as the one that was refused before: it tells nothing new.
            length = last.length
        elif last is None:
            length = FIRST_PAUSE
        else:
            length = min(2 * last.length, LONGEST_PAUSE)
        until = now + max(length, min(asked or length, LONGEST_ASKED))
        if last is not None:
            until = max(until, last.until)
        self._pauses[key] = _Pause(length, until)

    def answered(self, key: BatchKey) -> None:
        """Forget that its provider was busy."""
        self._pauses.pop(key, None)

    def _forget_old(self, now: datetime) -> None:
        old = [key for key, pause in self._pauses.items() if now - pause.until > LONGEST_ASKED]
        for key in old:
            del self._pauses[key]
