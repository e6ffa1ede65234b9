"""What callers send on a day: bursts, nightly jobs, tight and loose deadlines."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tests.simulation.day.weather import HOUR, MINUTE

DEADLINES = {
    "loose": (24 * HOUR, 30 * HOUR),
    "working day": (6 * HOUR, 12 * HOUR),
    "soon": (2 * HOUR, 5 * HOUR),
    "tight": (50 * MINUTE, 2 * HOUR),
    "at once": (6 * MINUTE, 35 * MINUTE),
}
"""How long callers give, from and to."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One call that somebody defers."""

    number: int
    at: datetime
    deadline: datetime
    upstream: str
    tokens: int
    """Of its prompt. They are also its list price: output is left out of the reckoning."""


@dataclass(frozen=True, slots=True)
class Burst:
    """Many calls within a quarter of an hour."""

    hour: float
    count: int
    deadline: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """How much of what comes in a day."""

    per_hour: float
    mix: dict[str, float]
    """How often each of `DEADLINES` is asked for, outside of bursts."""

    bursts: Sequence[Burst] = ()
    without_flex: float = 0.35
    """The share that goes to the upstream without a discount tier."""

    def day(self, seed: str, start: datetime) -> list[Arrival]:
        """Return the calls of one day, in the order of their arrival."""
        draw = random.Random(f"traffic {seed}")
        times = sorted([*self._steady(draw, start), *self._bursts(draw, start)])
        return [
            Arrival(
                number=number,
                at=at,
                deadline=at + _between(draw, *DEADLINES[kind]),
                upstream="plain" if draw.random() < self.without_flex else "flexible",
                tokens=int(draw.lognormvariate(6.5, 0.8)) + 50,
            )
            for number, (at, kind) in enumerate(times)
        ]

    def _steady(self, draw: random.Random, start: datetime) -> Iterator[tuple[datetime, str]]:
        at = start
        while True:
            at += timedelta(hours=draw.expovariate(self.per_hour))
            if at >= start + 24 * HOUR:
                return
            yield at, draw.choices(list(self.mix), list(self.mix.values()))[0]

    def _bursts(self, draw: random.Random, start: datetime) -> Iterator[tuple[datetime, str]]:
        for burst in self.bursts:
            begins = start + burst.hour * HOUR
            for _ in range(burst.count):
                yield begins + _between(draw, 0 * MINUTE, 15 * MINUTE), burst.deadline


def _between(draw: random.Random, low: timedelta, high: timedelta) -> timedelta:
    return low + (high - low) * draw.random()
