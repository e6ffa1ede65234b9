"""The ways a deferred job can get its answer, and the choice among them.

Choosing is pure: what is known of a provider's turnaround, the queue, the prices and
the time comes in as arguments, and the choice leaves with the reason that stands on
the job for its caller to read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final

from proxy.core.ids import CredentialId
from proxy.core.turnaround import USUAL_BATCH, Spread


class Lane(StrEnum):
    """The way a deferred job gets its answer. The values are stored and public."""

    BATCH = "batch"
    """Accumulated into a provider batch, at about half the price."""

    FLEX = "flex"
    """The provider's synchronous discount tier: half the price, and refused when it is full."""

    TRICKLE = "trickle"
    """Ordinary calls, few at a time and out of the way of others, where nothing is cheaper."""

    INTERACTIVE = "interactive"
    """An ordinary call at full price, because the deadline is near."""


CALL_LANES: Final = (Lane.INTERACTIVE, Lane.FLEX, Lane.TRICKLE)
"""Those whose jobs are called one by one, the most urgent first."""


class Urgency(StrEnum):
    """How soon the jobs of a batch are needed. The values are stored.

    A batch stops for the nearest of its deadlines, so that a few urgent jobs would cut
    short thousands that have a day. Hence they do not share one.
    """

    LOOSE = "loose"
    SOON = "soon"
    TIGHT = "tight"


_URGENCIES: Final = ((timedelta(hours=3), Urgency.TIGHT), (timedelta(hours=10), Urgency.SOON))
"""Up to how much slack a job is how urgent; a third from one to the next."""


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What jobs must share to be in one batch.

    The credential is part of it: two credentials never share a batch. So is the
    lane: the jobs of another lane wait in a queue of their own.
    """

    lane: Lane
    upstream: str
    credential: CredentialId
    endpoint: str
    """Path of the provider's API as the batch names it, e.g. `/v1/responses`."""

    model: str
    headers: tuple[tuple[str, str], ...] = ()
    """Batch-wide headers in lower case, sorted, e.g. `anthropic-version`."""

    urgency: Urgency = Urgency.LOOSE
    """How near the deadlines are; of the other lanes all are called nearest first."""


CANCEL_TIME: Final = timedelta(minutes=30)
"""How long a cancelled batch may take to become terminal.

Observed 3 to 25 minutes at OpenAI; documented there as at most 10.
"""

MARGIN: Final = timedelta(minutes=2)
"""Kept free before every deadline: clocks differ and passes take time."""

CALL_TIME: Final = timedelta(minutes=1)
"""How long one direct call may take, queueing at the provider included."""

FLEX_TIME: Final = timedelta(minutes=15)
"""How long one call of the discount tier may take (Gemini API, "Flex": 1 to 15 minutes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneTimes:
    """How long things take, as observed or by the priors above."""

    cancel: timedelta = CANCEL_TIME
    margin: timedelta = MARGIN
    call: timedelta = CALL_TIME
    flex: timedelta = FLEX_TIME
    calls_per_s: float = 10.0
    """How fast direct calls of one credential can be made."""

    @property
    def reserve(self) -> timedelta:
        """What a direct call needs before a deadline."""
        return self.call + self.margin

    @property
    def batch_slack(self) -> timedelta:
        """The least slack with which a job still enters a batch.

        Less could not be kept: nothing can be read from a batch that is not
        terminal, so its cancellation and a direct call must both still fit.
        """
        return self.cancel + self.reserve

    @property
    def flex_slack(self) -> timedelta:
        """The least slack with which the discount tier is asked: it is slow, or refuses."""
        return self.flex + self.reserve

    def calls(self, count: int) -> timedelta:
        """Return how long it takes to begin so many direct calls."""
        return timedelta(seconds=count / self.calls_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFacts:
    """What a choice depends on, at the moment it is made."""

    has_batch: bool
    """Whether the upstream batches this endpoint at all."""

    unbatchable_until: datetime | None = None
    """Until when the provider is believed to refuse this model in batches."""

    can_cancel: bool = True
    keeps_partial_results: bool = True
    window: timedelta = timedelta(hours=24)
    """What the provider says of its batches: see `BatchLimits`."""

    turnaround: Spread = USUAL_BATCH
    """How long a batch that begins now will take."""

    has_flex: bool = False
    """Whether the discount tier can be asked now: it is there, and not known to be full."""

    has_trickle: bool = False
    """Whether jobs may wait for a free moment at full price."""

    trickle_from: datetime | None = None
    """When the hours of that lane begin; nothing: they are now."""

    trickle_s: float = 0.0
    """How many seconds the jobs of that lane that wait already will take."""

    alone: bool = False
    """Whether it comes from a run that makes one call at a time: see `core.pace`."""

    calls_waiting: int = 0
    """Direct calls of the credential that have to be begun before."""

    batch_price: float = 0.5
    flex_price: float = 0.5
    """As shares of the full price; about half, where no list says another."""

    times: LaneTimes = field(default_factory=LaneTimes)

    def without(self, lane: Lane) -> "LaneFacts":
        """Return the facts as if `lane` were none to choose."""
        match lane:
            case Lane.BATCH:
                return replace(self, has_batch=False)
            case Lane.FLEX:
                return replace(self, has_flex=False)
            case Lane.TRICKLE:
                return replace(self, has_trickle=False)
            case Lane.INTERACTIVE:
                return self

    def offers(self, lane: Lane, *, now: datetime) -> bool:
        """Return whether `lane` is open at all, whatever the deadline."""
        match lane:
            case Lane.BATCH:
                refused = self.unbatchable_until is not None and now < self.unbatchable_until
                return self.has_batch and not refused
            case Lane.FLEX:
                return self.has_flex
            case Lane.TRICKLE:
                return self.has_trickle
            case Lane.INTERACTIVE:
                return True

    @property
    def reserve(self) -> timedelta:
        """What a direct call that comes last in its queue needs before a deadline."""
        return self.times.reserve + self.times.calls(self.calls_waiting)

    @property
    def batch_slack(self) -> timedelta:
        """The least slack with which a job enters a batch of this provider.

        One that cannot be stopped must have ended by itself.
        """
        return self.reserve + (self.times.cancel if self.can_cancel else self.window)


@dataclass(frozen=True, slots=True)
class LaneChoice:
    """A lane and, for the caller to read, why."""

    lane: Lane
    reason: str
    urgency: Urgency = Urgency.LOOSE

    def key_for(self, key: BatchKey) -> BatchKey:
        """Return the key of the queue in which a job of `key` waits by this choice."""
        if (key.lane, key.urgency) == (self.lane, self.urgency):
            return key
        return replace(key, lane=self.lane, urgency=self.urgency)


_TWICE: Final = 0.1
"""What a batch that is stopped for its deadline costs beside its price: requests and time.

