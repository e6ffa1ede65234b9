"""The life of a job, as data and one pure function.

Rule 1: everything that decides a job's next state lives in this file. Stores
persist states and services cause events; neither compares states.

Rule 2: nothing here reads a clock, draws a random number or performs I/O. Time
arrives inside events, so any history can be replayed in a test.

    accepted ──► QUEUED ──Assigned──► BATCHED ──Succeeded, Failed──► terminal
                  │ ▲ ▲                  │
                  │ │ └─────Released─────┘
                  │ └───────Released─────┐
                  └──Escalated──► ESCALATING ──Succeeded, Failed──► terminal

A batched job is never called directly: its batch is cancelled and read first,
so that nothing is bought twice, and only what the batch left open is released.
A result may still reach a job twice, from a batch that was given up for lost.
The first one wins; the table marks the late one as `STALE`, which is an expected
race and not an error.

A record is written when the job is accepted, rerouted, escalated, released or
ends. While batched it is not touched: a store reports `BATCHED` for a queued
record that a batch has claimed, with the attempt of that claim.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Final, assert_never, get_args

from proxy.core.ids import BatchId, InstanceId, JobId, OwnerId
from proxy.core.lanes import BatchKey, Lane, LaneChoice
from proxy.core.prices import Cost
from proxy.core.records import Maker


class JobState(StrEnum):
    """Where a job is. The values are stored and public: never rename one."""

    QUEUED = "queued"
    """Accepted and durable, waiting for a batch or for a direct call."""

    BATCHED = "batched"
    """A member of one batch, whose provider now owes us a result."""

    ESCALATING = "escalating"
    """Being called directly, because a batch cannot answer it in time."""

    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the job has reached a state that it will never leave."""
        return self in TERMINAL


TERMINAL: Final = frozenset(
    {JobState.COMPLETED, JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED}
)


class AnswerMode(StrEnum):
    """How the caller of a deferred call is answered."""

    JOB = "job"
    WAIT = "wait"
    BACKGROUND = "background"
    RAISE = "raise"


@dataclass(frozen=True)
class Outcome:
    """What a job ended with. The body itself is kept apart from the record."""

    status_code: int | None
    """HTTP status of the provider's answer; nothing if there was none."""

    error_code: str | None = None
    error_message: str | None = None
    usage: Mapping[str, int] | None = None
    """Token counts as the result reports them, under their own names."""

    tier: str | None = None
    """The service tier that the provider says it used, which decides the price."""

    cost: Cost | None = None
    """What the answer cost; nothing if that is not known."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """A flush placed the job in `batch_id`."""

    batch_id: BatchId


@dataclass(frozen=True, slots=True)
class Escalated:
    """`holder` is about to call the provider directly."""

    holder: InstanceId


@dataclass(frozen=True, slots=True)
class Released:
    """Attempt number `attempt` ended without a result for this job.

    `possible_double` says that nobody can tell whether it was computed and paid.
    `uncharged` says that the provider refused it at no cost: it does not count
    against the attempts that a failing call is given. `onto` is the lane of the
    next attempt, if it is another one.
    """

    attempt: int
    reason: str
    onto: LaneChoice | None = None
    not_before: datetime | None = None
    possible_double: bool = False
    uncharged: bool = False


@dataclass(frozen=True, slots=True)
class Rerouted:
    """A planner chose another lane for a waiting job."""

    onto: LaneChoice


@dataclass(frozen=True, slots=True)
class Succeeded:
    """Attempt number `attempt` brought a result; any attempt's will do."""

    attempt: int
    at: datetime
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Failed:
    """Attempt number `attempt` ended for good, without a result."""

    attempt: int
    at: datetime
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The deadline passed with nothing in flight."""

    at: datetime


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The caller does not want the result any more."""

    at: datetime


JobEvent = (
    Assigned
    | Escalated
    | Released
    | Rerouted
    | Succeeded
    | Failed
    | DeadlinePassed
    | CancelRequested
)


class Stale:
    """Marks a transition that lost a race: the job stays as it is."""


STALE: Final = Stale()

_TERMINAL_ROW: Final[dict[type[JobEvent], JobState | Stale]] = dict.fromkeys(
    get_args(JobEvent), STALE
)

TRANSITIONS: Final[dict[JobState, dict[type[JobEvent], JobState | Stale]]] = {
    JobState.QUEUED: {
        Assigned: JobState.BATCHED,
        Escalated: JobState.ESCALATING,
        Rerouted: JobState.QUEUED,
        DeadlinePassed: JobState.EXPIRED,
        CancelRequested: JobState.CANCELLED,
        # The batch was given up for lost, then answered after all.
        Succeeded: JobState.COMPLETED,
        Failed: JobState.FAILED,
        Released: STALE,
    },
    JobState.BATCHED: {
        Released: JobState.QUEUED,
        Succeeded: JobState.COMPLETED,
        Failed: JobState.FAILED,
        CancelRequested: JobState.CANCELLED,
        # The plan was made before a flush took the job; the batch decides now.
        Assigned: STALE,
        Rerouted: STALE,
        Escalated: STALE,
        # A paid attempt is in flight: the job completes late instead.
        DeadlinePassed: STALE,
    },
    JobState.ESCALATING: {
        Released: JobState.QUEUED,
        Succeeded: JobState.COMPLETED,
        Failed: JobState.FAILED,
        CancelRequested: JobState.CANCELLED,
        Assigned: STALE,
        Rerouted: STALE,
        Escalated: STALE,
        DeadlinePassed: STALE,
    },
    JobState.COMPLETED: _TERMINAL_ROW,
    JobState.FAILED: _TERMINAL_ROW,
    JobState.EXPIRED: _TERMINAL_ROW,
    JobState.CANCELLED: _TERMINAL_ROW,
}


