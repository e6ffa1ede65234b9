"""The life of a job: every pair of the table, and what holds after any history."""

from dataclasses import fields, replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.ids import BatchId, InstanceId
from proxy.core.job import (
    ENDED,
    STALE,
    TERMINAL,
    TRANSITIONS,
    Assigned,
    CancelRequested,
    DeadlinePassed,
    Escalated,
    Failed,
    InvalidTransitionError,
    Job,
    JobEvent,
    JobState,
    Outcome,
    Released,
    Rerouted,
    Stale,
    Succeeded,
    advance,
)
from proxy.core.lanes import Lane, LaneChoice
from tests.helpers.factories import T0, make_job

OK = Outcome(200)
BAD = Outcome(400, "invalid", "the provider answered 400")
DIRECTLY = LaneChoice(Lane.INTERACTIVE, "near")

EVENTS: dict[type[JobEvent], JobEvent] = {
    Assigned: Assigned(BatchId("b1")),
    Escalated: Escalated(InstanceId("i1")),
    Released: Released(1, "expired"),
    Rerouted: Rerouted(DIRECTLY),
    Succeeded: Succeeded(1, T0, OK),
    Failed: Failed(1, T0, BAD),
    DeadlinePassed: DeadlinePassed(T0),
    CancelRequested: CancelRequested(T0),
}


def in_state(state: JobState) -> Job:
    """Return a job in `state` whose attempt is the first, so that the examples meet it."""
    return make_job(state=state, attempt=1, finalized_at=T0 if state in TERMINAL else None)


def batched(batch_id: str = "b1", **changes) -> Job:
    return advance(make_job(**changes), Assigned(BatchId(batch_id)))


def escalating(**changes) -> Job:
    return advance(make_job(**changes), Escalated(InstanceId("i1")))


def test_every_state_has_a_row_and_every_event_an_example() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert set(EVENTS) == set(JobEvent.__args__)


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("kind", EVENTS)
def test_the_table_knows_every_pair_and_a_job_follows_it(
    state: JobState, kind: type[JobEvent]
) -> None:
    before = in_state(state)

    after = advance(before, EVENTS[kind])

    expected = TRANSITIONS[state][kind]
    if isinstance(expected, Stale):
        assert after is before
    else:
        assert after.state is expected
        assert after.version == before.version + 1


@pytest.mark.parametrize(
    ("state", "moves"),
    [
        (
            JobState.QUEUED,
            {
                Assigned: JobState.BATCHED,
                Escalated: JobState.ESCALATING,
                Rerouted: JobState.QUEUED,
                DeadlinePassed: JobState.EXPIRED,
                CancelRequested: JobState.CANCELLED,
                Succeeded: JobState.COMPLETED,
                Failed: JobState.FAILED,
            },
        ),
        (
            JobState.BATCHED,
            {
                Released: JobState.QUEUED,
                CancelRequested: JobState.CANCELLED,
                Succeeded: JobState.COMPLETED,
                Failed: JobState.FAILED,
            },
        ),
        (
            JobState.ESCALATING,
            {
                Released: JobState.QUEUED,
                CancelRequested: JobState.CANCELLED,
                Succeeded: JobState.COMPLETED,
                Failed: JobState.FAILED,
            },
        ),
    ],
)
def test_a_job_moves_by_these_events_only(state, moves) -> None:
    row = TRANSITIONS[state]

    assert {kind: to for kind, to in row.items() if to is not STALE} == moves


@pytest.mark.parametrize("state", TERMINAL)
@pytest.mark.parametrize("event", EVENTS.values(), ids=lambda event: type(event).__name__)
def test_nothing_moves_a_job_that_ended(state: JobState, event: JobEvent) -> None:
    job = in_state(state)

    assert state.is_terminal
    assert advance(job, event) is job


def test_a_pair_that_is_not_in_the_table_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TRANSITIONS[JobState.QUEUED], Released)
    job = make_job()

    with pytest.raises(InvalidTransitionError, match=f"Released cannot reach job {job.id}"):
        advance(job, EVENTS[Released])


def test_an_assigned_job_has_a_batch_and_a_new_attempt() -> None:
    job = batched("b7", attempt=2)

    assert (job.state, job.batch_id, job.attempt) == (JobState.BATCHED, "b7", 3)


def test_an_escalated_job_says_who_calls_and_waits_no_more() -> None:
    job = escalating(attempt=2, not_before=T0)

    assert (job.state, job.holder, job.attempt) == (JobState.ESCALATING, "i1", 3)
    assert job.not_before is None


def test_a_released_job_keeps_its_attempts_and_loses_batch_and_holder() -> None:
    later = T0 + timedelta(seconds=4)
    for job in (batched(), escalating()):
        after = advance(job, Released(1, "503", not_before=later))

        assert after.state is JobState.QUEUED
        assert (after.batch_id, after.holder) == (None, None)
        assert (after.attempt, after.failures, after.possible_doubles) == (1, 1, 0)
        assert (after.not_before, after.last_reason) == (later, "503")


def test_a_release_without_a_lane_keeps_the_lane() -> None:
    before = batched()

    after = advance(before, Released(1, "expired"))

    assert (after.key, after.lane, after.lane_reason) == (
        before.key,
        before.lane,
        before.lane_reason,
    )