With it, a batch must have a chance of one in six to be preferred to full price.
"""

_REFUSAL: Final = 0.02
"""What the discount tier costs beside its price: it refuses, and holds a connection.

With it, a batch that probably ends in time is preferred at equal price.
"""


def choose_lane(deadline: datetime, facts: LaneFacts, *, now: datetime) -> LaneChoice:
    """Return the cheapest lane that makes `deadline`."""
    slack = deadline - now
    obstacle = _batch_obstacle(slack, facts, now=now)
    has_flex = facts.has_flex and slack > facts.times.flex_slack
    if obstacle is None:
        return _choose_batch(slack, facts, has_flex=has_flex)
    if has_flex:
        return LaneChoice(Lane.FLEX, obstacle)
    if facts.has_trickle and not facts.alone and now < trickle_until(deadline, facts, now=now):
        return LaneChoice(Lane.TRICKLE, obstacle)
    return LaneChoice(Lane.INTERACTIVE, obstacle)


def _batch_obstacle(slack: timedelta, facts: LaneFacts, *, now: datetime) -> str | None:
    """Return why no batch can be used, in words for the caller."""
    if facts.alone:
        return "the run makes one call at a time; each would be a batch of one"
    if not facts.has_batch:
        return "the upstream has no batches for this endpoint and model"
    if facts.unbatchable_until is not None and now < facts.unbatchable_until:
        return "the provider does not batch this model"
    if facts.batch_price >= 1:
        return "a batch of this model costs as much as calls"
    if slack <= facts.batch_slack:
        needed = format_duration(facts.batch_slack)
        return f"{format_duration(slack)} to the deadline; a batch needs more than {needed}"
    return None


def _choose_batch(slack: timedelta, facts: LaneFacts, *, has_flex: bool) -> LaneChoice:
    """Return the lane of a job that could enter a batch, by what each is expected to cost."""
    far = f"{format_duration(slack)} to the deadline"
    chance = facts.turnaround.chance_within(slack - facts.batch_slack) if facts.can_cancel else 1.0
    otherwise = facts.flex_price if has_flex else 1.0
    # Of a stopped batch what is finished is kept and paid for; where it is not kept,
    # all of it may be paid for twice.
    begun = 1.0 if not facts.keeps_partial_results else chance
    batch = begun * facts.batch_price + (1 - chance) * (otherwise + _TWICE)
    if has_flex and facts.flex_price + _REFUSAL < batch:
        return LaneChoice(Lane.FLEX, f"{far}; a batch ends in time at {chance:.0%}")
    if batch >= 1:
        return LaneChoice(Lane.INTERACTIVE, f"{far}; a batch ends in time at {chance:.0%}")
    return LaneChoice(Lane.BATCH, far, urgency_of(slack))


def urgency_of(slack: timedelta) -> Urgency:
    """Return with which others a job may share a batch."""
    return next((urgency for most, urgency in _URGENCIES if slack <= most), Urgency.LOOSE)


def trickle_until(deadline: datetime, facts: LaneFacts, *, now: datetime) -> datetime:
    """Return until when a job can wait in the trickle; the past if it could not.

    It is called there within its hours and after those that wait already.
    """
    begins = max(now, facts.trickle_from or now) + timedelta(seconds=facts.trickle_s)
    last = deadline - facts.reserve
    return last if begins < last else now


def cancel_at(nearest_deadline: datetime, remaining: int, times: LaneTimes) -> datetime:
    """Return when a batch must be cancelled so that its remainder makes the deadline.

    `remaining` is the number of jobs that would have to be called directly: all of its
    batch, since those that share one have deadlines of about the same distance.
    """
    return nearest_deadline - times.calls(remaining) - times.batch_slack


def disown_at(
    adopted_at: datetime, nearest_deadline: datetime, remaining: int, times: LaneTimes
) -> datetime:
    """Return until when a batch that may be somebody else's is waited for.

    Half of the slack is kept for another lane, and always enough for direct calls.
    """
    half = adopted_at + (nearest_deadline - adopted_at) / 2
    return min(half, cancel_at(nearest_deadline, remaining, times))


_UNITS: Final[Mapping[str, int]] = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


@lru_cache(maxsize=1024)
def format_duration(value: timedelta) -> str:
    """Return `value` in the two largest units that it has, e.g. `1h30m`."""
    seconds = max(0, int(value.total_seconds()))
    parts = []
    for unit, size in _UNITS.items():
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"
