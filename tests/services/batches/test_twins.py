"""Twins of a batch whose create was unclear, and lists that cannot be searched for them."""

from dataclasses import replace
from datetime import timedelta

import pytest

from proxy.core.batch import BatchState
from proxy.core.job import JobState
from proxy.services.batches.recover import LIST_SKEW
from proxy.services.batches.twins import SWEEP_FOR
from tests.helpers.fake_provider import Fault
from tests.helpers.fleet import Fleet


async def submit_twice(fleet: Fleet) -> None:
    """Have a batch of 12 created a second time, before any list shows the first one."""
    fleet.provider.listing_lag = LIST_SKEW
    fleet.will("create", "lost_after")
    await fleet.submit(12)
    await fleet.run_for(timedelta(minutes=10), step=timedelta(seconds=30))


async def unlisted(fleet: Fleet) -> None:
    """Have a batch of 12 whose create was unclear read, and its provider's list away since."""
    await submit_twice(fleet)
    assert (await fleet.batch()).harvested_at is not None
    fleet.will("find_batches", "unavailable", times=200)
    fleet.provider.requests["find_batches"] = 0


def runs_on(fleet: Fleet) -> None:
    """Have the provider go on with what the first create made."""
    fleet.provider.batches["batch_1"].status = "in_progress"
    fleet.provider.stalled = True
    fleet.provider.window = timedelta(days=30)


async def test_a_list_that_cannot_be_read_is_asked_for_again_after_a_pause() -> None:
    fleet = Fleet()
    await unlisted(fleet)

    await fleet.run_for(timedelta(hours=20), step=timedelta(minutes=5))
    assert 75 <= fleet.provider.requests["find_batches"] <= 85
    assert (await fleet.batch()).state is BatchState.ENDED
    fleet.provider.faults["find_batches"].clear()
    await fleet.run_for(timedelta(hours=6), step=timedelta(minutes=5))

    assert (await fleet.batch()).state is BatchState.SETTLED
    assert fleet.tally.counts["possible_double"] == 0


async def test_a_list_that_cannot_be_read_does_not_keep_a_batch_for_ever() -> None:
    fleet = Fleet()
    await unlisted(fleet)

    await fleet.run_for(SWEEP_FOR - timedelta(hours=1), step=timedelta(minutes=15))
    assert (await fleet.batch()).state is BatchState.ENDED
    await fleet.run_for(timedelta(hours=2), step=timedelta(minutes=15))

    assert (await fleet.batch()).state is BatchState.SETTLED
    # Nobody knows whether there is a second one.
    assert fleet.tally.counts["possible_double"] == 12


async def test_a_twin_that_vanished_does_not_keep_its_batch_for_ever() -> None:
    fleet = Fleet()
    await submit_twice(fleet)
    fleet.provider.hidden.add("batch_1")

    await fleet.run_for(timedelta(hours=27), step=timedelta(minutes=5))

    batch = await fleet.batch()
    assert batch.twins == ("batch_1",)
    assert batch.state is BatchState.SETTLED


@pytest.mark.parametrize("fault", ["rejected", "redirected"])
async def test_a_twin_whose_results_cannot_be_read_may_be_paid(fault: Fault) -> None:
    fleet = Fleet()
    await submit_twice(fleet)
    fleet.will("results", fault, times=1_000)

    await fleet.run_for(timedelta(hours=27), step=timedelta(minutes=5))

    assert (await fleet.batch()).twins_read == ("batch_1",)
    assert fleet.doubles() == (12, 12)
    assert (await fleet.booked()).possible_doubles == 12


@pytest.mark.parametrize("kept", [0, 5])
async def test_what_the_results_of_a_twin_are_silent_about_may_be_paid(kept: int) -> None:
    fleet = Fleet()
    await submit_twice(fleet)
    fleet.provider.mangle = lambda lines: lines[:kept]
    # Whatever it says of itself: we have sent no more.
    fleet.provider.misreport = lambda batch: replace(batch, count=99)

    await fleet.run_for(timedelta(hours=27), step=timedelta(minutes=5))

    booked = await fleet.booked()
    assert (booked.useless, booked.possible_doubles) == (kept, 12 - kept)
    assert fleet.doubles() == (12, 12)


