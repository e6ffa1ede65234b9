"""What a batch may have computed for jobs that were cancelled, and nobody will ever see."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date

import pytest

from proxy.core.batch import BatchState
from proxy.core.ids import JobId
from proxy.core.ledger import Sums
from tests.helpers.factories import T0
from tests.helpers.fake_provider import BATCH_NANO, right_answer
from tests.helpers.fleet import LEASE, Fleet, Instance


def without_lines_of(fleet: Fleet, job_ids: list[JobId]) -> None:
    """Have the provider compute these, and leave their lines out of its results."""
    lost = {fleet.bodies[job_id] for job_id in job_ids}
    fleet.provider.answer_line = lambda _, body: None if body in lost else (200, right_answer(body))


async def settle_in_part(fleet: Fleet, steps: int) -> bool:
    """Have the instance die after some steps of settling; return whether it came to the end."""
    fleet.clock.advance(minutes=7)
    await fleet.run("live")
    fleet.instances[0].steps_left = steps
    survived = await fleet.instances[0].run("collect")
    fleet.kill(0)
    return survived


async def go_on(fleet: Fleet) -> None:
    fleet.clock.advance(minutes=5)
    await fleet.run("live", "collect")


@asynccontextmanager
async def standing_still(instance: Instance, steps: int) -> AsyncIterator[bool]:
    """Let an instance stand still after some steps of settling, as long as the block runs.

    Yields whether it came to the end before that.
    """
    instance.frozen_after = steps
    async with asyncio.TaskGroup() as tasks:
        collecting = tasks.create_task(instance.run("collect"))
        while not (instance.is_frozen or collecting.done()):
            await asyncio.sleep(0)
        yield collecting.done()
        instance.thaw()


async def test_a_line_that_is_missing_may_be_paid_though_its_job_was_cancelled() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(12)
    without_lines_of(fleet, job_ids[:3])
    for job_id in job_ids[1:5]:
        await fleet.cancel(job_id)
    await fleet.stores.jobs.erase(job_ids[2])

    await fleet.answer()

    # One job goes on; of four that were cancelled, two lines are there and two are not.
    booked = await fleet.booked()
    assert (booked.answers, booked.useless, booked.useless_nano) == (7, 2, 2 * BATCH_NANO)
    assert (booked.possible_doubles, booked.possible_unpriced) == (2, 2)
    assert (await fleet.job(job_ids[0])).possible_doubles == 1
    assert fleet.tally.counts["possible_double"] == 3


async def test_a_line_that_comes_twice_does_not_stand_for_one_that_is_missing() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(12)
    without_lines_of(fleet, job_ids[:2])
    fleet.provider.mangle = lambda lines: lines + lines[:4]
    for job_id in job_ids[:2]:
        await fleet.cancel(job_id)

    await fleet.answer()

    assert (await fleet.booked()).possible_doubles == 2


async def test_a_batch_that_is_lost_may_be_paid_though_all_its_jobs_were_cancelled() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(12)
    fleet.provider.hidden.update(fleet.provider.batches)
    for job_id in job_ids:
        await fleet.cancel(job_id)

    for _ in range(60):
        fleet.clock.advance(hours=1)
        await fleet.run("live", "collect")

    assert (await fleet.batch()).state is BatchState.SETTLED
    assert await fleet.booked() == Sums(jobs=12, possible_doubles=12, possible_unpriced=12)


async def test_a_batch_that_ran_in_no_part_bought_nothing_for_those_that_were_cancelled() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(12)
    fleet.provider.finish("batch_1", "expired", executed=0)
    for job_id in job_ids[:4]:
        await fleet.cancel(job_id)

    await fleet.answer()

    assert await fleet.booked() == Sums(jobs=4)


async def test_a_line_may_be_paid_for_nothing_whose_cancelled_job_cannot_be_read() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(12)
    for job_id in job_ids[:2]:
        await fleet.cancel(job_id)
    fleet.stores.jobs.damaged.add(job_ids[0])

    await fleet.answer()

    booked = await fleet.booked()
    assert (booked.answers, booked.useless, booked.possible_doubles) == (10, 1, 1)
    assert (await fleet.batch()).state is BatchState.SETTLED


async def test_a_line_of_a_job_that_can_be_read_later_is_no_possible_double() -> None:
    fleet = Fleet()
    damaged, *_ = await fleet.submit(12)
    fleet.stores.jobs.damaged.add(damaged)
    await fleet.answer()
    assert (await fleet.batch()).state is BatchState.ENDED

    fleet.stores.jobs.damaged.clear()
    await go_on(fleet)

    booked = await fleet.booked()
    assert (booked.answers, booked.possible_doubles) == (12, 0)


async def test_what_is_unseen_is_booked_once_through_a_crash_at_any_step() -> None:
    for steps in range(60):
        fleet = Fleet()
        job_ids = await fleet.submit(12)
        without_lines_of(fleet, job_ids[:4])
        for job_id in job_ids[:2]:
            await fleet.cancel(job_id)
        survived = await settle_in_part(fleet, steps)
        await go_on(fleet)

        assert (await fleet.booked()).possible_doubles == 2, steps
        if survived:
            return
    pytest.fail("the pass never came to its end")


@pytest.mark.parametrize("amid", [0, 1], ids=["all wait", "one is cancelled after the crash"])
async def test_what_is_unseen_is_counted_once_though_its_jobs_were_released_before_a_crash(
    amid: int,
) -> None:
    for steps in range(60):
        fleet = Fleet()
        # More than are written at once.
        job_ids = await fleet.submit(120)
        without_lines_of(fleet, job_ids[:110])
        survived = await settle_in_part(fleet, steps)
        crashed = (await fleet.batch()).state is not BatchState.SETTLED
        for job_id in job_ids[110 - amid : 110]:
            await fleet.cancel(job_id)
        await go_on(fleet)

        # What jobs have that go on is booked when they end.
        going_on = [job for job in await fleet.jobs() if not job.state.is_terminal]
        booked = (await fleet.booked()).possible_doubles
        assert sum(job.possible_doubles for job in going_on) + booked == 110, (steps, crashed)
        if survived:
            return
    pytest.fail("the pass never came to its end")


async def test_what_is_booked_one_day_is_not_taken_off_the_next() -> None:
    for steps in range(60):
        fleet = Fleet()
        fleet.clock.advance(hours=11, minutes=50)
        job_ids = await fleet.submit(12)
        without_lines_of(fleet, job_ids[:10])
        survived = await settle_in_part(fleet, steps)
        await go_on(fleet)

        rows = await fleet.stores.ledger.rows(since=date.min, until=date.max)
        assert all(row.sums.possible_doubles >= 0 for row in rows), (steps, rows)
        if survived:
            assert fleet.clock.now().date() > T0.date()
            return
    pytest.fail("the pass never came to its end")


async def test_a_caller_who_cancels_amid_the_release_is_booked_too() -> None:
    """Stand still at every step of settling in turn, and have the caller cancel meanwhile."""
    for steps in range(60):
        fleet = Fleet()
        job_ids = await fleet.submit(12)
        without_lines_of(fleet, job_ids[:1])
        fleet.clock.advance(minutes=7)
        await fleet.run("live")
        async with standing_still(fleet.instances[0], steps) as went_through:
            await fleet.cancel(job_ids[0])

        job = await fleet.job(job_ids[0])
        booked = await fleet.booked()
        assert job.possible_doubles + booked.possible_doubles >= 1, steps
        if went_through:
            return
    pytest.fail("the pass never came to its end")


async def test_who_stood_still_while_another_settled_books_nothing_more() -> None:
    """Stand still at every step of settling in turn, for longer than the lease."""
    for steps in range(60):
        fleet = Fleet(instances=2)
        await fleet.submit(12)
        fleet.clock.advance(minutes=7)
        await fleet.run("live")
        async with standing_still(fleet.instances[0], steps) as went_through:
            fleet.clock.advance(seconds=LEASE.total_seconds() + 1)
            await fleet.run("collect", position=1)
            assert (await fleet.batch()).state is BatchState.SETTLED

        assert (await fleet.booked()).possible_doubles == 0, steps
        if went_through:
            return
    pytest.fail("the pass never came to its end")
