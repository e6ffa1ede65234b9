"""Pauses that grow while nothing but refusals comes, as from a tier that is full.

A refusal says something about all calls of its kind. So the next one is tried after a
pause, and not each of thousands in turn. Held in memory: what a restart forgets is
learned again from one call.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Generic, TypeVar

Kind = TypeVar("Kind", bound=Hashable)
Kept = TypeVar("Kept")

REMEMBERED: Final = 10_000
"""Kinds of calls that are kept in mind, some 3 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long pauses are: each twice as long as the last, up to a bound."""

    first: timedelta
    longest: timedelta
    in_a_row: timedelta = timedelta.max
    """How long after a pause a refusal still makes the next one longer."""

    def after(self, last: timedelta, *, ended_at: datetime, now: datetime) -> timedelta:
        """Return how long to pause for a refusal now, after a pause of `last`."""
        return self.first if now - ended_at > self.in_a_row else min(2 * last, self.longest)


@dataclass(frozen=True, slots=True)
class _Pause:
    until: datetime
    length: timedelta
    """What the next one is measured by; this one may have been asked to last longer."""


class Pauses(Generic[Kind]):
    """The pauses of some kinds of calls; one that is not refused has none."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._pauses: dict[Kind, _Pause] = {}

    def is_on(self, kind: Kind, now: datetime) -> bool:
        """Return whether no call of this kind is to begin."""
        pause = self._pauses.get(kind)
        return pause is not None and now < pause.until

    def refused(self, kind: Kind, now: datetime, *, asked: timedelta = timedelta()) -> bool:
        """Begin a pause, twice as long as the last, and no shorter than was `asked` for.

        Within one, only what is asked counts: the call was under way when it began. Returns
        whether anything has changed.
        """
        last = self._pauses.get(kind)
        if last is None:
            length = pause = self._backoff.first
        elif now >= last.until:
            length = pause = self._backoff.after(last.length, ended_at=last.until, now=now)
        else:
            length, pause = last.length, last.until - now
            if asked <= pause:
                return False
        self._keep(kind, _Pause(now + max(pause, asked), length))
        return True

    def hold(self, kind: Kind, until: datetime) -> None:
        """Pause until then, whatever was before."""
        self._keep(kind, _Pause(until, self._backoff.first))

    def end(self, kind: Kind) -> None:
        """Forget that anything was refused."""
        self._pauses.pop(kind, None)

    def _keep(self, kind: Kind, pause: _Pause) -> None:
        keep_in_mind(self._pauses, kind, pause)


def keep_in_mind(memory: dict[Kind, Kept], kind: Kind, kept: Kept) -> None:
    """Keep something of a kind of calls, in place of what was kept of it."""
    memory.pop(kind, None)
    if len(memory) >= REMEMBERED:
        # Callers name the models, and may invent them. The longest untouched goes.
        del memory[next(iter(memory))]
    memory[kind] = kept