async def test_a_twin_that_left_no_results_bought_nothing() -> None:
    fleet = Fleet()
    await submit_twice(fleet)
    fleet.provider.finish("batch_1", "cancelled", executed=0)
    fleet.provider.batches["batch_1"].results.clear()

    await fleet.run_for(timedelta(hours=27), step=timedelta(minutes=5))

    assert (await fleet.batch()).twins_read == ("batch_1",)
    booked = await fleet.booked()
    assert (booked.useless, booked.possible_doubles) == (0, 0)


@pytest.mark.parametrize("operation", ["retrieve", "cancel"])
async def test_a_twin_that_is_never_seen_to_end_does_not_keep_its_batch_for_ever(
    operation: str,
) -> None:
    fleet = Fleet()
    await submit_twice(fleet)
    runs_on(fleet)
    fleet.will(operation, "unavailable", times=100_000)

    await fleet.run_for(2 * SWEEP_FOR - timedelta(hours=1), step=timedelta(minutes=15))
    assert (await fleet.batch()).state is BatchState.ENDED
    await fleet.run_for(timedelta(hours=2), step=timedelta(minutes=15))

    assert (await fleet.batch()).state is BatchState.SETTLED
    assert (await fleet.booked()).possible_doubles == 12


async def test_a_twin_that_runs_on_and_on_does_not_keep_its_batch_for_ever() -> None:
    fleet = Fleet()
    fleet.provider.can_cancel = False
    await submit_twice(fleet)
    runs_on(fleet)

    await fleet.run_for(2 * SWEEP_FOR + timedelta(hours=1), step=timedelta(minutes=15))

    assert (await fleet.batch()).state is BatchState.SETTLED
    assert (await fleet.booked()).possible_doubles == 12


async def test_a_twin_that_cannot_be_stopped_is_read_when_it_has_ended() -> None:
    fleet = Fleet()
    fleet.provider.can_cancel = False
    fleet.provider.listing_lag = LIST_SKEW
    fleet.will("create", "lost_after")
    fleet.provider.turnaround = timedelta(hours=2)
    await fleet.submit(12)

    await fleet.run_for(timedelta(minutes=10), step=timedelta(seconds=30))
    await fleet.run_for(timedelta(hours=28), step=timedelta(minutes=5))

    batch = await fleet.batch()
    assert batch.state is BatchState.SETTLED
    assert batch.twins == batch.twins_read == ("batch_1",)
    assert fleet.provider.requests["cancel"] == 0
    assert set(fleet.provider.bought.values()) == {2}
    assert fleet.tally.counts["late_result"] == 12


async def test_a_twin_found_later_is_cancelled_read_and_counted_once() -> None:
    fleet = Fleet()
    fleet.provider.listing_lag = timedelta(minutes=5)
    fleet.will("create", "lost_after")
    await fleet.submit(12)
    await fleet.recovered()
    batch = await fleet.batch()
    assert (batch.state, batch.provider_batch_id) == (BatchState.IN_PROGRESS, "batch_2")

    await fleet.run_for(timedelta(hours=3), step=timedelta(minutes=5))

    assert (await fleet.batch()).twins == ("batch_1",)
    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.provider.batches["batch_1"].status in ("completed", "cancelled")
    extra, _ = fleet.doubles()
    assert fleet.tally.counts["late_result"] == extra > 0
    assert fleet.tally.counts["batch_twin"] == 1
    await fleet.everything_ends()
    assert fleet.tally.counts["late_result"] == extra
    assert (await fleet.batch()).state is BatchState.SETTLED


async def test_after_an_unclear_create_twins_are_looked_for_for_25_hours() -> None:
    fleet = Fleet()
    fleet.will("create", "lost_after")
    await fleet.submit(12)

    await fleet.run_for(timedelta(hours=24, minutes=55), step=timedelta(minutes=5))
    assert (await fleet.batch()).state is BatchState.ENDED
    # Each time twice as late: at once, after 15 minutes, and so on.
    assert fleet.provider.requests["find_batches"] == 8
    await fleet.run_for(timedelta(minutes=30), step=timedelta(minutes=5))

    assert (await fleet.batch()).state is BatchState.SETTLED
