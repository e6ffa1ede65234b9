"""What every `BatchStore` must do."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest

from proxy.core.batch import BatchState
from proxy.core.ids import BatchId, CredentialId, JobId
from proxy.core.job import (
    AnswerMode,
    CancelRequested,
    Job,
    JobState,
    Outcome,
    Released,
    Succeeded,
    advance,
)
from proxy.core.lanes import BatchKey
from proxy.ports.batches import Claimed, ClaimLimits, Item, Line
from proxy.ports.jobs import JobWrite
from tests.contract.conftest import Stores
from tests.helpers.factories import (
    BODY,
    CREDENTIAL,
    IDS,
    T0,
    make_batch,
    make_credential,
    make_key,
    new_job,
)

T = TypeVar("T")

HOUR = timedelta(hours=1)
KEY = make_key()


def limits(**changes: Any) -> ClaimLimits:
    return ClaimLimits(**({"max_requests": 10_000, "max_bytes": 10**9} | changes))


async def accepted(stores: Stores, **changes: Any) -> Job:
    return (await stores.jobs.accept(new_job(**changes))).job


async def filling(stores: Stores, **changes: Any) -> BatchId:
    batch = make_batch(**changes)
    await stores.batches.add(batch)
    return batch.id


async def claim(
    stores: Stores,
    batch_id: BatchId,
    *,
    key: BatchKey = KEY,
    ready_at: datetime = T0,
    **changes: Any,
) -> Claimed:
    return await stores.batches.claim(key, batch_id, limits(**changes), ready_at=ready_at)


async def cancel(stores: Stores, job_id: JobId) -> None:
    after = advance(await stores.jobs.get(job_id), CancelRequested(T0))
    assert await stores.jobs.replace_many([JobWrite(after)]) == frozenset()


async def listed(stream: AsyncIterator[Sequence[T]]) -> list[T]:
    return [one for page in [page async for page in stream] for one in page]


async def ids(stream: AsyncIterator[Sequence[Item | Line]]) -> list[JobId]:
    return [one.job_id for one in await listed(stream)]


# Batches


async def test_a_batch_comes_back_as_it_was_added(stores):
    batch = make_batch(
        key=make_key(headers=(("anthropic-beta", "a,b"),)),
        flush_reason="linger",
        twins=("batch_2", "batch_3"),
        output_file_ids=("file-1",),
        next_at=T0 + HOUR,
        window_ends_at=T0 + 24 * HOUR,
        error_line=3,
    )

    await stores.batches.add(batch)

    assert await stores.batches.get(batch.id) == batch
    assert await stores.batches.get(IDS.batch()) is None


async def test_of_two_writers_the_second_is_refused(stores):
    batch = make_batch()
    await stores.batches.add(batch)
    one = replace(batch, state=BatchState.SEALED, version=1)
    two = replace(batch, state=BatchState.ENDED, version=1)

    assert await stores.batches.replace(one)
    assert not await stores.batches.replace(two)
    assert not await stores.batches.replace(replace(batch, version=3))
    assert not await stores.batches.replace(replace(make_batch(), version=1))

    assert await stores.batches.get(batch.id) == one


async def test_live_batches_are_all_but_the_settled_oldest_first(stores):
    by_state = {}
    for age, state in enumerate(BatchState):
        by_state[state] = make_batch(state=state, created_at=T0 - age * HOUR)
        await stores.batches.add(by_state[state])
    settled = by_state.pop(BatchState.SETTLED)

    live = await stores.batches.live()

    assert live == sorted(by_state.values(), key=lambda batch: batch.created_at)
    assert settled not in live


async def test_recent_batches_are_of_any_state_newest_first(stores):
    old = make_batch(created_at=T0, state=BatchState.SETTLED)
    new, newer = make_batch(created_at=T0 + HOUR), make_batch(created_at=T0 + 2 * HOUR)
    for batch in (newer, old, new):
        await stores.batches.add(batch)

    assert await stores.batches.recent(limit=9) == [newer, new, old]
    assert await stores.batches.recent(limit=2) == [newer, new]


async def test_pruning_erases_settled_batches_with_their_items_and_no_others(stores):
    job = await accepted(stores)
    batch = make_batch()
    await stores.batches.add(batch)
    await claim(stores, batch.id)
    for version, state in enumerate((BatchState.ENDED, BatchState.SETTLED), start=1):
        settled_at = T0 if state is BatchState.SETTLED else None
        after = replace(batch, state=state, version=version, settled_at=settled_at)
        assert await stores.batches.replace(after)
    later = [make_batch(state=BatchState.SETTLED, settled_at=T0 + age * HOUR) for age in (1, 2)]
    running = make_batch(state=BatchState.ENDED)
    for other in (*later, running):
        await stores.batches.add(other)

    assert await stores.batches.prune(settled_before=T0, limit=9) == 0
    assert await stores.batches.prune(settled_before=T0 + 2 * HOUR, limit=1) == 1
    assert await stores.batches.prune(settled_before=T0 + 2 * HOUR, limit=9) == 1

    assert {batch.id for batch in await stores.batches.recent(limit=9)} == {
        later[1].id,
        running.id,
    }
    assert await stores.batches.issued(batch.id, [(job.id, 1)]) == frozenset()


# Heads


async def test_a_head_sums_up_what_waits_under_a_key(stores):
    await accepted(stores, body=b"123", tokens=5, accepted_at=T0, deadline=T0 + 9 * HOUR)
    await accepted(
        stores,
        body=b"12",
        tokens=7,
        accepted_at=T0 + HOUR,
        deadline=T0 + 5 * HOUR,
        answer=AnswerMode.WAIT,
    )
    await accepted(stores, body=b"1", tokens=1, accepted_at=T0 - HOUR, deadline=T0 + 7 * HOUR)

    (head,) = await stores.batches.heads()

    assert head.key == KEY
    assert (head.count, head.body_bytes, head.tokens, head.held) == (3, 6, 13, 1)
    assert (head.oldest_at, head.newest_at) == (T0 - HOUR, T0 + HOUR)
    assert head.nearest_deadline == T0 + 5 * HOUR
    assert (head.small_batches, head.paused) == (0, False)


async def test_each_key_has_a_head_and_a_key_without_jobs_has_none(stores):
    keys = {
        make_key(model="gpt-4o"),
        make_key(credential=CredentialId("other")),
        make_key(headers=(("anthropic-version", "2023-06-01"),)),
        KEY,
    }
    for key in keys:
        await accepted(stores, key=key)
    gone = await accepted(stores, key=make_key(model="o3"))
    await cancel(stores, gone.id)

    assert {head.key for head in await stores.batches.heads()} == keys


async def test_a_head_says_that_the_credential_is_paused(stores):
    await stores.credentials.remember(make_credential())
    await accepted(stores)

    await stores.credentials.pause(CREDENTIAL, at=T0, status=401, body=None)
    assert [head.paused for head in await stores.batches.heads()] == [True]

    await stores.credentials.accepted(CREDENTIAL, at=T0)
    assert [head.paused for head in await stores.batches.heads()] == [False]


async def test_a_head_counts_small_batches_in_a_row(stores):
    await stores.batches.note_size(KEY, small=True)
    await stores.batches.note_size(KEY, small=True)
    await stores.batches.note_size(make_key(model="gpt-4o"), small=True)
    assert await stores.batches.heads() == []
    await accepted(stores)

    assert [head.small_batches for head in await stores.batches.heads()] == [2]

    await stores.batches.note_size(KEY, small=False)
    assert [head.small_batches for head in await stores.batches.heads()] == [0]


async def test_a_head_is_right_after_any_mix_of_accepts_claims_and_ends(stores):
    jobs = [
        await accepted(stores, body=b"x" * n, tokens=n, deadline=T0 + n * HOUR)
        for n in range(1, 10)
    ]
    await cancel(stores, jobs[4].id)
    first = await filling(stores)
    await claim(stores, first, max_requests=3)
    released = advance(await stores.jobs.get(jobs[1].id), Released(1, "expired"))
    assert await stores.jobs.replace_many([JobWrite(released)]) == frozenset()

    (head,) = await stores.batches.heads()

    waiting = [2, 4, 6, 7, 8, 9]
    assert (head.count, head.body_bytes, head.tokens) == (6, sum(waiting), sum(waiting))
    assert head.nearest_deadline == T0 + 2 * HOUR


# Claiming


async def test_a_claim_moves_the_oldest_jobs_and_says_what_the_batch_holds(stores):
    young = await accepted(stores, body=b"12345", tokens=5, deadline=T0 + 8 * HOUR)
    old = await accepted(
        stores, body=b"123", tokens=3, accepted_at=T0 - HOUR, deadline=T0 + 9 * HOUR
    )
    batch_id = await filling(stores)

    claimed = await claim(stores, batch_id, max_requests=1)

    assert claimed == Claimed(
        count=1, body_bytes=3, tokens=3, nearest_deadline=T0 + 9 * HOUR, complete=True
    )
    assert await ids(stores.batches.items(batch_id)) == [old.id]
    assert (await stores.jobs.get(young.id)).state is JobState.QUEUED
    assert (await stores.jobs.get(old.id)).batch_id == batch_id


async def test_a_claim_with_nothing_to_take_is_complete(stores):
    batch_id = await filling(stores)

    assert await claim(stores, batch_id) == Claimed(
        count=0, body_bytes=0, tokens=0, nearest_deadline=None, complete=True
    )


async def test_only_ready_jobs_of_the_key_are_claimed(stores):
    ready = await accepted(stores)
    later = await accepted(stores, not_before=T0 + HOUR)
    other = await accepted(stores, key=make_key(model="gpt-4o"))
    batch_id = await filling(stores)

    assert (await claim(stores, batch_id)).complete

    assert await ids(stores.batches.items(batch_id)) == [ready.id]
    for job in (later, other):
        assert (await stores.jobs.get(job.id)).state is JobState.QUEUED
    assert (await claim(stores, batch_id, ready_at=T0 + HOUR)).count == 2


@pytest.mark.parametrize(
    ("limit", "taken"),
    [
        ({"max_requests": 2}, 2),
        ({"max_bytes": 30}, 3),
        ({"max_bytes": 29}, 2),
        ({"max_tokens": 15}, 3),
        ({"max_tokens": 14}, 2),
    ],
)
async def test_a_claim_stops_before_the_first_job_that_does_not_fit(stores, limit, taken):
    for age in range(5):
        await accepted(stores, body=b"0123456789", tokens=5, accepted_at=T0 - age * HOUR)
    # Smaller, and younger: it must not overtake.
    await accepted(stores, body=b"", tokens=0, accepted_at=T0 + HOUR)
    batch_id = await filling(stores)

    claimed = await claim(stores, batch_id, ready_at=T0 + HOUR, **limit)

    assert (claimed.count, claimed.complete) == (taken, True)
    again = await claim(stores, batch_id, ready_at=T0 + HOUR, **limit)
    assert again == claimed


@pytest.mark.parametrize("limit", [{"max_bytes": 5}, {"max_tokens": 5}])
async def test_a_job_above_a_limit_is_taken_alone_into_an_empty_batch(stores, limit):
    small = await accepted(stores, body=b"1", tokens=1, accepted_at=T0 - HOUR)
    large = await accepted(stores, body=b"0123456789", tokens=10)
    await accepted(stores, body=b"1", tokens=1, accepted_at=T0 + HOUR)
    first, second = await filling(stores), await filling(stores)

    assert (await claim(stores, first, ready_at=T0 + HOUR, **limit)).count == 1
    assert (await claim(stores, second, ready_at=T0 + HOUR, **limit)).count == 1

    assert await ids(stores.batches.items(first)) == [small.id]
    assert await ids(stores.batches.items(second)) == [large.id]


async def test_a_large_claim_is_done_in_steps_of_two_thousand(stores):
    jobs = await asyncio.gather(*(accepted(stores, body=b"12") for _ in range(2_500)))
    batch_id = await filling(stores)

    counts = []
    while not (claimed := await claim(stores, batch_id, max_requests=2_400)).complete:
        counts.append(claimed.count)

    assert counts == [2_000]
    assert (claimed.count, claimed.body_bytes) == (2_400, 4_800)
    assert claimed.nearest_deadline == jobs[0].deadline
    (head,) = await stores.batches.heads()
    assert head.count == 100
    assert len(set(await ids(stores.batches.items(batch_id)))) == 2_400


async def test_a_repeated_claim_goes_on_where_it_stopped(stores):
    for _ in range(2):
        await accepted(stores, body=b"123")
    batch_id = await filling(stores)
    await claim(stores, batch_id)
    await accepted(stores, body=b"12")

    claimed = await claim(stores, batch_id)

    assert (claimed.count, claimed.body_bytes) == (3, 8)


async def test_a_limit_counts_what_earlier_calls_claimed(stores):
    for _ in range(2):
        await accepted(stores, body=b"123")
    batch_id = await filling(stores)
    await claim(stores, batch_id)
    await accepted(stores, body=b"12")

    assert (await claim(stores, batch_id, max_requests=2)).count == 2
    assert (await claim(stores, batch_id, max_bytes=7)).count == 2


async def test_two_batches_that_claim_at_once_share_no_job(stores):
    jobs = [await accepted(stores) for _ in range(100)]
    batches = [await filling(stores) for _ in range(4)]

    await asyncio.gather(*(claim(stores, batch_id, max_requests=30) for batch_id in batches))

    taken = [job_id for batch in batches for job_id in await ids(stores.batches.items(batch))]
    assert sorted(taken) == sorted(job.id for job in jobs)


async def test_a_batch_that_is_sealed_or_unknown_takes_no_more_jobs(stores):
    batch = make_batch()
    await stores.batches.add(batch)
    await accepted(stores)
    assert (await claim(stores, batch.id)).count == 1
    assert await stores.batches.replace(replace(batch, state=BatchState.SEALED, version=1))
    late = await accepted(stores)

    claimed = await claim(stores, batch.id)

    assert (claimed.count, claimed.complete) == (1, True)
    assert (await claim(stores, IDS.batch())).complete
    assert (await stores.jobs.get(late.id)).state is JobState.QUEUED


# Items and lines


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
