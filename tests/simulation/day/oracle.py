"""What could have been saved by one who knew the whole day, under the same caps.

It knows how long every batch will take, when the discount tier has room, and when nothing
is answered. Each job is bought once: at half price if a batch that begins at some minute
of its life, or the discount tier at some minute, answers it in time; else at full price;
else not at all. Where tokens are limited its batches share them; then it is a very good
plan and not proved to be the best: jobs with the fewest choices go first, each into the
shortest batch that still has room.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from tests.simulation.day.scenarios import START, Day
from tests.simulation.day.traffic import Arrival
from tests.simulation.day.weather import BATCH_SLOT, MINUTE, Weather

READING: Final = 15 * timedelta(seconds=1)
"""How long it takes to hear of an end: the house is asked as often."""


@dataclass(frozen=True, slots=True)
class Possible:
    """What the oracle makes of a day."""

    in_time: frozenset[int]
    """The calls that it answers by their deadline."""

    saving: float


def foresee(day: Day, arrivals: Sequence[Arrival]) -> Possible:
    """Return the best that can be made of the day."""
    in_time, saving = set(), 0.0
    for upstream, weather in day.weather.items():
        mine = [one for one in arrivals if one.upstream == upstream]
        half = _half_price(weather, mine)
        saving += sum(one.tokens for one in mine if one.number in half) / 2
        in_time |= half | {one.number for one in mine if _can_call(weather, one)}
    return Possible(frozenset(in_time), saving)


def _half_price(weather: Weather, arrivals: Sequence[Arrival]) -> set[int]:
    """Return which calls are answered at half price."""
    flex = {one.number for one in arrivals if _can_flex(weather, one)}
    rest = [one for one in arrivals if one.number not in flex]
    quota = _Quota(weather)
    ordered = sorted(rest, key=lambda one: (one.deadline - one.at, -one.tokens))
    return flex | {one.number for one in ordered if quota.takes(one)}


def _can_flex(weather: Weather, call: Arrival) -> bool:
    return any(
        weather.is_up(at)
        and weather.flex_is_open(at)
        and at + weather.flex_time(at) <= call.deadline
        for at in _minutes(call.at, call.deadline)
    )


def _can_call(weather: Weather, call: Arrival) -> bool:
    return any(
        weather.is_up(at) and at + weather.call_time(at) <= call.deadline
        for at in _minutes(call.at, call.deadline)
    )


def _minutes(begins: datetime, ends: datetime) -> Iterable[datetime]:
    at = begins
    while at < ends:
        yield at
        at += MINUTE


@dataclass(slots=True)
class _Quota:
    """The tokens that batches hold, per slot of the day."""

    weather: Weather
    held: dict[int, int] = field(default_factory=dict)
    lengths: dict[int, timedelta] = field(default_factory=dict)

    def takes(self, call: Arrival) -> bool:
        """Put the call into the shortest batch that answers it in time, if any has room."""
        first, last = _slot(call.at), _slot(call.deadline)
        for slot in sorted(range(first, last + 1), key=self._length):
            begins = max(call.at, START + slot * BATCH_SLOT)
            ends = begins + self._length(slot)
            if _slot(begins) != slot or ends + READING > call.deadline:
                continue
            if not (self.weather.is_up(begins) and self.weather.is_up(ends)):
                continue
            if self._hold(call.tokens, slot, _slot(ends)):
                return True
        return False

    def _length(self, slot: int) -> timedelta:
        if slot not in self.lengths:
            self.lengths[slot] = self.weather.turnaround(START + slot * BATCH_SLOT)
        return self.lengths[slot]

    def _hold(self, tokens: int, first: int, last: int) -> bool:
        most = self.weather.max_tokens
        if most is None:
            return True
        slots = range(first, last + 1)
        if any(self.held.get(slot, 0) + tokens > most for slot in slots):
            return False
        for slot in slots:
            self.held[slot] = self.held.get(slot, 0) + tokens
        return True


def _slot(at: datetime) -> int:
    return (at - START) // BATCH_SLOT