class InvalidTransitionError(RuntimeError):
    """An event reached a job in a state where only a bug could send it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One deferred call, from its acceptance to the pruning of its result."""

    id: JobId
    owner: OwnerId
    state: JobState = JobState.QUEUED
    accepted_at: datetime
    deadline: datetime
    """Latest useful time of the result."""

    key: BatchKey
    lane: Lane
    lane_reason: str
    target: str
    """Request target at the upstream, raw, less credentials."""

    answer: AnswerMode
    decided_by: str
    """`header:x-deferrable`, `header:prefer`, or `rule:` and the rule's name."""

    tags: Mapping[str, str] = field(default_factory=dict)
    webhook: str | None = None
    fingerprint: str
    """Equal for two calls exactly if one may be the repeat of the other."""

    body_bytes: int
    """Length of the line's body in bytes, as it will be submitted."""

    tokens: int
    """Estimated prompt tokens, for the provider's enqueued-token limit."""

    affinity: str = ""
    """Begins alike for calls whose prompts do, so that they can be neighbours."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers that a direct call of this job carries; no credentials."""

    batch_id: BatchId | None = None
    attempt: int = 0
    """How often the job was handed to a provider; 0 before the first time."""

    failures: int = 0
    """Attempts that ended in a transient error of this very call."""

    holder: InstanceId | None = None
    """Who is calling directly now, while `ESCALATING`."""

    not_before: datetime | None = None
    """Earliest time of the next attempt."""

    possible_doubles: int = 0
    """Attempts of which nobody can tell whether they were paid for."""

    last_reason: str | None = None
    """Why the last attempt ended without a result."""

    finalized_at: datetime | None = None
    outcome: Outcome | None = None
    answered_by: int | None = None
    """The attempt that succeeded: reading its result again is no second purchase."""

    version: int = 0
    """Raised by one at each write; a store refuses a write to an older one."""

    @property
    def ready_at(self) -> datetime:
        """From when on it may be claimed, as long as it waits."""
        return self.not_before or self.accepted_at

    @property
    def deadline_missed(self) -> bool:
        """Whether the job ended after its deadline."""
        return self.finalized_at is not None and self.finalized_at > self.deadline


ENDED: Final = frozenset(
    {
        "state",
        "batch_id",
        "attempt",
        "holder",
        "finalized_at",
        "outcome",
        "answered_by",
        "version",
    }
)
"""The fields that an answer changes when it ends a job, or that its claim changed before: a store
may write these alone. A cancellation changes more, but has no result to write."""

changed: Final = Maker(Job).changed
"""Copies a job with other values in some fields; only what decides a job's life may."""


def advance(job: Job, event: JobEvent) -> Job:
    """Return `job` after `event`.

    A stale event returns the very same object, so that callers can skip the
    write: `if (after := advance(job, event)) is not job: ...`.

    Raises:
        InvalidTransitionError: if the table has no entry for this pair.
    """
    target = TRANSITIONS[job.state].get(type(event))
    if target is None:
        message = f"{type(event).__name__} cannot reach job {job.id} in state {job.state}"
        raise InvalidTransitionError(message)
    if isinstance(target, Stale):
        return job
    if isinstance(event, Released | Failed) and event.attempt != job.attempt:
        # The end of an old batch must not disturb the attempt that replaced it.
        # A late success is different: it is a result, whoever computed it.
        return job
    # One copy for all that changes.
    return _moved(job, event, partial(changed, job, state=target, version=job.version + 1))


def _moved(job: Job, event: JobEvent, move: Callable[..., Job]) -> Job:
    match event:
        case Assigned(batch_id):
            return move(batch_id=batch_id, attempt=job.attempt + 1)
        case Escalated(holder):
            return move(holder=holder, attempt=job.attempt + 1, not_before=None)
        case Rerouted(onto):
            return move(key=onto.key_for(job.key), lane=onto.lane, lane_reason=onto.reason)
        case Released():
            onto = event.onto or LaneChoice(job.lane, job.lane_reason, job.key.urgency)
            return move(
                key=onto.key_for(job.key),
                lane=onto.lane,
                lane_reason=onto.reason,
                batch_id=None,
                holder=None,
                not_before=event.not_before,
                last_reason=event.reason,
                failures=job.failures + (not event.uncharged),
                possible_doubles=job.possible_doubles + event.possible_double,
            )
        case Succeeded():
            return move(
                finalized_at=event.at,
                outcome=event.outcome,
                answered_by=event.attempt,
                holder=None,
            )
        case Failed():
            # Not `answered_by`: a job that was given up may be answered after all,
            # by this very attempt, and that was bought for nothing.
            return move(finalized_at=event.at, outcome=event.outcome, holder=None)
        case DeadlinePassed():
            return move(finalized_at=event.at, holder=None)
        case CancelRequested():
            # A call under way goes on, and may be paid for although nobody waits for it.
            # Noted now: its instance may die before it knows.
            doubles = job.possible_doubles + (job.state is JobState.ESCALATING)
            return move(finalized_at=event.at, holder=None, possible_doubles=doubles)
        case _:  # pragma: no cover
            assert_never(event)
