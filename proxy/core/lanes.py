"""The ways a deferred job can get its answer, and the choice among them.

Choosing is pure: what is known of a provider's turnaround, the queue and the
time comes in as arguments, and the choice leaves with the reason that stands on
the job for its caller to read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from proxy.core.ids import CredentialId


class Lane(StrEnum):
    """The way a deferred job gets its answer. The values are stored and public."""

    BATCH = "batch"
    """Accumulated into a provider batch, at about half the price."""

    INTERACTIVE = "interactive"
    """An ordinary call at full price, because the deadline is near."""


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


CANCEL_TIME: Final = timedelta(minutes=30)
"""How long a cancelled batch may take to become terminal.

Observed 3 to 25 minutes at OpenAI; documented there as at most 10.
"""

MARGIN: Final = timedelta(minutes=2)
"""Kept free before every deadline: clocks differ and passes take time."""

CALL_TIME: Final = timedelta(minutes=1)
"""How long one direct call may take, queueing at the provider included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneTimes:
    """How long things take, as observed or by the priors above."""

    cancel: timedelta = CANCEL_TIME
    margin: timedelta = MARGIN
    call: timedelta = CALL_TIME
    window: timedelta = timedelta(hours=24)
    """The provider's completion window."""

    calls_per_s: float = 10.0
    """How fast direct calls of one credential can be made."""

    @property
    def batch_slack(self) -> timedelta:
        """The least slack with which a job still enters a batch.

        Less could not be kept: nothing can be read from a batch that is not
        terminal, so its cancellation and a direct call must both still fit.
        """
        return self.cancel + self.call + self.margin


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFacts:
    """What a choice depends on, at the moment it is made."""

    has_batch: bool
    """Whether the upstream batches this endpoint at all."""

    unbatchable_until: datetime | None = None
    """Until when the provider is believed to refuse this model in batches."""

    alone: bool = False
    """Whether it comes from a run that makes one call at a time: see `core.pace`."""

    times: LaneTimes = field(default_factory=LaneTimes)


@dataclass(frozen=True, slots=True)
class LaneChoice:
    """A lane and, for the caller to read, why."""

    lane: Lane
    reason: str


def choose_lane(deadline: datetime, facts: LaneFacts, *, now: datetime) -> LaneChoice:
    """Return the cheapest lane that makes `deadline`."""
    slack = deadline - now
    if facts.alone:
        return LaneChoice(
            Lane.INTERACTIVE, "the run makes one call at a time; each would be a batch of one"
        )
    if not facts.has_batch:
        return LaneChoice(Lane.INTERACTIVE, "the upstream has no batch API for this endpoint")
    if facts.unbatchable_until is not None and now < facts.unbatchable_until:
        return LaneChoice(Lane.INTERACTIVE, "the provider does not batch this model")
    if slack <= facts.times.batch_slack:
        needed = format_duration(facts.times.batch_slack)
        return LaneChoice(
            Lane.INTERACTIVE,
            f"{format_duration(slack)} to the deadline; a batch needs more than {needed}",
        )
    return LaneChoice(Lane.BATCH, f"{format_duration(slack)} to the deadline")


def cancel_at(nearest_deadline: datetime, remaining: int, times: LaneTimes) -> datetime:
    """Return when a batch must be cancelled so that its remainder makes the deadline.

    `remaining` is the number of jobs that would have to be called directly.
    """
    calls = timedelta(seconds=remaining / times.calls_per_s)
    return nearest_deadline - times.cancel - calls - times.call - times.margin


def disown_at(
    adopted_at: datetime, nearest_deadline: datetime, remaining: int, times: LaneTimes
) -> datetime:
    """Return until when a batch that may be somebody else's is waited for.

    Half of the slack is kept for another lane, and always enough for direct calls.
    """
    half = adopted_at + (nearest_deadline - adopted_at) / 2
    return min(half, cancel_at(nearest_deadline, remaining, times))


_UNITS: Final[Mapping[str, int]] = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def format_duration(value: timedelta) -> str:
    """Return `value` in the two largest units that it has, e.g. `1h30m`."""
    seconds = max(0, int(value.total_seconds()))
    parts = []
    for unit, size in _UNITS.items():
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"
