"""How long connections are held, and by which leases."""

import asyncio
from datetime import timedelta

import pytest

from proxy.core.repeats import WAITER_LEASE
from proxy.web.answering.holding import RENEW_CHUNK, Holding, LetGoError
from tests.helpers.factories import T0, make_job, new_job
from tests.helpers.fakes import FakeClock, MemoryStores
from tests.helpers.memory import MemoryDeliveryStore
from tests.helpers.raw_upstream import wait_until


class Renewals(MemoryDeliveryStore):
    """A delivery store that counts the leases of each call."""

    def __init__(self, stores: MemoryStores) -> None:
        super().__init__(stores.deliveries._memory)
        self.counts: list[int] = []

    async def renew(self, job_ids, *, until):
        self.counts.append(len(job_ids))
        await super().renew(job_ids, until=until)


class Bench:
    def __init__(self) -> None:
        self.stores = MemoryStores()
        self.clock = FakeClock(T0)
        self.renewals = Renewals(self.stores)
        self.holding = Holding(deliveries=self.renewals, clock=self.clock, max_held=10_000)

    async def job(self):
        job = make_job()
        await self.stores.jobs.accept(new_job(job))
        return job.id


@pytest.fixture
def bench():
    return Bench()


async def test_leases_are_renewed_in_chunks_and_once_per_job(bench):
    job_id = await bench.job()
    bench.clock.advance(seconds=10)
    with bench.holding.enter(job_id, is_waiter=True), bench.holding.enter(job_id, is_waiter=True):
        held = [bench.holding.enter(make_job().id, is_waiter=True) for _ in range(RENEW_CHUNK)]
        for one in held:
            one.__enter__()

        assert await bench.holding.run_once() == RENEW_CHUNK + 1

        for one in held:
            one.__exit__(None, None, None)
    assert sorted(bench.renewals.counts) == [1, RENEW_CHUNK]
    delivery = bench.stores.deliveries._memory.deliveries[job_id]
    assert delivery.waiter_until == T0 + timedelta(seconds=10) + WAITER_LEASE
    assert bench.holding.count == 0


async def test_what_is_awaited_before_the_first_byte_ends_when_the_instance_drains(bench):
    never = asyncio.Event()
    with bench.holding.enter(await bench.job(), is_waiter=True) as hold:
        async with asyncio.TaskGroup() as tasks:

            async def waits() -> None:
                with pytest.raises(LetGoError):
                    await hold.uncommitted(never.wait())

            tasks.create_task(waits())
            await wait_until(lambda: hold._interruption)
            bench.holding.drain()

    assert not bench.holding.has_room()


async def test_who_comes_while_the_instance_drains_does_not_wait(bench):
    bench.holding.drain()

    with (
        bench.holding.enter(await bench.job(), is_waiter=True) as hold,
        pytest.raises(LetGoError),
    ):
        await hold.uncommitted(asyncio.Event().wait())


async def test_a_timeout_of_something_else_is_not_taken_for_draining(bench):
    async def times_out() -> None:
        raise TimeoutError

    with (
        bench.holding.enter(await bench.job(), is_waiter=True) as hold,
        pytest.raises(TimeoutError),
    ):
        await hold.uncommitted(times_out())
