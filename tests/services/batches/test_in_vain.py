"""Nothing is given up for the first bad answer, however late that is by the time of day."""

from proxy.core.errors import ProviderUnavailableError
from proxy.services.batches.in_vain import ASKED_FOR, InVain
from tests.helpers.factories import T0
from tests.helpers.fakes import FakeClock

FAILURE = ProviderUnavailableError("503")
UNSENT = ProviderUnavailableError("refused", sent=False)


def test_it_lasts_from_the_first_time_that_nothing_came_of_it() -> None:
    clock = FakeClock(T0)
    in_vain = InVain(clock)

    assert not in_vain.is_hopeless("batch", FAILURE, is_late=True)
    clock.advance(seconds=ASKED_FOR.total_seconds() - 1)
    assert not in_vain.is_hopeless("batch", FAILURE, is_late=True)
    assert not in_vain.is_hopeless("another", FAILURE, is_late=True)
    clock.advance(seconds=1)
    assert not in_vain.is_hopeless("batch", FAILURE, is_late=False)
    assert not in_vain.is_hopeless("batch", UNSENT, is_late=True)
    assert in_vain.is_hopeless("batch", FAILURE, is_late=True)
    assert not in_vain.is_hopeless("another", FAILURE, is_late=True)


def test_it_begins_anew_once_something_came_of_it() -> None:
    clock = FakeClock(T0)
    in_vain = InVain(clock)
    in_vain.is_hopeless("batch", FAILURE, is_late=True)
    clock.advance(seconds=2 * ASKED_FOR.total_seconds())

    in_vain.answered("batch")

    assert not in_vain.is_hopeless("batch", FAILURE, is_late=True)


def test_what_was_not_sent_is_no_try() -> None:
    clock = FakeClock(T0)
    in_vain = InVain(clock)
    in_vain.is_hopeless("batch", UNSENT, is_late=True)
    clock.advance(seconds=2 * ASKED_FOR.total_seconds())

    assert not in_vain.is_hopeless("batch", FAILURE, is_late=True)
