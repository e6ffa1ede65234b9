"""Nothing is given up for the first bad answer, however late that is by the time of day."""

from proxy.services.batches.in_vain import ASKED_FOR, InVain
from tests.helpers.factories import T0
from tests.helpers.fakes import FakeClock


def test_it_lasts_from_the_first_time_that_nothing_came_of_it() -> None:
    clock = FakeClock(T0)
    in_vain = InVain(clock)

    assert not in_vain.has_lasted("batch")
    clock.advance(seconds=ASKED_FOR.total_seconds() - 1)
    assert not in_vain.has_lasted("batch")
    assert not in_vain.has_lasted("another")
    clock.advance(seconds=1)
    assert in_vain.has_lasted("batch")
    assert not in_vain.has_lasted("another")


def test_it_begins_anew_once_something_came_of_it() -> None:
    clock = FakeClock(T0)
    in_vain = InVain(clock)
    in_vain.has_lasted("batch")
    clock.advance(seconds=2 * ASKED_FOR.total_seconds())

    in_vain.is_over("batch")

    assert not in_vain.has_lasted("batch")
