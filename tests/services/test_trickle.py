"""The hours in which calls are in nobody's way."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from policies.windows import Window, parse_span
from proxy.services.trickle import TrickleHours

NIGHT = Window(span=parse_span("20:00-06:00"), zone=ZoneInfo("Europe/Berlin"))
NOON = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_without_hours_it_is_always_open():
    assert TrickleHours().is_open(NOON)
    assert TrickleHours().begins(NOON) is None


def test_hours_are_those_of_the_clock_on_the_wall():
    hours = TrickleHours(window=NIGHT)

    assert not hours.is_open(NOON)
    assert hours.begins(NOON) == NOON + 6 * HOUR
    assert hours.is_open(NOON + 6 * HOUR)
    assert hours.begins(NOON + 7 * HOUR) is None


def test_hours_of_a_day_are_found_a_week_ahead():
    sundays = TrickleHours(window=Window(days=frozenset({6})))
    monday = datetime(2026, 11, 23, 0, 0, tzinfo=UTC)

    assert sundays.begins(monday) == monday + timedelta(days=6)
