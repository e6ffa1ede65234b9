"""How a job is shown to its caller.

Three shapes: our own job object, the pending `Response` of OpenAI's background
mode, and problem documents. All times are whole seconds since 1970, as in
OpenAI's `Batch` object, so that one parser reads both. A null means *unknown*,
never zero.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Final, assert_never

from proxy.core.batch import Batch
from proxy.core.choice import LaneFacts
from proxy.core.dialects import ErrorAnswer, openai_error
from proxy.core.errors import CallerError, ProviderError, ProxyError
from proxy.core.estimate import USUAL, completion_at
from proxy.core.ids import JobId
from proxy.core.job import Job, JobState
from proxy.core.prices import NANO, Cost

RETRY_AFTER_MAX_S: Final = 60
"""The longest pause that a caller is told: OpenAI's SDKs heed no more than 120 s."""

RETRY_AFTER_MIN_S: Final = 5

STATUS_WORDS: Final[Mapping[JobState, str]] = {
    JobState.QUEUED: "queued",
    JobState.BATCHED: "in_progress",
    JobState.ESCALATING: "in_progress",
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
    JobState.EXPIRED: "expired",
    JobState.CANCELLED: "cancelled",
}
"""What callers read for each state."""


def job_object(
    job: Job,
    facts: LaneFacts = USUAL,
    *,
    batch: Batch | None = None,
    trouble: str | None = None,
    now: datetime,
) -> dict[str, object]:
    """Return the job as `/v1/jobs` shows it.

    Its end is estimated by `facts`. `batch` is the job's batch, where the caller has it
    at hand, and `trouble` what a pending job waits for, if that is known.
    """
    finalized_at = job.finalized_at
    outcome = job.outcome
    late = not job.state.is_terminal and now > job.deadline
    error = job_error(job)
    return {
        "id": job.id,
        "object": "deferrable.job",
        "status": STATUS_WORDS[job.state],
        "created_at": _unix(job.accepted_at),
        "deadline": _unix(job.deadline),
        "deadline_missed": job.deadline_missed or late,
        "estimated_completion_at": _unix(completion_at(job, facts, batch=batch, now=now)),
        "finalized_at": _unix(finalized_at),
        "upstream": job.key.upstream,
        "endpoint": job.key.endpoint,
        "model": job.key.model,
        "lane": {"name": job.lane.value, "reason": job.lane_reason},
        "trouble": None if job.state.is_terminal else trouble,
        "decided_by": job.decided_by,
        "tags": dict(job.tags),
        "batch": _batch_member(job, batch),
        "result": _result_member(job),
        "usage": dict(outcome.usage) if outcome is not None and outcome.usage is not None else None,
        "cost": _cost_member(outcome.cost if outcome is not None else None),
        "error": None if error is None else {"code": error.code, "message": error.message},
    }


def unread_object(job_id: JobId, why: ProxyError) -> dict[str, object]:
    """Return what a list shows of a job that cannot be read: nothing else is known of it."""
    error = {"code": why.code, "message": why.message}
    return {"id": job_id, "object": "deferrable.job", "status": None, "error": error}


def _cost_member(cost: Cost | None) -> dict[str, object]:
    if cost is None:
        return {"list_usd": None, "paid_usd": None, "saved_usd": None}
    return {
        "list_usd": cost.list_nano / NANO,
        "paid_usd": cost.paid_nano / NANO,
        "saved_usd": cost.saved_nano / NANO,
    }


