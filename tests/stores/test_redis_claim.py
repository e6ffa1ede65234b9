"""Which jobs a claim takes where shards differ, and what it does if it can take none."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from proxy.core.batch import Batch
from proxy.core.errors import StoreCorruptError
from proxy.core.ids import JobId
from proxy.ports.batches import ClaimLimits
from proxy.stores.codec import to_micros
from proxy.stores.redis import RedisStores, keys
from proxy.stores.redis.claim import Claim
from proxy.stores.redis.claim_plan import total
from tests.helpers.factories import IDS, T0, make_batch, make_job, make_key, new_job
from tests.helpers.redis_server import RedisServer, opened

pytestmark = pytest.mark.redis

MILLISECOND = timedelta(milliseconds=1)
LATER = T0 + timedelta(hours=1)

STRANGE = [b"", b"\xff 1 2", b"a b c d e f g h", b"job_0 1 x 3 4 5 6 "]
"""What stands in a queue and is no row of ours."""


@pytest.fixture
async def stores(server: RedisServer) -> AsyncIterator[RedisStores]:
    server.admin.flushall()
    async with opened(server.url) as one:
        yield one


async def accepted(
    stores: RedisStores, shard: int, *, count: int, tokens: int, after: int = 0
) -> Sequence[JobId]:
    """Accept jobs in one shard, each a millisecond younger than the last."""
    news = []
    for age in range(after, after + count):
        at = T0 + age * MILLISECOND
        job = make_job(id=IDS.job(at, shard=shard), accepted_at=at, tokens=tokens)
        news.append(new_job(job))
    return [one.job.id for one in await asyncio.gather(*map(stores.jobs.accept, news))]


async def filling(stores: RedisStores) -> Batch:
    batch = make_batch()
    await stores.batches.add(batch)
    return batch


async def claimed(stores: RedisStores, limits: ClaimLimits) -> set[JobId]:
    """Fill a batch; return what is in it."""
    batch = await filling(stores)
    while not (await stores.batches.claim(batch.key, batch.id, limits, ready_at=LATER)).complete:
        pass
    return {item.job_id async for page in stores.batches.items(batch.id) for item in page}


@pytest.mark.parametrize("place", [0, 20])
async def test_a_large_job_waits_for_no_smaller_ones_that_are_younger(stores, place):
    """Equal calls are all in one shard: thousands of them, beside one that is half a batch."""
    limits = ClaimLimits(max_requests=50_000, max_bytes=10**9, max_tokens=9_000)
    older = await accepted(stores, 5, count=place, tokens=40)
    large = await accepted(stores, 5, count=1, tokens=5_000, after=place)
    younger = await accepted(stores, 7, count=300, tokens=40, after=place + 1)

    batch = await claimed(stores, limits)

    assert batch >= {*older, *large}
    assert batch - {*older, *large} < {*younger}
    assert len(batch) == place + 1 + (9_000 - 5_000 - place * 40) // 40


@pytest.mark.parametrize("most", [20, 50_000])
@pytest.mark.parametrize("place", [0, 5, 10])
@pytest.mark.parametrize("strange", STRANGE)
async def test_a_row_that_cannot_be_read_holds_up_what_is_behind_it_in_its_shard_alone(
    stores, server, strange, place, most
):
    behind = await accepted(stores, 5, count=10, tokens=40)
    others = await accepted(stores, 7, count=10, tokens=40)
    at = to_micros(T0 + place * MILLISECOND) - 1
    server.admin.zadd(keys.queue(5, keys.key_digest(make_key())), {strange: at})

    batch = await claimed(stores, ClaimLimits(max_requests=most, max_bytes=10**9))

    assert batch == {*others, *behind[:place]}


@pytest.mark.parametrize("strange", STRANGE)
async def test_a_claim_that_comes_away_with_nothing_says_what_is_in_its_way(
    stores, server, strange
):
    jobs = await accepted(stores, 5, count=3, tokens=40)
    queue = keys.queue(5, keys.key_digest(make_key()))
    server.admin.zadd(queue, {strange: 0})
    batch = await filling(stores)
    plenty = ClaimLimits(max_requests=50_000, max_bytes=10**9)

    with pytest.raises(StoreCorruptError, match="row of a queue") as told:
        await stores.batches.claim(batch.key, batch.id, plenty, ready_at=LATER)

    assert queue in str(told.value.hint)
    server.admin.zrem(queue, strange)
    held = await stores.batches.claim(batch.key, batch.id, plenty, ready_at=LATER)
    assert (held.count, held.complete) == (len(jobs), True)


async def test_a_claim_that_can_take_nothing_any_more_comes_to_an_end(stores, server):
    """An instance closes all shards to a batch, and dies before it seals it."""
    await accepted(stores, 7, count=10, tokens=40)
    batch = await filling(stores)
    plenty = ClaimLimits(max_requests=50_000, max_bytes=10**9)
    claim = Claim(
        client=stores.batches._client,
        key=keys.key_digest(batch.key),
        batch_id=batch.id,
        limits=plenty,
        ready_at=to_micros(LATER),
    )
    _, shards = await claim._look(1)
    for shard in keys.ALL_SHARDS:
        server.admin.hset(keys.sums(shard, batch.id), "closed", 1)

    held = total(shard.held for shard in shards.values())
    async with asyncio.timeout(20):
        taken = await claim._take_exactly(held, shards, sorted(shards))

    assert (taken.count, taken.complete) == (0, False)
    assert (await stores.batches.claim(batch.key, batch.id, plenty, ready_at=LATER)).complete
