from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.windows import DAYS, Span, Window, parse_days, parse_span, parse_zone

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = parse_span("20:00-06:00")
MOMENTS = st.datetimes(
    min_value=datetime(2020, 1, 1),  # noqa: DTZ001 - Hypothesis wants bounds without a zone
    max_value=datetime(2030, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
ZONES = st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "UTC"]).map(
    ZoneInfo
)
MINUTES = st.integers(0, 1439)


def berlin(*time: int, fold: int = 0) -> datetime:
    return datetime(*time, fold=fold, tzinfo=BERLIN).astimezone(UTC)  # type: ignore[misc,arg-type]


@given(MOMENTS, MINUTES, MINUTES, ZONES)
def test_a_moment_lies_in_a_span_or_in_the_rest_of_the_day(moment, start, end, zone):
    if start == end:
        return

    inside = Window(Span(start, end), zone=zone).contains(moment)
    outside = Window(Span(end, start), zone=zone).contains(moment)

    assert inside is not outside


@given(MOMENTS, MINUTES, MINUTES, ZONES, st.frozensets(st.integers(0, 6)))
def test_a_span_belongs_to_the_day_on_which_it_begins(moment, start, end, zone, days):
    """Walk back, minute by minute of the wall, to where the span began."""
    if start == end:
        return
    local = moment.astimezone(zone).replace(tzinfo=None)
    minute = local.hour * 60 + local.minute
    begun = local - timedelta(minutes=(minute - start) % 1440)
    lasts = (end - start) % 1440
    expected = (minute - start) % 1440 < lasts and begun.weekday() in days

    assert Window(Span(start, end), days, zone).contains(moment) is expected


@pytest.mark.parametrize(
    ("moment", "inside"),
    [
        (berlin(2026, 11, 23, 19, 59), False),
        (berlin(2026, 11, 23, 20, 0), True),
        (berlin(2026, 11, 24, 0, 0), True),
        (berlin(2026, 11, 24, 5, 59, 59), True),
        (berlin(2026, 11, 24, 6, 0), False),
        # Summer time: the same hours of the wall are other hours of UTC.
        (datetime(2026, 7, 1, 18, 0, tzinfo=UTC), True),
        (datetime(2026, 12, 1, 18, 0, tzinfo=UTC), False),
        # The hour that comes twice when clocks go back (2026-10-25, 3:00 to 2:00).
        (berlin(2026, 10, 25, 2, 30, fold=0), True),
        (berlin(2026, 10, 25, 2, 30, fold=1), True),
        # Around the hour that is skipped (2026-03-29, 2:00 to 3:00).
        (datetime(2026, 3, 29, 0, 59, tzinfo=UTC), True),
        (datetime(2026, 3, 29, 3, 59, tzinfo=UTC), True),
        (datetime(2026, 3, 29, 4, 0, tzinfo=UTC), False),
    ],
)
def test_a_night_in_berlin_is_by_the_wall_clock(moment, inside):
    assert Window(NIGHT, zone=BERLIN).contains(moment) is inside


def test_the_small_hours_of_saturday_belong_to_friday_night():
    weeknights = Window(NIGHT, parse_days("mon-fri"))

    assert weeknights.contains(datetime(2026, 11, 28, 3, 0, tzinfo=UTC))
    assert not weeknights.contains(datetime(2026, 11, 28, 21, 0, tzinfo=UTC))
    assert not weeknights.contains(datetime(2026, 11, 23, 3, 0, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("20:00-06:00", Span(1200, 360)),
        ("09:30 - 17:00", Span(570, 1020)),
        ("00:00-24:00", Span(0, 1440)),
        ("18:00-00:00", Span(1080, 1440)),
    ],
)
def test_spans_as_people_write_them(text, span):
    assert parse_span(text) == span


@pytest.mark.parametrize(
    "text", ["", "20:00", "8:00-9:00", "24:00-01:00", "08:00-08:00", "10:60-11:00", "10:00-24:01"]
)
def test_a_span_that_means_nothing_is_refused(text):
    with pytest.raises(ValueError, match="20:00-06:00"):
        parse_span(text)


@pytest.mark.parametrize(
    ("text", "days"),
    [("mon", {0}), ("Mon-Fri", {0, 1, 2, 3, 4}), ("sat-mon", {5, 6, 0}), ("sun-sun", {6})],
)
def test_days_as_people_write_them(text, days):
    assert parse_days(text) == days


@pytest.mark.parametrize("text", ["", "monday", "mon-", "-fri", "mon-fri-sun", "1"])
def test_a_day_that_does_not_exist_is_refused(text):
    with pytest.raises(ValueError, match=", ".join(DAYS)):
        parse_days(text)


@pytest.mark.parametrize(
    "text", ["", "Europe", "Mars/Base", "../../etc/passwd", "/etc/passwd", "é"]
)
def test_a_zone_that_does_not_exist_is_refused(text):
    assert parse_zone("Europe/Berlin") == BERLIN
    with pytest.raises(ValueError, match="IANA"):
        parse_zone(text)


def test_a_window_reads_as_it_is_written():
    assert str(Window(NIGHT, parse_days("sat-sun"), BERLIN)) == "20:00-06:00 Europe/Berlin, sat sun"


def test_a_span_within_a_day_begins_with_its_start_and_ends_before_its_end():
    office = Window(parse_span("09:00-17:00"))
    times = [(8, 59), (9, 0), (16, 59), (17, 0)]

    found = [office.contains(datetime(2026, 11, 23, *time, tzinfo=UTC)) for time in times]

    assert found == [False, True, True, False]
