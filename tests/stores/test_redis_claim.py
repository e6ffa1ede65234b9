"""What a claim does that can take nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from proxy.core.batch import Batch
from proxy.core.ids import JobId
from proxy.ports.batches import ClaimLimits
from proxy.stores.codec import to_micros
from proxy.stores.redis import RedisStores, keys
from proxy.stores.redis.claim import Claim
from proxy.stores.redis.claim_plan import total
from tests.helpers.factories import IDS, T0, make_batch, make_job, new_job
from tests.helpers.redis_server import RedisServer, opened

pytestmark = pytest.mark.redis

MILLISECOND = timedelta(milliseconds=1)
LATER = T0 + timedelta(hours=1)


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
