"""How long lanes take, and when a batch must stop for its deadline."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.lanes import (
    Lane,
    LaneChoice,
    LaneTimes,
    Urgency,
    cancel_at,
    disown_at,
    rough_duration,
)
from tests.helpers.factories import T0, make_key

TIMES = LaneTimes()


def test_the_least_slack_of_a_batch_holds_its_cancellation_and_a_call() -> None:
    times = LaneTimes(
        cancel=timedelta(minutes=20), call=timedelta(minutes=3), margin=timedelta(minutes=1)
    )

    assert times.batch_slack == timedelta(minutes=24)


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


def test_in_the_other_lanes_all_wait_together() -> None:
    choice = LaneChoice(Lane.INTERACTIVE, "near")

    key = choice.key_for(make_key(urgency=Urgency.TIGHT))

    assert key == make_key(lane=Lane.INTERACTIVE)


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
    assert rough_duration(value) == text


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
