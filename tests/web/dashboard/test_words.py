"""What people are told of times, sizes and money."""

from datetime import timedelta

import pytest

from proxy.core.prices import NANO
from proxy.web.dashboard import words
from tests.helpers.factories import T0


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (timedelta(0), "0 s"),
        (timedelta(milliseconds=400), "0 s"),
        (timedelta(seconds=59), "59 s"),
        (timedelta(seconds=60), "1 min"),
        (timedelta(seconds=200), "3 min 20 s"),
        (timedelta(minutes=42, seconds=10), "42 min"),
        (timedelta(hours=3, minutes=5), "3 h 5 min"),
        (timedelta(hours=26), "1 d 2 h"),
        (timedelta(days=30, hours=3), "30 d"),
        (-timedelta(minutes=2), "2 min"),
    ],
)
def test_a_duration_has_its_two_largest_units(span, said):
    assert words.duration(span) == said


def test_a_time_is_told_from_now():
    assert words.ago(T0 - timedelta(hours=2), T0) == "2 h ago"
    assert words.ago(T0 + timedelta(minutes=5), T0) == "in 5 min"
    assert words.ago(T0, T0) == "now"
    assert words.ago(None, T0) == words.DASH


def test_the_exact_time_names_its_zone():
    assert words.clock(T0) == "23 Nov 2026, 12:00:00 UTC"
    assert words.clock(None) == words.DASH


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_200, "1.2 KB"),
        (34_000_000, "34 MB"),
        (999_700, "1.0 MB"),
        (5_000_000_000_000_000, "5000 TB"),
    ],
)
def test_a_size_has_the_unit_that_fits(amount, said):
    assert words.size(amount) == said


@pytest.mark.parametrize(
    ("nano", "said"),
    [
        (0, "$0.00"),
        (NANO * 1234567, "$1,234,567"),
        (NANO * 12 + NANO // 2, "$12.50"),
        (NANO // 20, "$0.050"),
        (NANO // 500, "$0.0020"),
        (10, "<$0.0001"),
        (-NANO, f"{words.MINUS}$1.00"),
    ],
)
def test_money_has_as_many_digits_as_it_takes_to_see_it(nano, said):
    assert words.money(nano) == said


def test_a_share_of_nothing_is_no_share():
    assert words.share(1, 2) == "50 %"
    assert words.share(0, 0) == words.DASH


def test_long_ids_are_told_apart_by_their_ends():
    assert words.short("job_0123456789ABCDEF") == "…456789ABCDEF"
    assert words.short("short") == "short"
    assert words.words("in_progress") == "in progress"
