"""How long calls pause of which one was refused, and when they do not any more."""

from datetime import timedelta

from proxy.services.pauses import REMEMBERED, Backoff, Pauses
from tests.helpers.factories import T0

FIRST = timedelta(seconds=2)
LONGEST = timedelta(seconds=10)
IN_A_ROW = timedelta(minutes=5)
MOMENT = timedelta(microseconds=1)


def pauses() -> Pauses[str]:
    return Pauses(Backoff(first=FIRST, longest=LONGEST, in_a_row=IN_A_ROW))


def test_each_pause_is_twice_as_long_as_the_last_up_to_a_bound() -> None:
    known, now, lengths = pauses(), T0, []
    for _ in range(5):
        assert known.refused("a", now)
        lengths.append(next(n for n in range(20) if not known.is_on("a", now + n * FIRST / 2)))
        now += lengths[-1] * FIRST / 2

    assert [n * FIRST / 2 for n in lengths] == [FIRST, 2 * FIRST, 4 * FIRST, LONGEST, LONGEST]
    assert not known.is_on("b", T0)


def test_what_was_under_way_when_a_pause_began_changes_nothing() -> None:
    known = pauses()
    known.refused("a", T0)

    assert not known.refused("a", T0 + FIRST - MOMENT)
    assert known.is_on("a", T0 + FIRST - MOMENT)
    assert not known.is_on("a", T0 + FIRST)


def test_a_pause_lasts_as_long_as_is_asked_and_is_measured_without() -> None:
    known = pauses()
    known.refused("a", T0, asked=FIRST + MOMENT)
    assert known.refused("a", T0 + FIRST / 2, asked=IN_A_ROW)
    end = T0 + FIRST / 2 + IN_A_ROW
    assert known.is_on("a", end - MOMENT)

    known.refused("a", end)

    assert known.is_on("a", end + 2 * FIRST - MOMENT)
    assert not known.is_on("a", end + 2 * FIRST)


def test_it_begins_anew_after_an_answer_or_a_while() -> None:
    known, later = pauses(), T0 + FIRST + IN_A_ROW + MOMENT
    known.refused("a", T0)
    known.refused("b", T0)
    known.end("b")
    assert not known.is_on("b", T0)

    for kind in "ab":
        known.refused(kind, later)
        assert known.is_on(kind, later)
        assert not known.is_on(kind, later + FIRST)


def test_one_that_is_held_pauses_until_then_and_shortly_after_that() -> None:
    known, until = pauses(), T0 + timedelta(days=1)
    known.hold("a", until)
    assert known.is_on("a", until - MOMENT)

    known.refused("a", until)

    assert not known.is_on("a", until + 2 * FIRST)


def test_the_longest_untouched_is_forgotten_before_there_are_too_many() -> None:
    known: Pauses[int] = Pauses(Backoff(first=FIRST, longest=LONGEST))
    for number in range(REMEMBERED):
        known.refused(number, T0)
    known.hold(0, T0 + FIRST)
    known.refused(REMEMBERED, T0)

    assert known.is_on(0, T0)
    assert not known.is_on(1, T0)
