"""When a job will probably have ended."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.choice import LaneFacts
from proxy.core.estimate import FLEX_USUAL, USUAL, completion_at
from proxy.core.ids import InstanceId
from proxy.core.job import Assigned, DeadlinePassed, Escalated, advance
from proxy.core.lanes import Lane
from proxy.core.turnaround import Ended, Turnarounds
from tests.helpers.factories import T0, make_batch, make_job

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def test_a_batch_has_probably_ended_after_its_linger_and_the_median_turnaround() -> None:
    assert completion_at(make_job(), now=T0) == T0 + 8 * MINUTE


def test_what_was_observed_moves_the_estimate() -> None:
    slow = Turnarounds().learn([Ended("openai", "m", T0, 5 * HOUR)] * 40).batch("openai", "m", T0)

    expected = completion_at(make_job(), replace(USUAL, turnaround=slow), now=T0)

    assert expected is not None
    assert T0 + 4 * HOUR < expected < T0 + 6 * HOUR


def test_the_longer_a_batch_takes_the_longer_it_will_still_take() -> None:
    batch = make_batch(submitted_at=T0 + 10 * MINUTE)
    job = advance(make_job(), Assigned(batch.id))

    assert completion_at(job, batch=batch, now=T0 + 10 * MINUTE) == T0 + 17 * MINUTE
    later = completion_at(job, batch=batch, now=T0 + 70 * MINUTE)
    assert later is not None
    assert later > T0 + 2 * HOUR


def test_another_batch_than_the_jobs_tells_nothing_of_it() -> None:
    job = advance(make_job(), Assigned(make_batch().id))

    assert completion_at(job, batch=make_batch(submitted_at=T0 + HOUR), now=T0) == T0 + 8 * MINUTE


@pytest.mark.parametrize(
    ("lane", "facts", "takes"),
    [
        (Lane.INTERACTIVE, USUAL, MINUTE),
        (Lane.INTERACTIVE, replace(USUAL, calls_waiting=600), 2 * MINUTE),
        (Lane.FLEX, USUAL, FLEX_USUAL),
        (Lane.TRICKLE, USUAL, MINUTE),
        (Lane.TRICKLE, replace(USUAL, trickle_s=60.0, trickle_from=T0 + HOUR), HOUR + 2 * MINUTE),
    ],
)
def test_each_lane_has_a_time_of_its_own(lane: Lane, facts: LaneFacts, takes: timedelta) -> None:
    job = make_job(lane=lane)

    assert completion_at(job, facts, now=T0) == T0 + takes
    calling = advance(job, Escalated(InstanceId("one")))
    assert completion_at(calling, facts, now=T0) == T0 + (
        FLEX_USUAL if lane is Lane.FLEX else MINUTE
    )


def test_a_pause_comes_first() -> None:
    job = make_job(lane=Lane.INTERACTIVE, not_before=T0 + HOUR)

    assert completion_at(job, now=T0) == T0 + HOUR + MINUTE
    assert completion_at(job, now=T0 + 2 * HOUR) == T0 + 2 * HOUR + MINUTE


def test_nothing_is_known_of_what_has_ended_or_is_late() -> None:
    job = make_job()

    assert completion_at(advance(job, DeadlinePassed(T0)), now=T0) is None
    assert completion_at(job, now=job.deadline + MINUTE) is None


@given(st.timedeltas(timedelta(0), 26 * HOUR), st.sampled_from(Lane))
def test_an_estimate_lies_between_now_and_the_deadline(age: timedelta, lane: Lane) -> None:
    job = make_job(lane=lane)

    expected = completion_at(job, now=T0 + age)

    assert expected is not None
    assert T0 + age <= expected <= job.deadline
