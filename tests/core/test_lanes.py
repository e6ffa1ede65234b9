"""Which lane makes a deadline, and when a batch must stop for it."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.lanes import (
    Lane,
    LaneFacts,
    LaneTimes,
    cancel_at,
    choose_lane,
    disown_at,
    format_duration,
)
from tests.helpers.factories import T0

TIMES = LaneTimes()
FACTS = LaneFacts(has_batch=True)


def test_a_far_deadline_takes_the_batch_and_says_how_far() -> None:
    choice = choose_lane(T0 + timedelta(hours=26), FACTS, now=T0)

    assert (choice.lane, choice.reason) == (Lane.BATCH, "1d2h to the deadline")


def test_the_least_slack_of_a_batch_holds_its_cancellation_and_a_call() -> None:
    times = LaneTimes(
        cancel=timedelta(minutes=20), call=timedelta(minutes=3), margin=timedelta(minutes=1)
    )

    assert times.batch_slack == timedelta(minutes=24)


@pytest.mark.parametrize(
    ("extra", "lane"),
    [(timedelta(0), Lane.INTERACTIVE), (timedelta(seconds=1), Lane.BATCH)],
)
def test_a_job_enters_a_batch_only_with_more_than_the_least_slack(extra, lane) -> None:
    choice = choose_lane(T0 + TIMES.batch_slack + extra, FACTS, now=T0)

    assert choice.lane is lane


def test_a_near_deadline_is_the_reason_of_a_direct_call() -> None:
    choice = choose_lane(T0 + timedelta(minutes=5), FACTS, now=T0)

    assert choice.reason == "5m to the deadline; a batch needs more than 33m"


def test_a_call_that_would_be_alone_in_its_batch_is_made_directly() -> None:
    choice = choose_lane(T0 + timedelta(days=2), LaneFacts(has_batch=True, alone=True), now=T0)

    assert choice.lane is Lane.INTERACTIVE
    assert "one call at a time" in choice.reason


def test_without_a_batch_api_there_is_only_the_direct_call() -> None:
    choice = choose_lane(T0 + timedelta(days=2), LaneFacts(has_batch=False), now=T0)

    assert choice.lane is Lane.INTERACTIVE
    assert "no batch API" in choice.reason


def test_a_refused_model_is_called_directly_until_it_may_be_tried_again() -> None:
    facts = LaneFacts(has_batch=True, unbatchable_until=T0 + timedelta(hours=1))
    deadline = T0 + timedelta(days=2)

    assert choose_lane(deadline, facts, now=T0).lane is Lane.INTERACTIVE
    assert choose_lane(deadline, facts, now=T0 + timedelta(hours=1)).lane is Lane.BATCH


def test_a_batch_stops_early_enough_for_its_remainder() -> None:
    times = LaneTimes(
        cancel=timedelta(minutes=30),
        call=timedelta(minutes=1),
        margin=timedelta(minutes=2),
        calls_per_s=10,
    )

    assert cancel_at(T0, 6_000, times) == T0 - timedelta(minutes=30 + 1 + 2 + 10)


@given(st.integers(0, 100_000), st.integers(0, 100_000))
@settings(max_examples=30)
def test_more_to_call_never_stops_a_batch_later(few: int, more: int) -> None:
    few, more = sorted((few, more))

    assert cancel_at(T0, more, TIMES) <= cancel_at(T0, few, TIMES) <= T0 - TIMES.batch_slack


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (timedelta(days=1, hours=2, minutes=3), "1d2h"),
        (timedelta(hours=1, minutes=30), "1h30m"),
        (timedelta(hours=1, seconds=5), "1h5s"),
        (timedelta(seconds=59, microseconds=999_999), "59s"),
        (timedelta(milliseconds=10), "0s"),
        (timedelta(0), "0s"),
        (timedelta(seconds=-5), "0s"),
    ],
)
def test_durations_are_read_in_their_two_largest_units(value: timedelta, text: str) -> None:
    assert format_duration(value) == text


@pytest.mark.parametrize(
    ("slack", "waited"),
    [
        (timedelta(hours=26), timedelta(hours=13)),
        # Of less than twice what direct calls need, that much is kept.
        (timedelta(minutes=50), timedelta(minutes=50) - TIMES.batch_slack),
    ],
)
def test_a_batch_that_may_be_anothers_is_waited_for_over_half_the_slack(slack, waited) -> None:
    assert disown_at(T0, T0 + slack, 0, TIMES) == T0 + waited
