"""A clock that is set is told from one that goes on."""

from datetime import timedelta

from proxy.services.clock_steps import ClockSteps
from tests.helpers.factories import T0
from tests.helpers.fakes import FakeClock


def test_each_step_is_told_once_with_its_direction() -> None:
    clock = FakeClock(T0)
    steps = ClockSteps(clock)
    clock.set(hours=1)
    assert steps.since_last() == timedelta()

    clock.advance(hours=3)
    assert steps.since_last() == timedelta()
    clock.set(hours=2)
    assert steps.since_last() == timedelta(hours=2)
    assert steps.since_last() == timedelta()
    clock.set(minutes=-30)
    assert steps.since_last() == timedelta(minutes=-30)
