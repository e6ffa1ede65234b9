"""What each end of a batch means for the jobs that it left without a result."""

from datetime import timedelta

import pytest

from proxy.core.batch import BatchState
from proxy.core.batch_ends import TOO_LATE, TOO_MANY_TOKENS, UNBATCHABLE_CODES, after_batch
from proxy.core.choice import LaneFacts
from proxy.core.errors import CREDENTIAL_CODES
from proxy.core.job import Released
from proxy.core.lanes import Lane
from proxy.core.outcomes import MAX_BATCH_FAILURES
from tests.helpers.factories import T0, make_batch, make_job

FACTS = LaneFacts(has_batch=True)


def ended(**changes):
    defaults = {"state": BatchState.ENDED, "provider_batch_id": "batch_1", "count": 10}
    return make_batch(**(defaults | changes))


def released(batch, *, job=None, is_bad_line=False, now=T0) -> Released:
    job = job or make_job()
    return after_batch(job, 1, batch, is_bad_line=is_bad_line, facts=FACTS, now=now)


def test_a_batch_that_ran_and_is_silent_about_a_job_may_have_bought_it() -> None:
    event = released(ended(end_reason="completed"))

    assert event.possible_double
    assert (event.uncharged, event.reason) == (False, "completed")
    assert event.onto is not None
    assert event.onto.lane is Lane.BATCH


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (ended(end_reason="its credential is paused", provider_batch_id=None), None),
        (ended(provider_batch_id=None), "no result"),
    ],
)
def test_a_batch_that_was_never_submitted_costs_nothing(batch, reason) -> None:
    event = released(batch)

    assert (event.possible_double, event.uncharged) == (False, True)
    assert event.reason == (reason or batch.end_reason)


def test_the_one_bad_line_is_called_directly_and_the_others_are_not_charged() -> None:
    batch = ended(error_code="invalid_json_line", error_line=3, end_reason="failed")

    bad, other = released(batch, is_bad_line=True), released(batch)

    assert bad.onto is not None
    assert bad.onto.lane is Lane.INTERACTIVE
    assert other.onto is not None
    assert other.onto.lane is Lane.BATCH
    assert other.uncharged
    assert not bad.possible_double
    assert not other.possible_double


@pytest.mark.parametrize("code", sorted(UNBATCHABLE_CODES))
def test_a_model_that_is_not_batched_is_called_directly(code: str) -> None:
    event = released(ended(error_code=code, end_reason="failed"))

    assert event.onto is not None
    assert event.onto.lane is Lane.INTERACTIVE
    assert event.uncharged
    assert not event.possible_double


@pytest.mark.parametrize("code", [TOO_MANY_TOKENS, *sorted(CREDENTIAL_CODES)])
def test_a_refusal_that_is_no_fault_of_the_jobs_only_lets_them_wait(code: str) -> None:
    event = released(
        ended(error_code=code, end_reason="failed"), job=make_job(failures=MAX_BATCH_FAILURES - 1)
    )

    assert event.onto is not None
    assert event.onto.lane is Lane.BATCH
    assert event.uncharged
    assert event.reason == code


@pytest.mark.parametrize("code", ["batch_expired", "batch_cancelled"])
def test_a_batch_that_never_ran_is_no_fault_of_its_jobs_and_no_double(code: str) -> None:
    event = released(ended(error_code=code, end_reason="expired"))

    assert event.uncharged
    assert not event.possible_double


def test_a_refusal_that_is_not_understood_ends_in_a_direct_call() -> None:
    strange = ended(error_code="strange", end_reason="failed")

    first = released(strange)
    last = released(strange, job=make_job(failures=MAX_BATCH_FAILURES - 1))

    assert not first.uncharged
    assert first.onto is not None
    assert first.onto.lane is Lane.BATCH
    assert last.onto is not None
    assert last.onto.lane is Lane.INTERACTIVE


def lane_after(batch, **changes) -> Lane:
    onto = released(batch, **changes).onto
    assert onto is not None
    return onto.lane


def test_of_a_batch_that_was_too_late_only_the_urgent_jobs_leave_the_lane() -> None:
    """With 36,000 jobs, an hour of direct calls is kept free before a deadline."""
    late = ended(end_reason=TOO_LATE, provider_batch_id=None, count=36_000)
    urgent = make_job(deadline=T0 + timedelta(minutes=93))
    patient = make_job(deadline=T0 + timedelta(minutes=94))

    assert lane_after(late, job=urgent) is Lane.INTERACTIVE
    assert lane_after(late, job=patient) is Lane.BATCH
    assert released(late, job=urgent).uncharged
    other_reason = ended(end_reason="its credential is paused", provider_batch_id=None)
    assert lane_after(other_reason, job=urgent) is Lane.BATCH
