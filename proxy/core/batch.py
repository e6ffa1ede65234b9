"""The life of a batch, as data and one pure function; its events are in `core/batch_events.py`.

    FILLING ──Sealed──► SEALED ──SubmissionStarted──► SUBMITTING
                          ▲                             │  │  │
                          └──PutBack (proved absent)────┘  │  └─Rejected, Dissolved─► ENDED
                                                           │
                 ┌────────────────Created──────────────────┘
                 ▼
            IN_PROGRESS ──CancelStarted──► CANCELLING
                 │  ▲                        │
          Vanished  Polled                BatchEnded
                 ▼  │                        ▼
                LOST ────BatchEnded──────► ENDED ──BatchSettled──► SETTLED

The dangerous arrow is `Created`: between asking a provider for a batch and
hearing of it lies the only moment in which something can be bought twice. So the
intent (`SubmissionStarted`), the uploaded file (`Uploaded`) and the start of the
create (`CreateStarted`) are each durable before the next step, and a batch that
is found in `SUBMITTING` after a crash is searched for at the provider before
anything is sent again.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from proxy.core.batch_events import (
    BatchEnded,
    BatchEvent,
    BatchSettled,
    CancelStarted,
    Confirmed,
    Created,
    CreateStarted,
    CreateUnclear,
    Delayed,
    Disowned,
    Dissolved,
    Harvested,
    Missing,
    Polled,
    PutBack,
    Rejected,
    ResultsNamed,
    Sealed,
    SubmissionStarted,
    TwinFound,
    TwinRead,
    Uploaded,
    Vanished,
)
from proxy.core.ids import BatchId, InstanceId
from proxy.core.job import STALE, InvalidTransitionError, Stale
from proxy.core.lanes import BatchKey


class BatchState(StrEnum):
    """Where a batch is. The values are stored and public: never rename one."""

    FILLING = "filling"
    """Jobs are being claimed for it."""

    SEALED = "sealed"
    """Complete; nothing is at the provider but perhaps its input file."""

    SUBMITTING = "submitting"
    """The intent to buy is durable; whether the provider has it may be unknown."""

    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"

    LOST = "lost"
    """The provider says that it does not know the batch, for longer than a lag."""

    ENDED = "ended"
    """Terminal at the provider, or refused by it; not all of it is read yet."""

    SETTLED = "settled"
    """Every result is read, every job cared for, every provider file deleted."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Our group of jobs for one provider submission."""

    id: BatchId
    state: BatchState = BatchState.FILLING
    key: BatchKey
    created_at: datetime
    flush_reason: str = ""
    """Why it was due, e.g. `full` or `linger`."""

    count: int = 0
    body_bytes: int = 0
    tokens: int = 0
    nearest_deadline: datetime | None = None

    holder: InstanceId | None = None
    """Who is submitting now."""

    submissions: int = 0
    """How often a submission was started."""

    input_file_id: str | None = None
    input_count: int | None = None
    """How many lines that file has: jobs that ended before it was uploaded have none."""

    create_started_at: datetime | None = None
    """When the create now in doubt was begun; nothing while none was sent."""

    create_count: int = 0
    """How many requests that create carried: with no name, a batch is known by it."""

    ambiguous_since: datetime | None = None
    """When a create got no answer for the first time: a twin may turn up later."""

    searches: int = 0
    """How often the provider's lists were searched in vain since then."""

    provider_batch_id: str | None = None
    is_provisional: bool = False
    """Adopted by time and size alone. It is read, but neither cancelled nor deleted,
    until one of our names was found in it."""

    twins: tuple[str, ...] = ()
    """Provider batches with our ID beside the one above: cancelled, but read."""

    twins_read: tuple[str, ...] = ()
    """Those of them that are read: once, since reading counts what was bought twice."""

    submitted_at: datetime | None = None
    window_ends_at: datetime | None = None
    next_at: datetime | None = None
    """When the next step or poll is due."""

    polls: int = 0
    cancelled_at: datetime | None = None
    """When the provider was asked to stop it."""

    missing_since: datetime | None = None
    """Since when the provider answers 404."""

    refused_since: datetime | None = None
    """Since when no credential of the owner is let in to ask for it."""

    output_file_ids: tuple[str, ...] = ()
    ended_at: datetime | None = None
    end_reason: str | None = None
    """The provider's own word for the end, e.g. `completed` or `expired`."""

    error_code: str | None = None
    error_message: str | None = None
    error_line: int | None = None
    """1-based line of the input that failed the whole batch."""

    harvested_at: datetime | None = None
    """Since when nothing is left to read of it, twins aside."""

    settled_at: datetime | None = None
    version: int = 0

    @property
    def lines_sent(self) -> int:
        """How many lines its provider has of it."""
        return self.create_count if self.input_count is None else self.input_count


