"""The shapes in which a job is shown, field by field."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from openai.types.responses import Response

from proxy.core.errors import CallerError, JobNotFoundError, OverloadedError, ProviderError
from proxy.core.ids import InstanceId
from proxy.core.job import (
    Assigned,
    CancelRequested,
    DeadlinePassed,
    Escalated,
    Failed,
    Job,
    JobEvent,
    JobState,
    Outcome,
    Succeeded,
    advance,
)
from proxy.core.lanes import Lane
from proxy.core.prices import Cost
from proxy.web.answering.job_object import (
    job_error,
    job_object,
    pending_response,
    problem,
    retry_after_s,
)
from tests.helpers.factories import T0, make_batch, make_job

T0_UNIX = 1_795_435_200
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DEADLINE = timedelta(hours=26)
ANSWERED = Outcome(200, usage={"total_tokens": 8})


def in_state(state: JobState, *, at: datetime = T0 + HOUR) -> Job:
    """Return a job that came into `state` by its own table."""
    job = make_job()
    batch = make_batch()
    events: dict[JobState, tuple[JobEvent, ...]] = {
        JobState.QUEUED: (),
        JobState.BATCHED: (Assigned(batch.id),),
        JobState.ESCALATING: (Escalated(InstanceId("i")),),
        JobState.COMPLETED: (Assigned(batch.id), Succeeded(1, at, ANSWERED)),
        JobState.FAILED: (Failed(0, at, Outcome(429, "rate_limited", "too fast")),),
        JobState.EXPIRED: (DeadlinePassed(at),),
        JobState.CANCELLED: (CancelRequested(at),),
    }
    for event in events[state]:
        job = advance(job, event)
    assert job.state is state
    return job


def shown(job: Job, *, now: datetime = T0, **options: Any) -> dict[str, Any]:
    return job_object(job, now=now, **options)


def test_a_queued_job_shows_every_field_and_null_for_what_is_unknown():
    job = make_job(tags={"team": "etl"})

    assert shown(job) == {
        "id": job.id,
        "object": "deferrable.job",
        "status": "queued",
        "created_at": T0_UNIX,
        "deadline": T0_UNIX + 26 * 3600,
        "deadline_missed": False,
        "estimated_completion_at": T0_UNIX + 8 * 60,
        "finalized_at": None,
        "upstream": "openai",
        "endpoint": "/v1/chat/completions",
        "model": "gpt-4o-mini",
        "lane": {"name": "batch", "reason": "26h to the deadline"},
        "trouble": None,
        "decided_by": "header",
        "tags": {"team": "etl"},
        "batch": None,
        "result": None,
        "usage": None,
        "cost": {"list_usd": None, "paid_usd": None, "saved_usd": None},
        "error": None,
    }


@pytest.mark.parametrize("state", list(JobState))
def test_only_what_has_not_ended_waits_for_anything(state):
    told = shown(in_state(state), trouble="no answer")["trouble"]

    assert told == (None if state.is_terminal else "no answer")


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (JobState.QUEUED, "queued"),
        (JobState.BATCHED, "in_progress"),
        (JobState.ESCALATING, "in_progress"),
        (JobState.COMPLETED, "completed"),
        (JobState.FAILED, "failed"),
        (JobState.EXPIRED, "expired"),
        (JobState.CANCELLED, "cancelled"),
    ],
)
def test_every_state_has_its_public_status(state, status):
    job = in_state(state)

    assert shown(job)["status"] == status
    assert (shown(job)["finalized_at"] is not None) == state.is_terminal
    assert json.loads(json.dumps(shown(job))) == shown(job)


def test_a_completed_job_shows_its_result_its_usage_and_no_error():
    job = in_state(JobState.COMPLETED)

    content: dict[str, Any] = job_object(job, now=T0 + HOUR)

    assert content["result"] == {"status_code": 200, "url": f"/v1/jobs/{job.id}/result"}
    assert content["usage"] == {"total_tokens": 8}
    assert content["finalized_at"] == T0_UNIX + 3600
    assert content["estimated_completion_at"] is None
    assert content["error"] is None


def test_a_failed_job_shows_the_providers_error_and_its_result():
    content = shown(in_state(JobState.FAILED))

    assert content["error"] == {"code": "rate_limited", "message": "too fast"}
    assert content["result"]["status_code"] == 429


@pytest.mark.parametrize(
    ("state", "code"),
    [(JobState.EXPIRED, "deadline_passed"), (JobState.CANCELLED, "job_cancelled")],
)
def test_a_job_that_ended_without_an_answer_says_why_and_has_no_result(state, code):
    content = shown(in_state(state))

    assert content["error"]["code"] == code
    assert content["result"] is None


def test_a_failure_of_which_nothing_is_known_still_says_so():
    job = advance(make_job(), Failed(0, T0, Outcome(None)))

    error = job_error(job)

    assert error is not None
    assert (error.code, error.http_status) == ("provider_error", 502)
    assert "gave no answer" in error.message
    assert shown(job)["result"] is None


def test_a_batched_job_names_its_batch_and_what_is_known_of_it():
    batch = make_batch(provider_batch_id="batch_7")
    job = advance(make_job(), Assigned(batch.id))

    assert shown(job)["batch"] == {"id": batch.id, "provider_batch_id": None, "status": None}
    assert shown(job, batch=batch)["batch"] == {
        "id": batch.id,
        "provider_batch_id": "batch_7",
        "status": "filling",
    }
    assert shown(job, batch=make_batch(provider_batch_id="other"))["batch"]["status"] is None


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.BATCHED, JobState.ESCALATING])
def test_a_job_in_flight_past_its_deadline_has_missed_it(state):
    job = in_state(state)

    assert shown(job, now=T0 + DEADLINE)["deadline_missed"] is False
    assert shown(job, now=T0 + DEADLINE + MINUTE)["deadline_missed"] is True


def test_an_ended_job_has_missed_its_deadline_only_if_it_ended_after_it():
    later = T0 + 40 * HOUR

    assert shown(in_state(JobState.COMPLETED), now=later)["deadline_missed"] is False
    late = in_state(JobState.COMPLETED, at=T0 + DEADLINE + MINUTE)
    assert shown(late, now=later)["deadline_missed"] is True


@pytest.mark.parametrize(
    ("job", "now", "pause_s"),
    [
        (make_job(), T0, 48),
        (make_job(), T0 + 9 * MINUTE, 60),
        (make_job(), T0 + 30 * MINUTE, 60),
        (make_job(), T0 + DEADLINE + MINUTE, 5),
        (make_job(lane=Lane.INTERACTIVE), T0, 6),
        (in_state(JobState.COMPLETED), T0, None),
    ],
)
def test_the_pause_between_questions_follows_the_estimate(job, now, pause_s):
    assert retry_after_s(job, now=now) == pause_s


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (JobState.QUEUED, "queued"),
        (JobState.BATCHED, "in_progress"),
        (JobState.ESCALATING, "in_progress"),
        (JobState.COMPLETED, "in_progress"),
        (JobState.FAILED, "failed"),
        (JobState.EXPIRED, "failed"),
        (JobState.CANCELLED, "cancelled"),
    ],
)
def test_the_pending_response_is_one_to_the_sdks_strictest_reading(state, status):
    job = in_state(state)

    response = Response.model_validate_json(json.dumps(pending_response(job)), strict=True)

    assert (response.id, response.status, response.background) == (job.id, status, True)
    assert response.output == []
    assert (response.error is not None) == (status == "failed")


def test_a_problem_is_a_problem_document_and_an_openai_error():
    answer = problem(CallerError("limit must be 1 to 100", param="limit"))

    assert answer.status == 400
    assert dict(answer.headers)["Content-Type"] == "application/problem+json"
    assert json.loads(answer.body) == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "limit must be 1 to 100",
        "error": {
            "message": "limit must be 1 to 100",
            "type": "invalid_request_error",
            "param": "limit",
            "code": "invalid_request",
        },
    }


def test_a_problem_tells_when_to_come_again():
    answer = problem(OverloadedError("full", retry_after_s=7))

    assert dict(answer.headers)["Retry-After"] == "7"


def test_a_problem_with_a_status_of_a_providers_own_is_no_crash():
    error = ProviderError("overloaded")
    error.http_status = 529

    assert json.loads(problem(error).body)["title"] == "Status 529"
    assert problem(JobNotFoundError("job_x")).status == 404


def test_the_cost_is_that_of_the_answer_in_dollars():
    cost = Cost(list_nano=10_000_000, paid_nano=5_000_000)
    job = make_job(state=JobState.COMPLETED, finalized_at=T0, outcome=Outcome(200, cost=cost))

    shown = job_object(job, now=T0)

    assert shown["cost"] == {"list_usd": 0.01, "paid_usd": 0.005, "saved_usd": 0.005}
