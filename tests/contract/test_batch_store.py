"""What every `BatchStore` must do with batches, heads and claims.

Items are in `test_batch_items.py`.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from proxy.core.batch import BatchState
from proxy.core.ids import CredentialId
from proxy.core.job import (
    AnswerMode,
    JobState,
    Released,
    advance,
)
from proxy.ports.batches import Claimed
from proxy.ports.jobs import JobWrite
from tests.contract.batch_steps import (
    HOUR,
    KEY,
    cancel,
    claim,
    filling,
    ids,
)
from tests.contract.steps import accepted
from tests.helpers.factories import (
    CREDENTIAL,
    IDS,
    T0,
    make_batch,
    make_credential,
    make_key,
)

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
        await accepted(
            stores,
            body=b"x" * n,
            tokens=n,
            accepted_at=T0 + timedelta(seconds=n),
            deadline=T0 + n * HOUR,
        )
        for n in range(1, 10)
    ]
    await cancel(stores, jobs[4].id)
    first = await filling(stores)
    await claim(stores, first, max_requests=3, ready_at=T0 + HOUR)
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


async def test_a_large_claim_goes_on_until_it_is_complete(stores):
    jobs = await asyncio.gather(*(accepted(stores, body=b"12") for _ in range(2_499)))
    urgent = await accepted(
        stores, body=b"12", accepted_at=T0 - HOUR, deadline=jobs[0].deadline - HOUR
    )
    batch_id = await filling(stores)

    counts = []
    while not (claimed := await claim(stores, batch_id, max_requests=2_400)).complete:
        counts.append(claimed.count)

    assert all(2_000 <= count <= 2_400 for count in counts)
    assert (claimed.count, claimed.body_bytes) == (2_400, 4_800)
    assert claimed.nearest_deadline == urgent.deadline
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


async def test_a_batch_is_lost_only_if_it_holds_items_and_is_not_known(stores):
    await accepted(stores)
    await claim(stores, IDS.batch())
    batch_id = await filling(stores)
    assert (await claim(stores, batch_id)).count == 1

    assert await stores.batches.lost() == []


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