def pending_response(job: Job) -> dict[str, object]:
    """Return the job as a background `Response` that has no output yet.

    Source of the shape: OpenAI API description, `Response` (openapi.yaml,
    2026-08-21); every required member is there, so that typed SDKs parse it.
    A completed job reads `in_progress`: its output is the provider's own
    Response, and a hollow `completed` would be taken for it.
    """
    status = _response_status(job.state)
    error = job_error(job) if status == "failed" else None
    return {
        "id": job.id,
        "object": "response",
        "created_at": _unix(job.accepted_at),
        "status": status,
        "background": True,
        "completed_at": None,
        # The API knows a closed list of codes, and no other fits.
        "error": None if error is None else {"code": "server_error", "message": error.message},
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": job.key.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }


def retry_after_s(
    job: Job, facts: LaneFacts = USUAL, *, batch: Batch | None = None, now: datetime
) -> int | None:
    """Return after how many seconds it is worth asking again; nothing once it ended."""
    if job.state.is_terminal:
        return None
    expected = completion_at(job, facts, batch=batch, now=now)
    if expected is None:
        return RETRY_AFTER_MIN_S
    # A tenth of what is left: the answer is late by a tenth at most, and ten
    # questions are cheap.
    tenth = int((expected - now).total_seconds() / 10)
    return max(RETRY_AFTER_MIN_S, min(RETRY_AFTER_MAX_S, tenth))


def retry_after(
    job: Job, facts: LaneFacts, *, batch: Batch | None = None, now: datetime
) -> tuple[tuple[str, str], ...]:
    """Return the same as the header field of an answer, if there is a time to tell."""
    pause_s = retry_after_s(job, facts, batch=batch, now=now)
    return () if pause_s is None else (("Retry-After", str(pause_s)),)


def missing_result(job: Job) -> ProxyError:
    """Return why a job that has ended has no result."""
    return job_error(job) or CallerError(
        f"the result of job {job.id} is no longer kept", code="result_gone", http_status=410
    )


def job_error(job: Job) -> ProxyError | None:
    """Return why the job has ended without the answer that it was accepted for.

    Expired and cancelled jobs are 400: this and 406 are the only statuses after which no SDK and no
    wrapper sends a call again, and a job that its caller gave up, or whose result is past its use,
    must not be bought again by a retry.
    """
    match job.state:
        case JobState.EXPIRED:
            message = f"job {job.id} passed its deadline before a provider had begun it"
            return CallerError(message, code="deadline_passed")
        case JobState.CANCELLED:
            return CallerError(f"job {job.id} was cancelled", code="job_cancelled")
        case JobState.FAILED:
            return _failure(job)
        case JobState.QUEUED | JobState.BATCHED | JobState.ESCALATING | JobState.COMPLETED:
            return None
    assert_never(job.state)


def status_url(job_id: JobId) -> str:
    """Return where the job object is."""
    return f"/v1/jobs/{job_id}"


def problem(error: ProxyError) -> ErrorAnswer:
    """Return `error` as a problem document with OpenAI's `error` member inside.

    RFC 9457, section 4.2.1: with `about:blank` the title is the status's own
    phrase; what to match on is `error.code`. The member lets OpenAI's SDKs show
    the message.
    """
    status = error.http_status
    content: dict[str, object] = {
        "type": "about:blank",
        "title": _phrase(status),
        "status": status,
        "detail": error.message,
        "error": openai_error(error),
    }
    headers = [("Content-Type", "application/problem+json")]
    if error.retry_after_s is not None:
        headers.append(("Retry-After", str(error.retry_after_s)))
    return ErrorAnswer(status, tuple(headers), json.dumps(content).encode())


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # A provider's own invention, e.g. Anthropic's 529.
        return f"Status {status}"


def _failure(job: Job) -> ProxyError:
    outcome = job.outcome
    status = outcome.status_code if outcome is not None else None
    code = outcome.error_code if outcome is not None else None
    message = outcome.error_message if outcome is not None else None
    if message is None:
        answered = "gave no answer" if status is None else f"answered {status}"
        message = f"job {job.id} failed: the provider {answered}"
    error = ProviderError(message, code=code, status_code=status)
    if status is not None and status >= 400:
        error.http_status = status
    return error


def _response_status(state: JobState) -> str:
    match state:
        case JobState.QUEUED:
            return "queued"
        case JobState.FAILED | JobState.EXPIRED:
            return "failed"
        case JobState.CANCELLED:
            return "cancelled"
        case JobState.BATCHED | JobState.ESCALATING | JobState.COMPLETED:
            return "in_progress"
    assert_never(state)


def _batch_member(job: Job, batch: Batch | None) -> dict[str, object] | None:
    if job.batch_id is None:
        return None
    known = batch if batch is not None and batch.id == job.batch_id else None
    return {
        "id": job.batch_id,
        "provider_batch_id": known.provider_batch_id if known else None,
        "status": known.state.value if known else None,
    }


def _result_member(job: Job) -> dict[str, object] | None:
    if job.outcome is None or job.outcome.status_code is None:
        return None
    return {"status_code": job.outcome.status_code, "url": f"{status_url(job.id)}/result"}


def _unix(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
