"""What a day is like at the providers: a function of the seed and the time, and of nothing else.

No batch changes the weather, so it can be known beforehand: by the oracle, and by nobody
in the house.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)

BATCH_SLOT: Final = 5 * MINUTE
"""Batches that begin within the same slot take equally long."""

FLEX_SLOT: Final = 10 * MINUTE


@dataclass(frozen=True, slots=True)
class Spell:
    """A part of the day, from its beginning to before its end."""

    begins: datetime
    ends: datetime

    def holds(self, at: datetime) -> bool:
        return self.begins <= at < self.ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """One upstream's day."""

    seed: str
    start: datetime
    has_flex: bool
    brown_outs: Sequence[Spell] = ()
    """Everything is slow, and a part of the calls fails."""

    outages: Sequence[Spell] = ()
    """Nothing is answered."""

    max_tokens: int | None = None
    """Prompt tokens that may be enqueued in batches at once."""

    def turnaround(self, at: datetime) -> timedelta:
        """Return how long a batch takes that is created now: minutes, with a heavy tail."""
        draw = self._draw("batch", at, BATCH_SLOT)
        minutes = math.exp(draw.gauss(math.log(6), 0.9))
        # In office hours of America everything queues.
        if 14 <= at.hour < 22:
            minutes *= 1.8
        if draw.random() < 0.03:
            minutes = draw.uniform(90, 1_200)
        if self._is_brown(at):
            minutes = max(minutes * 12, draw.uniform(120, 600))
        return min(timedelta(minutes=minutes), 24 * HOUR)

    def cancel_time(self, at: datetime) -> timedelta:
        """Return how long a cancelled batch goes on."""
        draw = self._draw("cancel", at, BATCH_SLOT)
        return MINUTE * (draw.uniform(8, 25) if self._is_brown(at) else draw.uniform(1, 10))

    def flex_is_open(self, at: datetime) -> bool:
        """Return whether the discount tier has room."""
        if not self.has_flex or self._is_brown(at):
            return False
        busy = 0.4 if 14 <= at.hour < 22 else 0.1
        return self._draw("flex", at, FLEX_SLOT).random() >= busy

    def flex_time(self, at: datetime) -> timedelta:
        """Return how long a call of the discount tier takes."""
        return timedelta(seconds=self._draw("flex time", at, MINUTE).uniform(10, 120))

    def call_time(self, at: datetime) -> timedelta:
        """Return how long an ordinary call takes."""
        slow = 3 if self._is_brown(at) else 1
        return timedelta(seconds=slow * self._draw("call", at, MINUTE).uniform(2, 12))

    def fails(self, at: datetime, chance: random.Random) -> bool:
        """Return whether an ordinary call gets a 503, by `chance` of the caller's own."""
        return self._is_brown(at) and chance.random() < 0.2

    def is_up(self, at: datetime) -> bool:
        """Return whether anything is answered."""
        return not any(spell.holds(at) for spell in self.outages)

    def _is_brown(self, at: datetime) -> bool:
        return any(spell.holds(at) for spell in self.brown_outs)

    def _draw(self, what: str, at: datetime, slot: timedelta) -> random.Random:
        return random.Random(f"{self.seed} {what} {(at - self.start) // slot}")
