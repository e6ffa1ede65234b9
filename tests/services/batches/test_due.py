"""What is due is due, however the clock on the wall was set."""

from datetime import timedelta

import pytest

from proxy.core.batch import BatchState
from proxy.services.batches.due import SET_BACK, DueBatches
from tests.helpers.factories import T0, make_batch
from tests.helpers.fakes import FakeClock
from tests.helpers.fleet import Fleet

SOON = T0 + timedelta(seconds=10)
STATES = frozenset(BatchState)


def test_a_batch_is_due_from_its_time_on_and_in_the_states_that_are_asked_for() -> None:
    clock = FakeClock(T0)
    due = DueBatches(clock)
    batch = make_batch(state=BatchState.IN_PROGRESS, next_at=SOON)

    assert due.among([batch], STATES) == []
    clock.advance(seconds=10)
    assert due.among([batch], STATES) == [batch]
    assert due.among([batch], {BatchState.SEALED}) == []


@pytest.mark.parametrize("state", [BatchState.SEALED, BatchState.IN_PROGRESS, BatchState.ENDED])
def test_a_time_of_before_the_clock_was_set_back_is_not_waited_for(state: BatchState) -> None:
    clock = FakeClock(T0)
    due = DueBatches(clock)
    batch = make_batch(state=state, next_at=SOON)
    assert due.among([batch], STATES) == []

    clock.set(hours=-6)
    # More than once: for a while after that nobody may get its lease.
    assert due.among([batch], STATES) == [batch]
    assert due.among([batch], STATES) == [batch]

    asked = make_batch(state=state, next_at=clock.now() + timedelta(seconds=10))
    assert due.among([asked], STATES) == []
    assert due.among([batch], STATES) == []


@pytest.mark.parametrize("state", [BatchState.SUBMITTING, BatchState.LOST])
def test_what_may_yet_turn_up_is_given_its_time(state: BatchState) -> None:
    clock = FakeClock(T0)
    due = DueBatches(clock)
    batch = make_batch(state=state, next_at=SOON)
    due.among([batch], STATES)

    clock.set(hours=-6)

    assert due.among([batch], STATES) == []


def test_a_clock_that_is_kept_in_step_makes_nothing_due() -> None:
    clock = FakeClock(T0)
    due = DueBatches(clock)
    batch = make_batch(state=BatchState.IN_PROGRESS, next_at=SOON)
    due.among([batch], STATES)

    clock.set(seconds=-SET_BACK.total_seconds())

    assert due.among([batch], STATES) == []


async def test_batches_go_on_after_the_clock_was_set_back() -> None:
    fleet = Fleet()
    fleet.will("create", "busy")
    await fleet.submit(12)
    await fleet.run("live", "submit", "collect")

    fleet.clock.set(hours=-6)
    await fleet.run("live", "submit", "collect")
    fleet.clock.advance(minutes=1)
    await fleet.run("live", "submit", "collect")
    assert (await fleet.batch()).state is BatchState.IN_PROGRESS

    fleet.clock.set(hours=-6)
    await fleet.run("live", "submit", "collect")
    fleet.clock.advance(minutes=1)
    asked = fleet.provider.requests["retrieve"]
    await fleet.run("live", "submit", "collect")
    assert fleet.provider.requests["retrieve"] == asked + 1
