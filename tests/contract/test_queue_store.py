"""What every `QueueStore` must do."""

from datetime import timedelta
from typing import Any

from proxy.core.ids import InstanceId
from proxy.core.job import Escalated, Job, Released, advance
from proxy.core.lanes import Lane
from proxy.ports.batches import ClaimLimits
from proxy.ports.jobs import JobWrite
from proxy.ports.stores import Stores
from tests.helpers.factories import T0, make_batch, make_key, new_job

HOUR = timedelta(hours=1)
DIRECT = make_key(lane=Lane.INTERACTIVE)


async def accepted(stores: Stores, **changes: Any) -> Job:
    return (await stores.jobs.accept(new_job(**({"key": DIRECT} | changes)))).job


async def test_jobs_are_taken_nearest_deadline_first(stores):
    late = await accepted(stores, deadline=T0 + 3 * HOUR)
    near = await accepted(stores, deadline=T0 + HOUR, accepted_at=T0 - HOUR)
    middle = await accepted(stores, deadline=T0 + 2 * HOUR, accepted_at=T0 - 2 * HOUR)

    assert await stores.queue.take(DIRECT, ready_at=T0, limit=9) == [near, middle, late]
    assert await stores.queue.take(DIRECT, ready_at=T0, limit=2) == [near, middle]


async def test_taking_takes_nothing_away(stores):
    job = await accepted(stores)

    for _ in range(2):
        assert await stores.queue.take(DIRECT, ready_at=T0, limit=9) == [job]


async def test_a_job_is_not_taken_before_it_is_ready(stores):
    job = await accepted(stores, deadline=T0 + 2 * HOUR)
    called = advance(job, Escalated(InstanceId("i")))
    paused = advance(called, Released(1, "HTTP 503", not_before=T0 + HOUR))
    await stores.jobs.replace_many([JobWrite(called)])
    await stores.jobs.replace_many([JobWrite(paused)])
    ready = await accepted(stores)

    assert await stores.queue.take(DIRECT, ready_at=T0, limit=9) == [ready]
    assert await stores.queue.take(DIRECT, ready_at=T0 + HOUR, limit=1) == [paused]


async def test_each_key_has_a_queue_of_its_own(stores):
    here = await accepted(stores)
    there = await accepted(stores, key=make_key(lane=Lane.INTERACTIVE, model="gpt-4o"))

    assert await stores.queue.take(here.key, ready_at=T0, limit=9) == [here]
    assert await stores.queue.take(there.key, ready_at=T0, limit=9) == [there]
    assert await stores.queue.take(make_key(model="o3"), ready_at=T0, limit=9) == []


async def test_due_are_the_jobs_with_a_deadline_before(stores):
    near = await accepted(stores, deadline=T0 + HOUR)
    await accepted(stores, deadline=T0 + 2 * HOUR)
    nearer = await accepted(stores, deadline=T0)

    assert await stores.queue.due(DIRECT, before=T0 + 2 * HOUR, limit=9) == [nearer, near]
    assert await stores.queue.due(DIRECT, before=T0 + 2 * HOUR, limit=1) == [nearer]
    assert await stores.queue.due(DIRECT, before=T0, limit=9) == []
    assert await stores.queue.due(make_key(), before=T0 + 9 * HOUR, limit=9) == []


async def test_a_job_can_be_due_before_it_is_ready(stores):
    job = await accepted(stores, not_before=T0 + 3 * HOUR, deadline=T0 + HOUR)

    assert await stores.queue.due(DIRECT, before=T0 + 2 * HOUR, limit=9) == [job]


async def test_a_claimed_job_is_neither_taken_nor_due(stores):
    job = await accepted(stores, key=make_key())
    batch = make_batch()
    await stores.batches.add(batch)
    limits = ClaimLimits(max_requests=9, max_bytes=10**6)
    await stores.batches.claim(batch.key, batch.id, limits, ready_at=T0)

    assert await stores.queue.take(job.key, ready_at=T0, limit=9) == []
    assert await stores.queue.due(job.key, before=job.deadline + HOUR, limit=9) == []


async def test_escalating_jobs_are_found_whoever_calls_them(stores):
    await accepted(stores)
    called = [await accepted(stores) for _ in range(3)]
    afters = [advance(job, Escalated(InstanceId(job.id))) for job in called]
    await stores.jobs.replace_many([JobWrite(after) for after in afters])

    found = await stores.queue.escalating(limit=9)

    # In any order, and IDs have their shards first.
    assert sorted(found, key=lambda job: job.id) == sorted(afters, key=lambda job: job.id)
    assert len(await stores.queue.escalating(limit=2)) == 2