def test_an_uncharged_release_is_no_failure() -> None:
    assert advance(batched(), Released(1, "401", uncharged=True)).failures == 0


def test_a_release_of_unknown_outcome_is_counted_on_the_job() -> None:
    job = batched(possible_doubles=1)

    assert advance(job, Released(1, "lost", possible_double=True)).possible_doubles == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda: advance(make_job(), Rerouted(DIRECTLY)),
        lambda: advance(batched(), Released(1, "expired", onto=DIRECTLY)),
    ],
)
def test_another_lane_is_another_queue(change) -> None:
    job = change()

    assert job.lane is job.key.lane is Lane.INTERACTIVE
    assert job.lane_reason == "near"


@pytest.mark.parametrize("job", [batched(attempt=3), escalating(attempt=3)])
@pytest.mark.parametrize("event", [EVENTS[Released], EVENTS[Failed]])
def test_the_bad_end_of_an_old_attempt_disturbs_no_new_one(job: Job, event: JobEvent) -> None:
    assert advance(job, event) is job


@pytest.mark.parametrize("job", [make_job(attempt=3), batched(attempt=3), escalating(attempt=3)])
def test_a_late_success_of_an_old_attempt_is_a_result_all_the_same(job: Job) -> None:
    after = advance(job, Succeeded(1, T0, OK))

    assert after.state is JobState.COMPLETED
    assert after.answered_by == 1
    assert after.outcome is OK
    assert after.holder is None


def test_a_late_batch_result_does_not_replace_the_escalated_one() -> None:
    answered = advance(escalating(attempt=1), Succeeded(2, T0, OK))

    assert advance(answered, Succeeded(1, T0, Outcome(200))) is answered
    assert answered.answered_by == 2


def test_a_failed_job_keeps_why_and_no_attempt_answered_it() -> None:
    after = advance(batched(), Failed(1, T0, BAD))

    assert (after.state, after.finalized_at, after.outcome) == (JobState.FAILED, T0, BAD)
    assert after.answered_by is None


@pytest.mark.parametrize("event", [DeadlinePassed(T0), CancelRequested(T0)])
def test_a_job_that_ends_without_an_answer_has_only_a_time(event: JobEvent) -> None:
    after = advance(make_job(), event)

    assert after.finalized_at == T0
    assert (after.outcome, after.answered_by, after.holder) == (None, None, None)


def test_a_cancelled_call_is_nobodys_any_more_and_may_be_paid() -> None:
    after = advance(escalating(), CancelRequested(T0))

    assert (after.holder, after.possible_doubles) == (None, 1)
    assert advance(make_job(), CancelRequested(T0)).possible_doubles == 0


def test_a_deadline_is_missed_only_by_an_end_after_it() -> None:
    job = make_job(deadline=T0)

    assert not job.deadline_missed
    assert not replace(job, finalized_at=T0).deadline_missed
    assert replace(job, finalized_at=T0 + timedelta(microseconds=1)).deadline_missed


attempts = st.integers(0, 4)
histories = st.lists(
    st.one_of(
        st.sampled_from(list(EVENTS.values())),
        st.builds(
            Released,
            attempts,
            st.just("x"),
            possible_double=st.booleans(),
            uncharged=st.booleans(),
            onto=st.sampled_from([None, DIRECTLY]),
        ),
        st.builds(Succeeded, attempts, st.just(T0), st.just(OK)),
        st.builds(Failed, attempts, st.just(T0), st.just(BAD)),
    ),
    max_size=12,
)


@given(histories)
@settings(max_examples=60)
def test_invariants_hold_after_any_history(history: list[JobEvent]) -> None:
    job = make_job()
    for event in history:
        after = advance(job, event)

        assert after.version - job.version == (after is not job)
        assert after.attempt - job.attempt == (
            after is not job and isinstance(event, Assigned | Escalated)
        )
        assert after.failures >= job.failures
        assert after.possible_doubles >= job.possible_doubles
        assert (after.finalized_at is not None) == after.state.is_terminal
        assert not job.state.is_terminal or after is job
        assert after.state is not JobState.BATCHED or after.batch_id is not None
        assert (after.holder is not None) == (after.state is JobState.ESCALATING)
        assert (after.outcome is not None) == (after.state in (JobState.COMPLETED, JobState.FAILED))
        assert (after.answered_by is not None) == (after.state is JobState.COMPLETED)
        assert after.key.lane is after.lane
        job = after


@pytest.mark.parametrize("state", [one for one in JobState if one not in TERMINAL])
@pytest.mark.parametrize("event", EVENTS.values(), ids=lambda event: type(event).__name__)
def test_an_end_by_an_answer_changes_no_field_that_is_not_named(state, event):
    before = make_job(state=state, attempt=1, holder=InstanceId("i1"), batch_id=BatchId("b1"))

    after = advance(before, event) if type(event) in TRANSITIONS[state] else before

    if after.outcome is not None:
        differing = {
            field.name
            for field in fields(Job)
            if getattr(before, field.name) != getattr(after, field.name)
        }
        assert differing <= ENDED


def test_a_claim_changes_no_field_that_an_end_does_not_write():
    before, after = make_job(), batched()

    assert {
        field.name
        for field in fields(Job)
        if getattr(before, field.name) != getattr(replace(after, id=before.id), field.name)
    } <= ENDED
