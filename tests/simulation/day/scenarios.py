"""The five days."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from tests.simulation.day.traffic import Burst, Traffic
from tests.simulation.day.weather import HOUR, MINUTE, Spell, Weather

START: Final = datetime(2026, 11, 23, 0, 0, tzinfo=UTC)

MIXED: Final = {"loose": 0.5, "working day": 0.25, "soon": 0.15, "tight": 0.07, "at once": 0.03}
URGENT: Final = {"loose": 0.1, "working day": 0.15, "soon": 0.4, "tight": 0.3, "at once": 0.05}

CALM: Final = Traffic(
    per_hour=40, mix=MIXED, bursts=(Burst(9, 120, "loose"), Burst(15, 120, "working day"))
)
NIGHT: Final = Traffic(
    per_hour=20,
    mix=MIXED,
    bursts=tuple(Burst(hour, 250, "working day") for hour in (20, 21, 22, 23)),
)
TIGHT: Final = Traffic(per_hour=45, mix=URGENT, bursts=(Burst(11, 80, "tight"),))

AIMS: Final[Mapping[str, float]] = {
    "calm day": 0.97,
    "nightly surge": 0.97,
    "tight deadlines": 0.97,
    "provider brown-out": 0.90,
    "quota squeeze": 0.90,
}
"""Which share of the oracle's saving each day is to reach."""


@dataclass(frozen=True, slots=True)
class Day:
    """One scenario with one seed."""

    name: str
    seed: int
    traffic: Traffic
    weather: Mapping[str, Weather]
    settings: Mapping[str, object] = field(default_factory=dict)
    """What an operator would have configured."""


def day(name: str, seed: int) -> Day:
    """Return the day of that name, with its weather drawn by `seed`."""
    weather = {
        upstream: Weather(
            seed=f"{name} {seed} {upstream}", start=START, has_flex=upstream == "flexible"
        )
        for upstream in ("flexible", "plain")
    }
    traffic, spoil = _DAYS[name]
    draw = random.Random(f"{name} {seed}")
    return Day(name, seed, traffic, {key: spoil(one, draw) for key, one in weather.items()})


def _fair(weather: Weather, _: random.Random) -> Weather:
    return weather


def _brown(weather: Weather, draw: random.Random) -> Weather:
    """Slow down everything for some hours, and let nothing through for some minutes, twice."""
    begins = START + draw.uniform(6, 16) * HOUR
    spell = Spell(begins, begins + draw.uniform(3, 6) * HOUR)
    outages = []
    for _ in range(2):
        at = begins + draw.random() * (spell.ends - begins)
        outages.append(Spell(at, at + draw.uniform(3, 10) * MINUTE))
    return replace(weather, brown_outs=(spell,), outages=tuple(outages))


def _squeezed(weather: Weather, draw: random.Random) -> Weather:
    """Let in only a few dozen jobs at once."""
    return replace(weather, max_tokens=int(draw.uniform(25_000, 50_000)))


_DAYS: Final[Mapping[str, tuple[Traffic, Callable[[Weather, random.Random], Weather]]]] = {
    "calm day": (CALM, _fair),
    "nightly surge": (NIGHT, _fair),
    "tight deadlines": (TIGHT, _fair),
    "provider brown-out": (CALM, _brown),
    "quota squeeze": (NIGHT, _squeezed),
}
