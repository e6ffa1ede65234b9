"""How long things take at a provider: what is usual, and what was observed.

A spread says how likely something has ended after a time. It starts as a prior and
gives way to observations, of which old ones fade: providers have good and bad weeks.
Pure values: they are kept, shared and timed elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

# fmt: off
_MINUTES: Final = (
    1 / 60, 2 / 60, 5 / 60, 10 / 60, 20 / 60, 0.5,
    1, 2, 3, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120,
    180, 240, 360, 480, 720, 960, 1_200, 1_440, 2_880,
)
# fmt: on
"""Upper edges of the buckets, from a second to the longest usual window."""

_FADE: Final = 0.98
"""What each observation leaves of the weight of those before: about 50 count."""

_CALL_FADE: Final = 0.995
"""The same for calls, of which there are many more than batches: about 200 count."""

_PRIOR_WEIGHT: Final = 6.0
"""As how many observations the prior counts: a handful of batches outvotes it."""

_SLOT_HOURS: Final = 4
_REMEMBERED: Final = 512
"""Answers that are kept: each accepted call asks the same few questions."""

MAX_MODELS: Final = 64
"""How many pairs of upstream and model are remembered; the longest unseen goes first."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How a duration is distributed: weights per bucket of `_MINUTES`."""

    weights: tuple[float, ...]

    @property
    def total(self) -> float:
        """As how many observations it counts."""
        return sum(self.weights)

    @lru_cache(maxsize=_REMEMBERED)  # noqa: B019 - of values: what it keeps is small and bounded
    def chance_within(self, duration: timedelta) -> float:
        """Return how likely it is over after `duration`, between 0 and 1."""
        minutes = duration.total_seconds() / 60
        below, passed, start = 0.0, 0.0, 0.0
        for end, weight in zip(_MINUTES, self.weights, strict=True):
            share = min(1.0, max(0.0, (minutes - start) / (end - start)))
            below += weight * share
            passed += weight
            start = end
        return below / passed if passed else 0.0

    @lru_cache(maxsize=_REMEMBERED)  # noqa: B019 - as above
    def quantile(self, share: float, *, after: timedelta = timedelta(0)) -> timedelta:
        """Return by when `share` of what is not over `after` some time already will be over."""
        if not self.total:
            return after
        gone = self.chance_within(after)
        wanted = (gone + share * (1 - gone)) * self.total
        below, start = 0.0, 0.0
        for end, weight in zip(_MINUTES, self.weights, strict=True):
            if weight and below + weight >= wanted:
                minutes = start + (end - start) * (wanted - below) / weight
                return max(after, timedelta(minutes=minutes))
            below += weight
            start = end
        return max(after, timedelta(minutes=_MINUTES[-1]))

    def observed(self, duration: timedelta, fade: float = _FADE) -> "Spread":
        """Return the spread with one more observation; the older ones fade."""
        minutes = duration.total_seconds() / 60
        place = next((n for n, end in enumerate(_MINUTES) if minutes <= end), len(_MINUTES) - 1)
        faded = [round(weight * fade, 3) for weight in self.weights]
        faded[place] += 1
        return Spread(tuple(faded))

    def plus(self, other: "Spread", times: float = 1.0) -> "Spread":
        """Return both together, the other counted `times`."""
        pairs = zip(self.weights, other.weights, strict=True)
        return Spread(tuple(mine + times * theirs for mine, theirs in pairs))


NOTHING: Final = Spread((0.0,) * len(_MINUTES))


def _prior(shares: Mapping[float, float], scale: float = 1.0) -> Spread:
    """Return the spread that reaches each share after so many minutes, times `scale`."""
    points = [(0.0, 0.0), *((end * scale, share) for end, share in shares.items())]
    reached, weights = 0.0, []
    for end in _MINUTES:
        share = _between(points, end)
        weights.append(_PRIOR_WEIGHT * (share - reached))
        reached = share
    return Spread(tuple(weights))


def _between(points: Sequence[tuple[float, float]], at: float) -> float:
    """Return where the line through `points` is at `at`; beyond the last, it stays."""
    for (here, low), (there, high) in pairwise(points):
        if at <= there:
            return low + (high - low) * (at - here) / (there - here)
    return points[-1][1]


_USUAL_MEDIAN: Final = timedelta(minutes=7)

_USUAL_SHARES: Final[Mapping[float, float]] = {
    1: 0.02,
    2: 0.08,
    3: 0.17,
    5: 0.36,
    7: 0.5,
    10: 0.62,
    15: 0.72,
    20: 0.78,
    30: 0.84,
    45: 0.88,
    60: 0.91,
    90: 0.935,
    120: 0.95,
    180: 0.965,
    240: 0.975,
    360: 0.985,
    480: 0.99,
    720: 0.995,
    960: 0.997,
    1_200: 0.999,
    1_440: 1.0,
}
"""Half of all batches end within 7 minutes, nine of ten within an hour, all at the window."""


def usual_batch(median: timedelta = _USUAL_MEDIAN) -> Spread:
    """Return how long batches take of which nothing was observed, half of them `median`."""
    return _prior(_USUAL_SHARES, min(median / _USUAL_MEDIAN, 1_440 / 60))


