"""The ways a deferred job can get its answer, and how long each takes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Final

from proxy.core.ids import CredentialId


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


ProviderQueue = tuple[CredentialId, str]
"""A credential and a model: by these providers count what is enqueued with them."""

ModelAccess = tuple[CredentialId, str, str]
"""A credential, an endpoint and a model: what a provider lets in, or refuses, as one."""


@dataclass(frozen=True)
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

    @property
    def provider_queue(self) -> ProviderQueue:
        return self.credential, self.model

    @property
    def model_access(self) -> ModelAccess:
        return self.credential, self.endpoint, self.model

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Asked several times for each job, of the few keys that all of them share.
        return hash((self.lane, self.upstream, self.credential, self.endpoint, self.model))


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
        """Return how long it takes to begin `count` direct calls."""
        return timedelta(seconds=count / self.calls_per_s)


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


def cancel_at(nearest_deadline: datetime, remaining: int, times: LaneTimes) -> datetime:
    """Return when a batch must be cancelled so that its remainder makes the deadline.

    `remaining` is the number of jobs that would have to be called directly: all of its
    batch, since those that share one have deadlines of about the same distance.
    """
    return nearest_deadline - times.calls(remaining) - times.batch_slack


def disown_at(
    adopted_at: datetime, nearest_deadline: datetime, remaining: int, times: LaneTimes
) -> datetime:
    """Return when to stop waiting for a batch that may be somebody else's.

    Half of the slack is kept for another lane, and always enough for direct calls.
    """
    half = adopted_at + (nearest_deadline - adopted_at) / 2
    return min(half, cancel_at(nearest_deadline, remaining, times))


_UNITS: Final[Mapping[str, int]] = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


@lru_cache(maxsize=1024)
def rough_duration(value: timedelta) -> str:
    """Return `value` for people to read, in the two largest units that it has, e.g. `1h30m`.

    Smaller units are cut off; `policies.durations` writes what can be read back.
    """
    seconds = max(0, int(value.total_seconds()))
    parts = []
    for unit, size in _UNITS.items():
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"
