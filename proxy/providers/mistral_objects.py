"""Mistral's batch jobs as they come, read leniently and made ours.

Source: Mistral API description, `BatchJobOut` and `FileSchema`.
"""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from proxy.ports.provider import ProviderBatch, ProviderBatchState
from proxy.providers import _wire
from proxy.providers.lenient import Id, Lenient, Loose, Moment, Number, Word, read_as
from proxy.providers.statuses import read_status

INLINE: Final = "inline:"
"""Begins the name of results that are no file but a part of their job."""

_RUNNING, _CANCELLING, _ENDED = (
    ProviderBatchState.RUNNING,
    ProviderBatchState.CANCELLING,
    ProviderBatchState.ENDED,
)

# Mistral API, `BatchJobStatus`, in lower case.
_STATES: Final = {
    "queued": _RUNNING,
    "running": _RUNNING,
    "cancellation_requested": _CANCELLING,
    "success": _ENDED,
    "failed": _ENDED,
    "timeout_exceeded": _ENDED,
    "cancelled": _ENDED,
}


def _messages(value: Any) -> list[str]:
    entries = value if isinstance(value, list) else []
    found = [entry.get("message") for entry in entries if isinstance(entry, dict)]
    return [message for message in found if isinstance(message, str) and message]


class JobObject(Lenient):
    """The fields of a batch job that we depend on."""

    id: Id
    status: Word = None
    created_at: Moment = None
    metadata: Loose = Field(default_factory=dict)
    output_file: Word = None
    error_file: Word = None
    errors: Annotated[list[str], BeforeValidator(_messages)] = Field(default_factory=list)
    total_requests: Number = None
    completed_requests: Number = None
    succeeded_requests: Number = None


def read_job(value: object) -> JobObject | None:
    """Read a batch job, or return nothing if it is none."""
    return read_as(JobObject, value)


def provider_batch(job: JobObject, *, now: datetime) -> ProviderBatch:
    """Return the job in our words; an unknown status means that it runs.

    A job that was given its requests inline may have its results in itself and not in a
    file, or only its failures in one: then its own name stands for them.
    """
    status, state = read_status(job.status, _STATES, provider="mistral", provider_batch_id=job.id)
    return ProviderBatch(
        id=job.id,
        state=state,
        status=status,
        created_at=job.created_at or now,
        count=job.total_requests,
        output_file_ids=_results(job) if state is _ENDED else (),
        # A job that failed before any request ran says so by a text alone.
        error_code="batch_failed" if status == "failed" and not job.completed_requests else None,
        error_message=_wire.shown(job.errors[0] if job.errors else None),
    )


def _results(job: JobObject) -> tuple[str, ...]:
    answers = job.output_file
    # Which of the two the counts tell is left open: they need not both be there.
    has_answers = job.succeeded_requests or (job.completed_requests and not job.error_file)
    if answers is None and has_answers:
        answers = INLINE + job.id
    return tuple(dict.fromkeys(file for file in (answers, job.error_file) if file))