USUAL_BATCH: Final = usual_batch()

USUAL_FLEX: Final = _prior({1: 0.6, 2: 0.8, 3: 0.87, 5: 0.93, 10: 0.98, 15: 1.0})
"""Its target is 1 to 15 minutes (Gemini API, "Flex"); mostly it is as quick as any call."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was observed of one model at one upstream."""

    all_day: Spread = NOTHING
    slots: Mapping[int, Spread] = field(default_factory=dict)
    """By the time of day at which batches began, in UTC."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A batch is terminal: begun, and over after `took`.

    One that was stopped took at least that long, and counts as if it had ended then.
    """

    upstream: str
    model: str
    began_at: datetime
    took: timedelta


@dataclass(frozen=True, slots=True)
class Stopped:
    """A cancelled batch became terminal after `took`."""

    upstream: str
    took: timedelta


@dataclass(frozen=True, slots=True)
class Answered:
    """A call of the discount tier was answered after `took`."""

    upstream: str
    took: timedelta


Observation = Ended | Stopped | Answered


@dataclass(frozen=True, slots=True)
class Turnarounds:
    """Everything that was observed, small enough to be one record of a store."""

    batches: Mapping[tuple[str, str], _Seen] = field(default_factory=dict)
    """By upstream and model, the latest seen last."""

    cancels: Mapping[str, Spread] = field(default_factory=dict)
    flex: Mapping[str, Spread] = field(default_factory=dict)
    """By upstream, both."""

    def batch(self, upstream: str, model: str, at: datetime, usual: Spread = USUAL_BATCH) -> Spread:
        """Return how long a batch that begins `at` will take: hours count double.

        `usual` is what is assumed where little was observed.
        """
        seen = self.batches.get((upstream, model))
        if seen is None:
            return usual
        spread = usual.plus(seen.all_day)
        return spread.plus(seen.slots.get(_slot(at), NOTHING))

    def cancel(self, upstream: str) -> Spread:
        """Return how long cancelled batches took to stop, and nothing else: see `Outlook`."""
        return self.cancels.get(upstream, NOTHING)

    def flex_call(self, upstream: str) -> Spread:
        """Return how long a call of the discount tier will take."""
        return USUAL_FLEX.plus(self.flex.get(upstream, NOTHING))

    def learn(self, news: Sequence[Observation]) -> "Turnarounds":
        """Return what is known after `news` too."""
        batches, cancels, flex = dict(self.batches), dict(self.cancels), dict(self.flex)
        for one in news:
            # Taken out and put in again, so that the latest seen stand last.
            match one:
                case Stopped(upstream, took):
                    cancels[upstream] = cancels.pop(upstream, NOTHING).observed(took)
                case Answered(upstream, took):
                    flex[upstream] = flex.pop(upstream, NOTHING).observed(took, _CALL_FADE)
                case Ended(upstream, model, began_at, took):
                    seen = batches.pop((upstream, model), _Seen())
                    slot = _slot(began_at)
                    in_slot = seen.slots.get(slot, NOTHING).observed(took)
                    batches[upstream, model] = _Seen(
                        seen.all_day.observed(took), {**seen.slots, slot: in_slot}
                    )
        return Turnarounds(_latest(batches), _latest(cancels), _latest(flex))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads, made of what JSON has."""
        return {
            "edges": list(_MINUTES),
            "batches": [
                [*place, _dump(seen.all_day), {str(s): _dump(v) for s, v in seen.slots.items()}]
                for place, seen in self.batches.items()
            ],
            "cancels": [[name, _dump(spread)] for name, spread in self.cancels.items()],
            "flex": [[name, _dump(spread)] for name, spread in self.flex.items()],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Turnarounds":
        """Return what `to_json` wrote; nothing observed if it was over other buckets.

        Raises:
            AttributeError, LookupError, TypeError, ValueError: if it is no such record.
        """
        if data["edges"] != list(_MINUTES):
            return cls()
        batches = {
            (upstream, model): _Seen(_load(all_day), {int(s): _load(v) for s, v in slots.items()})
            for upstream, model, all_day, slots in data["batches"]
        }
        return cls(
            batches,
            {name: _load(spread) for name, spread in data["cancels"]},
            {name: _load(spread) for name, spread in data["flex"]},
        )


def _latest(known: Mapping[Key, Value]) -> dict[Key, Value]:
    """Return those that were seen last."""
    return dict(list(known.items())[-MAX_MODELS:])


def _slot(at: datetime) -> int:
    return at.hour // _SLOT_HOURS


def _dump(spread: Spread) -> dict[str, float]:
    """Return the buckets that have any weight: mostly few."""
    return {str(n): round(w, 3) for n, w in enumerate(spread.weights) if w >= 0.001}


def _load(data: Mapping[str, float]) -> Spread:
    weights = [0.0] * len(_MINUTES)
    for place, weight in data.items():
        weights[int(place)] = float(weight)
    return Spread(tuple(weights))
