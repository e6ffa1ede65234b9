"""The choice among lanes: the one that makes the deadline and is expected to cost least.

It is pure: what is known of a provider's turnaround, the queue, the prices and the time
comes in as arguments, and the choice leaves with the reason that stands on the job for
its caller to read.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from proxy.core.lanes import Lane, LaneChoice, LaneTimes, Urgency, rough_duration
from proxy.core.turnaround import USUAL_BATCH, Spread

_URGENCIES: Final = ((timedelta(hours=3), Urgency.TIGHT), (timedelta(hours=10), Urgency.SOON))
"""The most slack of each urgency; each bound is about a third of the next."""


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
    """Direct calls of the credential that begin before this one would."""

    batch_price: float = 0.5
    flex_price: float = 0.5
    """As shares of the full price; about half, where no list says another."""

    times: LaneTimes = field(default_factory=LaneTimes)

    def without(self, lane: Lane) -> "LaneFacts":
        """Return the facts with `lane` ruled out."""
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
        """The time that a direct call at the end of the queue needs before a deadline."""
        return self.times.reserve + self.times.calls(self.calls_waiting)

    @property
    def batch_slack(self) -> timedelta:
        """The least slack with which a job enters a batch of this provider.

        One that cannot be stopped must have ended by itself.
        """
        return self.reserve + (self.times.cancel if self.can_cancel else self.window)


_TWICE: Final = 0.1
"""What stopping a batch for its deadline costs beside its price: requests and time. So a batch must
have a chance of one in six to be preferred to full price.
"""

_REFUSAL: Final = 0.02
"""What the discount tier costs beside its price: it refuses, and holds a connection. So a batch
that probably ends in time is preferred at equal price.
"""

_NO_TIME: Final = timedelta(0)


def choose_lane(deadline: datetime, facts: LaneFacts, *, now: datetime) -> LaneChoice:
    """Return the cheapest lane that makes `deadline`."""
    slack = deadline - now
    spare = slack - facts.batch_slack
    obstacle = _batch_obstacle(slack, spare, facts, now=now)
    has_flex = facts.has_flex and slack > facts.times.flex_slack
    if obstacle is None:
        return _choose_batch(slack, spare, facts, has_flex=has_flex)
    if has_flex:
        return LaneChoice(Lane.FLEX, obstacle)
    if facts.has_trickle and not facts.alone and _trickles_in_time(deadline, facts, now=now):
        return LaneChoice(Lane.TRICKLE, obstacle)
    return LaneChoice(Lane.INTERACTIVE, obstacle)


def _batch_obstacle(
    slack: timedelta, spare: timedelta, facts: LaneFacts, *, now: datetime
) -> str | None:
    """Return why no batch can be used, in words for the caller.

    `spare` is what remains of `slack` for a batch to run in.
    """
    if facts.alone:
        return "the run makes one call at a time; each would be a batch of one"
    if not facts.has_batch:
        return "the upstream has no batches for this endpoint and model"
    if facts.unbatchable_until is not None and now < facts.unbatchable_until:
        return "the provider does not batch this model"
    if facts.batch_price >= 1:
        return "a batch of this model costs as much as calls"
    if spare <= _NO_TIME:
        needed = rough_duration(facts.batch_slack)
        return f"{rough_duration(slack)} to the deadline; a batch needs more than {needed}"
    return None


def _choose_batch(
    slack: timedelta, spare: timedelta, facts: LaneFacts, *, has_flex: bool
) -> LaneChoice:
    """Return the lane of a job that could enter a batch, by what each is expected to cost."""
    far = f"{rough_duration(slack)} to the deadline"
    chance = facts.turnaround.chance_within(spare) if facts.can_cancel else 1.0
    otherwise = facts.flex_price if has_flex else 1.0
    # What a stopped batch has finished is kept and paid for; where it is not kept, all of the batch
    # may be paid for twice.
    begun = 1.0 if not facts.keeps_partial_results else chance
    batch = begun * facts.batch_price + (1 - chance) * (otherwise + _TWICE)
    if has_flex and facts.flex_price + _REFUSAL < batch:
        return LaneChoice(Lane.FLEX, f"{far}; a batch ends in time at {chance:.0%}")
    if batch >= 1:
        return LaneChoice(Lane.INTERACTIVE, f"{far}; a batch ends in time at {chance:.0%}")
    return LaneChoice(Lane.BATCH, far, _urgency_of(slack))


def _urgency_of(slack: timedelta) -> Urgency:
    """Return how urgent a job is: only jobs of one urgency share a batch."""
    return next((urgency for most, urgency in _URGENCIES if slack <= most), Urgency.LOOSE)


def _trickles_in_time(deadline: datetime, facts: LaneFacts, *, now: datetime) -> bool:
    """Return whether a job can wait in the trickle: for its hours, and for those before it."""
    begins = max(now, facts.trickle_from or now) + timedelta(seconds=facts.trickle_s)
    return begins < deadline - facts.reserve
