"""What every `BatchStore` must do with the items of a batch."""

import asyncio

from proxy.core.job import (
    Outcome,
    Released,
    Succeeded,
    advance,
)
from proxy.ports.jobs import JobWrite
from tests.contract.batch_steps import (
    HOUR,
    cancel,
    claim,
    filling,
    ids,
    listed,
)
from tests.contract.steps import accepted
from tests.helpers.factories import (
    BODY,
    IDS,
    T0,
)


async def test_items_stand_by_affinity_then_age_with_the_attempt_of_the_claim(stores):
    order = {
        name: await accepted(stores, affinity=name[0], accepted_at=T0 + n * HOUR, body=b"x" * n)
        for n, name in enumerate(["b1", "a1", "b2", " 1", "a2"])
    }
    batch_id = await filling(stores)
    await claim(stores, batch_id, ready_at=T0 + 9 * HOUR)

    items = await listed(stores.batches.items(batch_id))

    assert [item.job_id for item in items] == [
        order[name].id for name in (" 1", "a1", "a2", "b1", "b2")
    ]
    assert [item.body_bytes for item in items] == [3, 1, 4, 0, 2]
    assert {item.attempt for item in items} == {1}
    assert len({item.seq for item in items}) == 5


async def test_lines_are_the_items_with_their_bodies(stores):
    for n in range(7):
        await accepted(stores, body=b"%d" % n, affinity=str(n % 3))
    batch_id = await filling(stores)
    await claim(stores, batch_id)

    items = await listed(stores.batches.items(batch_id))
    lines = await listed(stores.batches.lines(batch_id))

    assert [(line.job_id, line.attempt) for line in lines] == [
        (item.job_id, item.attempt) for item in items
    ]
    for line in lines:
        assert line.body == await stores.jobs.body(line.job_id)


async def test_chunks_of_lines_are_bounded_in_count_and_bytes(stores):
    await asyncio.gather(*(accepted(stores, body=b"x", affinity="a") for _ in range(1_500)))
    for _ in range(5):
        await accepted(stores, body=b"x" * 400_000, affinity="b")
    batch_id = await filling(stores)
    await claim(stores, batch_id)

    chunks = [chunk async for chunk in stores.batches.lines(batch_id)]

    assert sum(map(len, chunks)) == 1_505
    assert max(map(len, chunks)) <= 1_000
    assert max(sum(len(line.body) for line in chunk) for chunk in chunks) <= 1_400_000
    assert len(await listed(stores.batches.items(batch_id))) == 1_505


async def test_a_job_that_was_cancelled_after_the_claim_is_left_out(stores):
    jobs = [await accepted(stores) for _ in range(3)]
    batch_id = await filling(stores)
    await claim(stores, batch_id)
    await cancel(stores, jobs[1].id)

    for stream in (stores.batches.items, stores.batches.lines):
        assert set(await ids(stream(batch_id))) == {jobs[0].id, jobs[2].id}


async def test_a_job_that_an_earlier_attempt_answered_after_the_claim_is_left_out(stores):
    late, still = await accepted(stores), await accepted(stores)
    lost = await filling(stores)
    await claim(stores, lost)
    for job in (late, still):
        released = advance(await stores.jobs.get(job.id), Released(1, "lost"))
        await stores.jobs.replace_many([JobWrite(released)])
    batch_id = await filling(stores)
    await claim(stores, batch_id)

    answered = advance(await stores.jobs.get(late.id), Succeeded(1, T0, Outcome(200)))
    assert await stores.jobs.replace_many([JobWrite(answered)]) == frozenset()

    for stream in (stores.batches.items, stores.batches.lines):
        assert await ids(stream(batch_id)) == [still.id]
        assert await ids(stream(lost)) == []


async def test_an_unknown_batch_has_no_items(stores):
    for stream in (stores.batches.items, stores.batches.lines, stores.batches.open_items):
        assert await listed(stream(IDS.batch())) == []


async def test_only_this_very_batch_issued_a_name(stores):
    mine, queued = await accepted(stores), None
    batch_id, other = await filling(stores), await filling(stores)
    await claim(stores, batch_id)
    queued = await accepted(stores)

    names = [(mine.id, 1), (mine.id, 2), (mine.id, 0), (queued.id, 1), (IDS.job(), 1)]

    assert await stores.batches.issued(batch_id, names) == {(mine.id, 1)}
    assert await stores.batches.issued(other, names) == frozenset()
    assert await stores.batches.issued(IDS.batch(), names) == frozenset()
    assert await stores.batches.issued(batch_id, []) == frozenset()


async def test_a_name_stays_issued_by_the_batch_that_gave_the_job_up(stores):
    job = await accepted(stores)
    first, second = await filling(stores), await filling(stores)
    await claim(stores, first)
    released = advance(await stores.jobs.get(job.id), Released(1, "lost"))
    await stores.jobs.replace_many([JobWrite(released)])
    await claim(stores, second)

    names = [(job.id, 1), (job.id, 2)]

    assert await stores.batches.issued(first, names) == {(job.id, 1)}
    assert await stores.batches.issued(second, names) == {(job.id, 2)}


async def test_open_items_are_those_whose_job_this_batch_still_owes(stores):
    done, cancelled, released, still = [await accepted(stores, body=BODY) for _ in range(4)]
    batch_id = await filling(stores)
    await claim(stores, batch_id)
    batched = await stores.jobs.get(done.id)
    finished = advance(batched, Succeeded(1, T0, Outcome(200)))
    back = advance(await stores.jobs.get(released.id), Released(1, "expired"))
    await stores.jobs.replace_many([JobWrite(finished), JobWrite(back)])
    await cancel(stores, cancelled.id)

    assert await ids(stores.batches.open_items(batch_id)) == [still.id]

    again = await filling(stores)
    await claim(stores, again)
    assert await ids(stores.batches.open_items(again)) == [released.id]
    assert await ids(stores.batches.open_items(batch_id)) == [still.id]


async def test_open_items_of_many_can_be_released_while_they_are_read(stores):
    await asyncio.gather(*(accepted(stores, body=b"1") for _ in range(1_500)))
    batch_id = await filling(stores)
    await claim(stores, batch_id)

    seen = 0
    async for page in stores.batches.open_items(batch_id):
        seen += len(page)
        jobs = await stores.jobs.get_many([item.job_id for item in page])
        writes = [JobWrite(advance(job, Released(1, "expired"))) for job in jobs]
        assert await stores.jobs.replace_many(writes) == frozenset()

    assert seen == 1_500
    assert await listed(stores.batches.open_items(batch_id)) == []


async def test_dropped_items_are_forgotten_and_their_jobs_stay_as_they_are(stores):
    job = await accepted(stores)
    batch_id = await filling(stores)
    await claim(stores, batch_id)
    finished = advance(await stores.jobs.get(job.id), Succeeded(1, T0, Outcome(200)))
    await stores.jobs.replace_many([JobWrite(finished)])

    await stores.batches.drop_items(batch_id)
    await stores.batches.drop_items(batch_id)

    assert await listed(stores.batches.items(batch_id)) == []
    assert await stores.jobs.get(job.id) == finished
    assert await stores.jobs.body(job.id) == BODY
