"""Whoever holds a connection is woken, and polls behind that."""

import asyncio

import pytest

from proxy.core.errors import JobNotFoundError
from proxy.core.ids import JobId
from proxy.core.job import JobState
from proxy.services import waiters as module
from proxy.services.waiters import Waiters
from tests.helpers.factories import IDS
from tests.helpers.fleet import Fleet
from tests.helpers.loops import settled
from tests.helpers.memory_wakeups import MemoryWakeups


class Counted:
    """Counts the looks at a job."""

    def __init__(self, fleet: Fleet) -> None:
        self._store = fleet.stores.jobs
        self.looks = 0

    async def get(self, job_id: JobId):
        self.looks += 1
        return await self._store.get(job_id)


def held(fleet: Fleet) -> tuple[Waiters, Counted]:
    jobs = Counted(fleet)
    return Waiters(jobs=jobs, clock=fleet.clock), jobs  # type: ignore[arg-type]


async def test_a_job_that_ended_is_returned_at_once() -> None:
    fleet = Fleet()
    job_id = await fleet.accept()
    await fleet.cancel(job_id)
    waiters, jobs = held(fleet)

    job = await waiters.until_terminal(job_id, timeout_s=60)

    assert job.state is JobState.CANCELLED
    assert (jobs.looks, waiters.count) == (1, 0)


async def test_a_waiter_is_woken_by_the_end_of_its_job_and_not_by_anothers() -> None:
    fleet = Fleet()
    job_id, other = await fleet.accept_many(2)
    waiters, jobs = held(fleet)

    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(waiters.until_terminal(job_id, timeout_s=60))
        await settled()
        assert waiters.count == 1
        await fleet.cancel(job_id)
        waiters.wake([other])
        await settled()
        assert not waiting.done()
        waiters.wake([job_id])

    assert waiting.result().state is JobState.CANCELLED
    assert (jobs.looks, waiters.count) == (2, 0)


async def test_a_waiter_at_another_instance_is_woken_too() -> None:
    fleet = Fleet()
    job_id = await fleet.accept()
    jobs = Counted(fleet)
    wakeups = MemoryWakeups()
    here, there = (
        Waiters(jobs=jobs, clock=fleet.clock, wakeups=wakeups)  # type: ignore[arg-type]
        for _ in range(2)
    )

    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(there.until_terminal(job_id, timeout_s=60))
        await settled()
        await fleet.cancel(job_id)
        here.wake([job_id])

    assert waiting.result().state is JobState.CANCELLED
    assert jobs.looks == 2


async def test_all_who_wait_for_one_job_are_woken() -> None:
    fleet = Fleet()
    job_id = await fleet.accept()
    waiters, _ = held(fleet)

    async with asyncio.TaskGroup() as tasks:
        waiting = [
            tasks.create_task(waiters.until_terminal(job_id, timeout_s=60)) for _ in range(3)
        ]
        await settled()
        assert waiters.count == 3
        await fleet.cancel(job_id)
        waiters.wake([job_id])

    assert {task.result().state for task in waiting} == {JobState.CANCELLED}


async def test_a_wake_up_before_the_end_only_makes_a_waiter_look_again() -> None:
    fleet = Fleet()
    job_id = await fleet.accept()
    waiters, jobs = held(fleet)

    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(waiters.until_terminal(job_id, timeout_s=60))
        await settled()
        waiters.wake([job_id])
        await settled()
        assert (jobs.looks, waiting.done()) == (2, False)
        await fleet.cancel(job_id)
        waiters.wake([job_id])


async def test_an_end_that_nobody_announced_is_seen_by_polling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "POLL_INTERVAL_S", 0.01)
    fleet = Fleet()
    job_id = await fleet.accept()
    waiters, jobs = held(fleet)

    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(waiters.until_terminal(job_id, timeout_s=3_600))
        await settled()
        await fleet.cancel(job_id)

    assert waiting.result().state is JobState.CANCELLED
    assert jobs.looks >= 2


async def test_who_has_waited_long_enough_gets_the_job_as_it_is() -> None:
    fleet = Fleet()
    job_id = await fleet.accept()
    waiters, _ = held(fleet)

    assert (await waiters.until_terminal(job_id, timeout_s=0)).state is JobState.QUEUED
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(waiters.until_terminal(job_id, timeout_s=60))
        await settled()
        fleet.clock.advance(seconds=60)
        waiters.wake([job_id])

    assert waiting.result().state is JobState.QUEUED
    assert waiters.count == 0


async def test_a_job_that_is_erased_is_not_found() -> None:
    fleet = Fleet()
    waiters, _ = held(fleet)

    with pytest.raises(JobNotFoundError):
        await waiters.until_terminal(IDS.job(), timeout_s=60)
    assert waiters.count == 0


async def test_a_waiter_that_hangs_up_leaves_nothing_behind() -> None:
    fleet = Fleet()
    job_id = await fleet.accept()
    waiters, _ = held(fleet)

    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(waiters.until_terminal(job_id, timeout_s=60))
        await settled()
        waiting.cancel()

    assert waiters.count == 0
    assert not waiters._events
    waiters.wake([job_id])