_S: Final = BatchState

# Old news: an instance that was suspended heard it before the end, and tells it after.
_LATE_NEWS: Final[dict[type[BatchEvent], BatchState | Stale]] = dict.fromkeys(
    (BatchEnded, Polled, Missing, Vanished, CancelStarted, Created), STALE
)

TRANSITIONS: Final[dict[BatchState, dict[type[BatchEvent], BatchState | Stale]]] = {
    _S.FILLING: {Sealed: _S.SEALED},
    _S.SEALED: {
        SubmissionStarted: _S.SUBMITTING,
        PutBack: STALE,
        Dissolved: _S.ENDED,
        # Put back as absent by an instance that took over, then answered after all.
        Created: _S.IN_PROGRESS,
    },
    _S.SUBMITTING: {
        # Another instance takes over what a dead one began.
        SubmissionStarted: _S.SUBMITTING,
        Uploaded: _S.SUBMITTING,
        CreateStarted: _S.SUBMITTING,
        CreateUnclear: _S.SUBMITTING,
        PutBack: _S.SEALED,
        Created: _S.IN_PROGRESS,
        Rejected: _S.ENDED,
        Dissolved: _S.ENDED,
        Delayed: _S.SUBMITTING,
        TwinFound: _S.SUBMITTING,
    },
    _S.IN_PROGRESS: {
        Polled: _S.IN_PROGRESS,
        Delayed: _S.IN_PROGRESS,
        Missing: _S.IN_PROGRESS,
        CancelStarted: _S.CANCELLING,
        Vanished: _S.LOST,
        TwinFound: _S.IN_PROGRESS,
        BatchEnded: _S.ENDED,
        Created: STALE,
        Confirmed: _S.IN_PROGRESS,
        Disowned: _S.ENDED,
    },
    _S.CANCELLING: {
        Polled: _S.CANCELLING,
        Delayed: _S.CANCELLING,
        Missing: _S.CANCELLING,
        CancelStarted: STALE,
        Vanished: _S.LOST,
        TwinFound: _S.CANCELLING,
        BatchEnded: _S.ENDED,
        Created: STALE,
        Confirmed: _S.CANCELLING,
        Disowned: _S.ENDED,
    },
    _S.LOST: {
        Delayed: _S.LOST,
        Polled: _S.IN_PROGRESS,
        Missing: _S.LOST,
        CancelStarted: STALE,
        Vanished: STALE,
        TwinFound: _S.LOST,
        BatchEnded: _S.ENDED,
        # Adopted, then lost, while the sender was suspended with the answer in hand.
        Created: STALE,
        Confirmed: _S.LOST,
        Disowned: _S.ENDED,
    },
    _S.ENDED: {
        Confirmed: _S.ENDED,
        Disowned: _S.ENDED,
        TwinFound: _S.ENDED,
        TwinRead: _S.ENDED,
        ResultsNamed: _S.ENDED,
        Delayed: _S.ENDED,
        Harvested: _S.ENDED,
        BatchSettled: _S.SETTLED,
        **_LATE_NEWS,
    },
    _S.SETTLED: {
        Confirmed: STALE,
        Disowned: STALE,
        BatchSettled: STALE,
        Delayed: STALE,
        Harvested: STALE,
        TwinFound: STALE,
        TwinRead: STALE,
        ResultsNamed: STALE,
        **_LATE_NEWS,
    },
}


def advance(batch: Batch, event: BatchEvent) -> Batch:
    """Return `batch` after `event`; the very same object if the event is stale.

    Raises:
        InvalidTransitionError: if the table has no entry for this pair.
    """
    target = TRANSITIONS[batch.state].get(type(event))
    if target is None:
        message = f"{type(event).__name__} cannot reach batch {batch.id} in state {batch.state}"
        raise InvalidTransitionError(message)
    if isinstance(target, Stale):
        return batch
    return _apply(replace(batch, state=target, version=batch.version + 1), event)


