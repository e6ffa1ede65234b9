"""What is noted of answers when handlers are cancelled and the store is away."""

import asyncio

import pytest

from proxy.core.errors import StoreCorruptError, StoreError, StoreUnavailableError
from proxy.core.repeats import WAITER_LEASE, Answered
from proxy.web.answering.ending_notes import EndingNotes
from tests.helpers.factories import OWNER, T0, make_job, new_job
from tests.helpers.fakes import FakeClock, MemoryStores
from tests.helpers.memory import MemoryDeliveryStore
from tests.helpers.raw_upstream import wait_until

AWAY = StoreUnavailableError("away")


class Gate(MemoryDeliveryStore):
    """A delivery store whose writes wait, or fail, as the test wants."""

    def __init__(self, stores: MemoryStores) -> None:
        super().__init__(stores.deliveries._memory)
        self.opened = asyncio.Event()
        self.opened.set()
        self.error: StoreError | None = None
        self.knocks = 0

    async def finish(self, notes):
        self.knocks += 1
        await self.opened.wait()
        if self.error is not None:
            raise self.error
        await super().finish(notes)


class Bench:
    def __init__(self, tasks) -> None:
        self.stores = MemoryStores()
        self.gate = Gate(self.stores)
        self.clock = FakeClock(T0)
        self.notes = EndingNotes(deliveries=self.gate, clock=self.clock, tasks=tasks)

    async def job(self):
        job = make_job()
        await self.stores.jobs.accept(new_job(job))
        return job.id

    def state(self, job_id):
        return self.stores.deliveries._memory.deliveries[job_id].state


@pytest.fixture
async def bench():
    async with asyncio.TaskGroup() as tasks:
        yield Bench(tasks)


@pytest.mark.parametrize("flushed", [False, True])
async def test_a_note_survives_a_handler_that_is_cancelled_while_it_writes(bench, flushed):
    job_id = await bench.job()
    bench.gate.opened.clear()
    async with asyncio.TaskGroup() as tasks:
        handler = tasks.create_task(bench.notes.note(job_id, flushed=flushed, retry_count=0))
        await wait_until(lambda: bench.gate.knocks)
        handler.cancel()
    bench.gate.opened.set()

    await bench.notes.run_once()

    assert bench.state(job_id) is (Answered.FLUSHED if flushed else Answered.BROKEN)


@pytest.mark.parametrize("flushed", [False, True])
async def test_a_note_is_written_once_and_without_a_pass(bench, flushed):
    job_id = await bench.job()
    await bench.notes.note(job_id, flushed=flushed, retry_count=0)
    await wait_until(lambda: bench.state(job_id) is not Answered.WAITING)

    await bench.notes.run_once()

    assert bench.gate.knocks == 1


async def test_notes_of_flushed_answers_that_come_while_one_is_written_go_together(bench):
    job_ids = [await bench.job() for _ in range(20)]
    bench.gate.opened.clear()

    for job_id in job_ids:
        await bench.notes.note(job_id, flushed=True, retry_count=0)
        await asyncio.sleep(0)
    bench.gate.opened.set()

    await wait_until(lambda: all(bench.state(one) is Answered.FLUSHED for one in job_ids))
    assert bench.gate.knocks == 2


async def test_the_note_of_a_break_is_durable_before_anybody_goes_on(bench):
    job_id = await bench.job()

    await bench.notes.note(job_id, flushed=False, retry_count=0)

    assert bench.state(job_id) is Answered.BROKEN


async def test_a_note_waits_until_the_store_is_back(bench):
    job_id = await bench.job()
    bench.gate.error = AWAY
    await bench.notes.note(job_id, flushed=False, retry_count=0)
    with pytest.raises(StoreUnavailableError):
        await bench.notes.run_once()
    bench.gate.error = None

    await bench.notes.run_once()

    assert bench.state(job_id) is Answered.BROKEN


@pytest.mark.parametrize("flushed", [False, True])
async def test_a_store_that_cannot_be_read_ends_neither_the_call_nor_the_instance(bench, flushed):
    job_id = await bench.job()
    bench.gate.error = StoreCorruptError("damaged")

    await bench.notes.note(job_id, flushed=flushed, retry_count=0)
    await wait_until(lambda: bench.gate.knocks and not bench.notes._is_writing)
    bench.gate.error = None
    await bench.notes.run_once()

    assert bench.state(job_id) is (Answered.FLUSHED if flushed else Answered.BROKEN)


async def test_an_old_note_of_a_break_does_not_disturb_who_claimed_the_job_since(bench):
    job_id = await bench.job()
    bench.gate.error = AWAY
    await bench.notes.note(job_id, flushed=False, retry_count=0)
    bench.clock.advance(seconds=WAITER_LEASE.total_seconds() + 1)
    bench.gate.error = None
    now = bench.clock.now()
    assert await bench.gate.claim(OWNER, make_job().fingerprint, retry_count=0, now=now) == job_id

    await bench.notes.run_once()

    assert bench.state(job_id) is Answered.WAITING


async def test_an_old_note_of_a_flushed_answer_is_still_written(bench):
    job_id = await bench.job()
    bench.gate.error = AWAY
    await bench.notes.note(job_id, flushed=True, retry_count=0)
    await wait_until(lambda: bench.gate.knocks)
    bench.clock.advance(hours=1)
    bench.gate.error = None

    await bench.notes.run_once()

    assert bench.state(job_id) is Answered.FLUSHED
