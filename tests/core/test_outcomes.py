"""What each answer means for a job."""

from datetime import timedelta

import pytest

from proxy.core.choice import LaneFacts
from proxy.core.errors import CREDENTIAL_CODES
from proxy.core.job import Failed, JobState, Released, Succeeded, advance
from proxy.core.lanes import Lane
from proxy.core.outcomes import (
    MAX_BATCH_FAILURES,
    MAX_FAILURES,
    Answer,
    Verdict,
    after_answer,
    backoff,
    next_lane,
    verdict,
)
from tests.helpers.factories import T0, make_job

FACTS = LaneFacts(has_batch=True)


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (200, None, Verdict.SUCCESS),
        (201, None, Verdict.SUCCESS),
        (299, "insufficient_quota", Verdict.SUCCESS),
        (300, None, Verdict.PERMANENT),
        (400, None, Verdict.PERMANENT),
        (400, "billing_hard_limit_reached", Verdict.CREDENTIAL),
        (401, None, Verdict.CREDENTIAL),
        (402, "402", Verdict.CREDENTIAL),
        (403, "model_not_allowed", Verdict.CREDENTIAL),
        (403, "model_not_found", Verdict.PERMANENT),
        (403, "input_flagged", Verdict.PERMANENT),
        (503, "model_not_found", Verdict.TRANSIENT),
        (404, "model_not_found", Verdict.PERMANENT),
        (408, None, Verdict.TRANSIENT),
        (409, None, Verdict.TRANSIENT),
        (413, None, Verdict.PERMANENT),
        (422, None, Verdict.PERMANENT),
        (425, None, Verdict.TRANSIENT),
        (429, "rate_limit_exceeded", Verdict.BUSY),
        (498, "capacity_exceeded", Verdict.BUSY),
        (499, "CANCELLED", Verdict.TRANSIENT),
        (429, "insufficient_quota", Verdict.CREDENTIAL),
        (500, None, Verdict.TRANSIENT),
        (503, "overloaded_error", Verdict.TRANSIENT),
        (529, None, Verdict.TRANSIENT),
        (0, None, Verdict.TRANSIENT),
    ],
)
def test_what_a_status_and_a_code_mean(status: int, code: str | None, meaning: Verdict) -> None:
    assert verdict(status, code) is meaning


@pytest.mark.parametrize("code", sorted(CREDENTIAL_CODES))
@pytest.mark.parametrize("status", [400, 402, 429, 500])
def test_a_code_of_the_account_pauses_the_lane_whatever_its_status(status, code) -> None:
    assert verdict(status, code) is Verdict.CREDENTIAL


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"error": {"code": "a", "type": "b"}}, "a"),
        ({"error": {"code": None, "type": "b"}}, "b"),
        ({"error": {"code": 429}}, "429"),
        ({"error": {}}, None),
        ({"error": "text"}, None),
        ({"type": "error"}, None),
        (["error"], None),
        (None, None),
    ],
)
def test_the_code_of_an_error_is_read_wherever_a_provider_puts_it(content, code) -> None:
    assert Answer(status=400, content=content).error_code == code


def test_a_success_leaves_its_usage_on_the_record() -> None:
    outcome = Answer(status=200, content={"usage": {"total_tokens": 3}}).outcome()

    assert (outcome.status_code, outcome.usage) == (200, {"total_tokens": 3})
    assert (outcome.error_code, outcome.error_message) == (None, None)


def test_an_error_leaves_its_status_and_code_on_the_record() -> None:
    outcome = Answer(status=400, content={"error": {"code": "bad"}}).outcome()

    assert (outcome.status_code, outcome.error_code) == (400, "bad")
    assert outcome.error_message == "the provider answered 400"
    assert Answer(status=502, content=None).outcome().usage is None


def test_an_error_within_a_list_of_one_is_read() -> None:
    """As Gemini's OpenAI API answers."""
    envelope = {"error": {"code": "insufficient_quota"}}

    assert Answer(status=429, content=[envelope]).error_code == "insufficient_quota"
    assert Answer(status=429, content=[envelope, envelope]).error_code is None
    assert Answer(status=429, content=[]).error_code is None


def answered(job, status, code=None, *, retry_after=None):
    content = {"error": {"code": code}} if code else None
    return after_answer(
        job,
        1,
        Answer(status=status, content=content),
        facts=lambda: FACTS,
        now=T0,
        retry_after=retry_after,
    )


def test_a_success_ends_the_job() -> None:
    event = answered(make_job(), 200)

    assert isinstance(event, Succeeded)
    assert (event.attempt, event.at, event.outcome.status_code) == (1, T0, 200)


@pytest.mark.parametrize("status", [200, 400])
def test_an_end_asks_for_no_facts(status) -> None:
    def facts() -> LaneFacts:
        raise AssertionError("they are dear, and a batch has fifty thousand ends")

    answer = Answer(status=status, content={})

    event = after_answer(make_job(), 1, answer, facts=facts, now=T0)

    assert isinstance(event, Succeeded | Failed)


def test_a_permanent_error_ends_the_job_with_the_providers_answer() -> None:
    event = answered(make_job(), 400, "bad")

    assert isinstance(event, Failed)
    assert (event.outcome.status_code, event.outcome.error_code) == (400, "bad")


