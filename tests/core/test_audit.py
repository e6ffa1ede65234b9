"""Whether anybody waits, told from arrivals alone."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from proxy.core.audit import (
    BURST_CALLS,
    CALLS_MIN,
    NIGHTS_MIN,
    PARALLEL_MIN,
    Arrival,
    Opinion,
    at_night,
    opinion,
)

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
WEEK = timedelta(days=7)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


def calls(
    times: Iterable[datetime], *, duration: timedelta = SECOND, **fields: Any
) -> list[Arrival]:
    return [Arrival(at, duration, **fields) for at in sorted(times)]


def burst(at: datetime, count: int, *, every: timedelta = SECOND) -> list[datetime]:
    return [at + number * every for number in range(count)]


def judged(found: list[Arrival]) -> Opinion:
    return opinion(found, span=WEEK, zone=UTC)


def nightly(*, days: int = 5, count: int = 100, hour: int = 2) -> list[datetime]:
    return [at for day in range(days) for at in burst(MONDAY + day * DAY + hour * HOUR, count)]


def test_bursts_at_night_by_the_clock_are_nobodys():
    found = judged(calls(nightly()))

    assert found.nobody_waits
    assert found.reasons == (
        "100% of calls in 5 bursts",
        "100% of calls at night",
        "every day at 02:00",
    )


def test_bursts_by_day_need_another_sign():
    starts = [MONDAY + day * DAY + hour * HOUR for day, hour in ((0, 9), (1, 14), (3, 11))]
    times = [at for start in starts for at in burst(start, 100)]

    assert not judged(calls(times)).nobody_waits
    assert judged(calls(times, duration=PARALLEL_MIN * SECOND * 1.5)).nobody_waits
    retried = [
        Arrival(one.at, one.duration, is_retry=number % 10 == 0)
        for number, one in enumerate(calls(times))
    ]
    assert judged(retried).nobody_waits


@pytest.mark.parametrize("fields", [{"streams": True}, {"has_tools": True}])
def test_streams_and_loops_with_tools_are_waited_for_whenever_they_come(fields):
    assert not judged(calls(nightly(), **fields)).nobody_waits


def test_a_few_calls_prove_nothing():
    few = judged(calls(nightly(days=1, count=CALLS_MIN - 1)))
    one = judged(calls(nightly(days=1, count=1)))

    assert not few.nobody_waits
    assert (few.reasons, one.reasons) == ((f"only {CALLS_MIN - 1} calls",), ("only 1 call",))


def test_a_service_that_is_busy_for_hours_is_no_burst():
    times = [
        at
        for day in range(5)
        for at in burst(MONDAY + day * DAY + 8 * HOUR, 3_600 * 9 // 7, every=7 * SECOND)
    ]

    found = judged(calls(times, duration=60 * SECOND))

    assert found == Opinion(False, ("single calls, spread over the day",))


def test_single_calls_are_a_persons():
    times = [MONDAY + number * timedelta(minutes=3) for number in range(2_000)]

    assert not judged(calls(times)).nobody_waits


def test_one_night_alone_is_no_habit():
    assert NIGHTS_MIN > 1
    one_night = judged(calls(nightly(days=1)))

    assert not any("night" in reason for reason in one_night.reasons)


def test_every_hour_at_the_same_minute_is_by_the_clock():
    times = [
        at
        for number in range(7, 30)
        for at in burst(MONDAY + number * HOUR + timedelta(minutes=17), BURST_CALLS)
    ]

    found = judged(calls(times))

    assert found.nobody_waits
    assert found.reasons[-1] == "at minute 17 of the hour"


def test_small_groups_are_no_bursts():
    times = [at for number in range(50) for at in burst(MONDAY + number * HOUR, BURST_CALLS - 1)]

    assert not judged(calls(times)).nobody_waits


@pytest.mark.parametrize(("hour", "night"), [(21, False), (22, True), (3, True), (6, False)])
def test_night_is_from_ten_to_six(hour, night):
    assert at_night(MONDAY + hour * HOUR, UTC) is night
