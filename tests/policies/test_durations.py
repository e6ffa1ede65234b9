from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.durations import LONGEST, UNITS, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("90m", 5_400),
        ("1h30m", 5_400),
        ("1d0h15s", 86_415),
        ("6h", 21_600),
        ("1d", 86_400),
        ("0s", 0),
        ("007m", 420),
    ],
)
def test_numbers_with_units_are_a_duration(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    ["", "5", "m", "1.5h", "-1h", "+1h", " 1h", "1 h", "1h30", "1h 30m", "1w", "1H", "٣h", "1h\n"],
)
def test_anything_else_is_refused_with_what_is_allowed(text):
    with pytest.raises(ValueError, match="such as 10s, 6h, 1h30m or 1d"):
        parse_duration(text)


def test_an_endless_text_is_not_repeated_whole():
    with pytest.raises(ValueError, match="not a duration") as caught:
        parse_duration("x" * 10_000)

    assert len(str(caught.value)) < 200


def test_a_duration_that_would_overflow_dates_is_refused():
    for text in ("999999999d", "3650d1s", "999999999d" * 1_000):
        with pytest.raises(ValueError, match="longer than 3650d") as caught:
            parse_duration(text)

        assert len(str(caught.value)) < 200


@given(st.integers(0, 999_999_999), st.sampled_from(list(UNITS)))
def test_what_is_written_reads_back_as_the_same(count, unit):
    duration = timedelta(seconds=count * UNITS[unit])
    if duration > LONGEST:
        return

    written = format_duration(duration)

    assert parse_duration(written) == duration
    assert len(written) <= len(f"{count}{unit}")


def test_the_largest_unit_that_fits_is_written():
    assert [format_duration(timedelta(minutes=m)) for m in (0, 1, 90, 120, 1440)] == [
        "0s", "1m", "90m", "2h", "1d",
    ]  # fmt: skip