def _apply(moved: Batch, event: BatchEvent) -> Batch:
    match event:
        case Sealed(count, body_bytes, tokens, nearest):
            return replace(
                moved, count=count, body_bytes=body_bytes, tokens=tokens, nearest_deadline=nearest
            )
        case TwinFound(provider_batch_id):
            if provider_batch_id in (*moved.twins, moved.provider_batch_id):
                return moved
            return replace(moved, twins=(*moved.twins, provider_batch_id))
        case Confirmed():
            return replace(moved, is_provisional=False)
        case Rejected() | Dissolved() | BatchEnded() | Disowned():
            return _apply_end(moved, event)
        case Polled() | CancelStarted() | Missing() | Vanished() | Delayed():
            return _apply_poll(moved, event)
        case ResultsNamed() | TwinRead() | Harvested() | BatchSettled():
            return _apply_settling(moved, event)
        case _:
            return _apply_submission(moved, event)


def _apply_submission(
    moved: Batch,
    event: SubmissionStarted | Uploaded | CreateStarted | CreateUnclear | PutBack | Created,
) -> Batch:
    match event:
        case SubmissionStarted(holder):
            return replace(moved, holder=holder, submissions=moved.submissions + 1, next_at=None)
        case Uploaded(input_file_id, count):
            return replace(moved, input_file_id=input_file_id, input_count=count)
        case CreateStarted(at, count):
            return replace(moved, create_started_at=at, create_count=count)
        case CreateUnclear(at, next_at, searched):
            return replace(
                moved,
                ambiguous_since=moved.ambiguous_since or at,
                searches=moved.searches + searched,
                next_at=next_at,
                holder=None,
            )
        case PutBack(next_at):
            return replace(moved, next_at=next_at, holder=None, create_started_at=None, searches=0)
        case _:
            return replace(
                moved,
                provider_batch_id=event.provider_batch_id,
                is_provisional=event.provisional,
                submitted_at=event.at,
                window_ends_at=event.window_ends_at,
                next_at=event.next_at,
                holder=None,
                refused_since=None,
            )


def _apply_end(moved: Batch, event: Rejected | Dissolved | BatchEnded | Disowned) -> Batch:
    moved = replace(moved, ended_at=event.at, holder=None, next_at=None, refused_since=None)
    match event:
        case Rejected(_, code, message, line):
            return replace(
                moved,
                end_reason="rejected",
                error_code=code,
                error_message=message,
                error_line=_line_of(moved, line),
                create_started_at=None,
            )
        case Dissolved(_, reason):
            return replace(moved, end_reason=reason)
        case Disowned(_, reason):
            # Forgotten, so that nothing of it is ever cancelled or deleted.
            return replace(
                moved,
                end_reason=reason,
                provider_batch_id=None,
                is_provisional=False,
                output_file_ids=(),
            )
        case _:
            return replace(
                moved,
                end_reason=event.reason,
                output_file_ids=event.output_file_ids,
                error_code=event.error_code,
                error_message=event.error_message,
                error_line=_line_of(moved, event.error_line),
            )


def _apply_settling(
    moved: Batch, event: ResultsNamed | TwinRead | Harvested | BatchSettled
) -> Batch:
    match event:
        case ResultsNamed(output_file_ids):
            return replace(moved, output_file_ids=output_file_ids)
        case TwinRead(provider_batch_id):
            return replace(moved, twins_read=(*moved.twins_read, provider_batch_id))
        case Harvested(at):
            return replace(moved, harvested_at=at, refused_since=None)
        case BatchSettled(at):
            return replace(moved, settled_at=at, next_at=None)


def _line_of(batch: Batch, line: int | None) -> int | None:
    """Return the line that failed a batch; nothing if its input has none of that number.

    Believed, it would excuse every job: all would be sent again as they are, for ever.
    """
    return line if line is None or line <= (batch.lines_sent or batch.count) else None


def _apply_poll(
    moved: Batch, event: Polled | CancelStarted | Missing | Vanished | Delayed
) -> Batch:
    match event:
        case Polled(next_at, cancelling):
            state = BatchState.CANCELLING if cancelling else moved.state
            return replace(
                moved,
                state=state,
                next_at=next_at,
                polls=moved.polls + 1,
                missing_since=None,
                refused_since=None,
            )
        case Missing(at, next_at):
            since = moved.missing_since or at
            return replace(moved, next_at=next_at, missing_since=since, refused_since=None)
        case Delayed(next_at, refused_at):
            # Another kind of silence in between says nothing about the credential.
            return replace(moved, next_at=next_at, refused_since=moved.refused_since or refused_at)
        case CancelStarted(next_at, at):
            return replace(moved, next_at=next_at, cancelled_at=at)
        case _:
            return replace(moved, next_at=event.next_at)
