"""How long a key is left alone whose provider says that it is called too often."""

from datetime import timedelta

import pytest

from proxy.services.direct.busy import FIRST_PAUSE, LONGEST_ASKED, LONGEST_PAUSE, BusyKeys
from tests.helpers.factories import T0, make_key

KEY = make_key()
MOMENT = timedelta(microseconds=1)


def test_each_refusal_after_a_pause_doubles_it_up_to_a_minute() -> None:
    busy, now, lengths = BusyKeys(), T0, []
    for _ in range(8):
        busy.refused(KEY, now, asked=None)
        length = FIRST_PAUSE
        while busy.is_paused(KEY, now + length - MOMENT) and busy.is_paused(KEY, now + length):
            length += FIRST_PAUSE / 2
        lengths.append(length)
        now += length

    assert lengths == [min(FIRST_PAUSE * 2**n, LONGEST_PAUSE) for n in range(8)]


def test_those_that_were_refused_with_it_do_not_lengthen_a_pause() -> None:
    busy = BusyKeys()
    for _ in range(20):
        busy.refused(KEY, T0, asked=None)

    assert busy.is_paused(KEY, T0 + FIRST_PAUSE - MOMENT)
    assert not busy.is_paused(KEY, T0 + FIRST_PAUSE)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (timedelta(0), FIRST_PAUSE),
        (timedelta(seconds=7), timedelta(seconds=7)),
        (timedelta(hours=3), LONGEST_ASKED),
    ],
)
def test_a_pause_is_as_long_as_was_asked_within_reason(asked: timedelta, kept: timedelta) -> None:
    busy = BusyKeys()
    busy.refused(KEY, T0, asked=asked)
    # Of another call that was under way; its answer names no pause.
    busy.refused(KEY, T0, asked=None)

    assert busy.is_paused(KEY, T0 + kept - MOMENT)
    assert not busy.is_paused(KEY, T0 + kept)


def test_an_answer_ends_it_and_other_models_are_not_concerned() -> None:
    busy = BusyKeys()
    busy.refused(KEY, T0, asked=None)

    assert not busy.is_paused(make_key(model="another"), T0)
    busy.answered(KEY)
    assert not busy.is_paused(KEY, T0)
    busy.refused(KEY, T0, asked=None)
    assert not busy.is_paused(KEY, T0 + FIRST_PAUSE)


def test_what_is_long_over_counts_no_more() -> None:
    busy, later = BusyKeys(), T0 + FIRST_PAUSE + LONGEST_ASKED + MOMENT
    busy.refused(KEY, T0, asked=None)
    busy.refused(KEY, later, asked=None)

    assert not busy.is_paused(KEY, later + FIRST_PAUSE)