def test_a_transient_error_in_a_batch_is_tried_in_another_one_after_a_pause() -> None:
    event = answered(make_job(), 500, "server_error")

    assert isinstance(event, Released)
    assert (event.attempt, event.reason) == (1, "500 server_error")
    assert event.not_before == T0 + timedelta(seconds=2)
    assert event.onto is not None
    assert event.onto.lane is Lane.BATCH
    assert not event.uncharged
    assert not event.possible_double


def test_the_third_transient_error_of_a_batch_leads_to_a_direct_call() -> None:
    job, lanes = make_job(), []
    for attempt in range(1, MAX_FAILURES):
        event = answered(job, 500)
        assert isinstance(event, Released)
        running = make_job(state=JobState.BATCHED, attempt=attempt, failures=job.failures)
        job = advance(running, Released(attempt, event.reason, onto=event.onto))
        lanes.append(job.lane)

    assert lanes[: MAX_BATCH_FAILURES - 1] == [Lane.BATCH] * (MAX_BATCH_FAILURES - 1)
    assert set(lanes[MAX_BATCH_FAILURES - 1 :]) == {Lane.INTERACTIVE}
    assert isinstance(answered(job, 500), Failed)


@pytest.mark.parametrize("status", [0, 408, 500, 503])
def test_the_last_transient_error_is_the_jobs_answer(status: int) -> None:
    spent = make_job(failures=MAX_FAILURES - 1)

    event = answered(spent, status)

    assert isinstance(event, Failed)
    assert event.outcome.status_code == status
    assert isinstance(answered(make_job(failures=MAX_FAILURES - 2), status), Released)


@pytest.mark.parametrize("failures", [0, 6, 50])
def test_neither_a_busy_provider_nor_a_paused_account_ever_ends_a_job(failures: int) -> None:
    job = make_job(failures=failures, lane=Lane.INTERACTIVE)

    for status, code in ((429, None), (401, None), (429, "insufficient_quota")):
        event = answered(job, status, code)
        assert isinstance(event, Released)
        assert event.uncharged


def test_a_line_refused_for_its_rate_counts_so_that_it_leaves_the_batches() -> None:
    event = answered(make_job(failures=MAX_BATCH_FAILURES - 1), 429)

    assert isinstance(event, Released)
    assert not event.uncharged
    assert event.onto is not None
    assert event.onto.lane is Lane.INTERACTIVE


def test_a_paused_accounts_line_stays_in_its_lane() -> None:
    event = answered(make_job(failures=MAX_BATCH_FAILURES - 1), 401)

    assert isinstance(event, Released)
    assert event.onto is not None
    assert event.onto.lane is Lane.BATCH


@pytest.mark.parametrize(("retry_after_s", "pause_s"), [(None, 2), (1, 2), (20, 20), (86_400, 300)])
def test_a_provider_may_ask_for_a_longer_pause_within_reason(retry_after_s, pause_s) -> None:
    wish = None if retry_after_s is None else timedelta(seconds=retry_after_s)

    event = answered(make_job(), 503, retry_after=wish)

    assert isinstance(event, Released)
    assert event.not_before == T0 + timedelta(seconds=pause_s)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after_s", "pause_s"), [(None, 60), (20, 60), (120, 120), (86_400, 300)]
)
def test_a_tier_that_is_full_is_asked_again_after_a_pause_and_at_no_cost(
    status: int, retry_after_s: int | None, pause_s: int
) -> None:
    job = make_job(lane=Lane.FLEX, failures=MAX_FAILURES - 1)
    wish = None if retry_after_s is None else timedelta(seconds=retry_after_s)

    event = after_answer(
        job,
        1,
        Answer(status=status, content={}),
        facts=lambda: LaneFacts(has_batch=False, has_flex=True),
        now=T0,
        retry_after=wish,
    )

    not_before = T0 + timedelta(seconds=pause_s)
    assert event == Released(1, str(status), not_before=not_before, uncharged=True)


@pytest.mark.parametrize("content", [None, [], {"error": None}])
def test_a_tier_that_refuses_a_call_without_words_leaves_it_to_an_ordinary_one(content) -> None:
    job = make_job(lane=Lane.FLEX)

    event = after_answer(job, 1, Answer(status=400, content=content), facts=lambda: FACTS, now=T0)

    assert isinstance(event, Released)
    assert event.onto is not None
    assert (event.onto.lane, event.uncharged) == (Lane.INTERACTIVE, True)


def test_pauses_double_up_to_five_minutes() -> None:
    pauses = [backoff(n).total_seconds() for n in (1, 2, 3, 8, 9, 1_000)]

    assert pauses == [2, 4, 8, 256, 300, 300]


def test_a_job_that_left_the_batches_stays_out_with_its_reason() -> None:
    job = make_job(lane=Lane.INTERACTIVE, lane_reason="its line failed the validation of a batch")

    choice = next_lane(job, FACTS, now=T0, failed=False)

    assert (choice.lane, choice.reason) == (Lane.INTERACTIVE, job.lane_reason)


def test_a_failed_job_says_how_often_it_failed_before() -> None:
    choice = next_lane(make_job(failures=2), FACTS, now=T0, failed=True)

    assert (choice.lane, choice.reason) == (Lane.INTERACTIVE, "failed 3 times before")


def test_a_job_whose_deadline_came_near_meanwhile_leaves_the_batches() -> None:
    job = make_job(deadline=T0 + timedelta(minutes=10))

    assert next_lane(job, FACTS, now=T0, failed=False).lane is Lane.INTERACTIVE
