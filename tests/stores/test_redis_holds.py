"""Nothing that we ask of Redis holds it for longer than 5 ms, however jobs are spread.

Redis itself says how long each command took (SLOWLOG, which notes all of them here). On a
machine with other work it is put aside by the system, often for longer than that, in the
midst of some; so what counts is what the quicker quarter of the calls of a kind took.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from proxy.core.batch import BatchState
from proxy.core.ids import JobId
from proxy.core.job import Job, JobState, Outcome, Succeeded, advance
from proxy.ports.batches import ClaimLimits
from proxy.ports.jobs import JobFilter, JobWrite, Result
from proxy.stores.redis import RedisStores
from proxy.stores.vault import Vault
from tests.helpers.factories import IDS, OWNER, T0, make_batch, make_key, new_job
from tests.helpers.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.redis

HOLD_US = 5_000
JOBS = 2_000
LATER = T0 + timedelta(days=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        running.admin.config_set("slowlog-log-slower-than", 0)
        running.admin.config_set("slowlog-max-len", 200_000)
        yield running


@pytest.fixture
async def stores(server: RedisServer) -> AsyncIterator[RedisStores]:
    vault = Vault(keys=[b"k" * 32], hash_key=b"h" * 32)
    async with asyncio.TaskGroup() as tasks:
        opened = await RedisStores.open(server.url, vault, tasks)
        yield opened
        await opened.aclose()


def holds(server: RedisServer) -> dict[bytes, int]:
    """Return how many microseconds each kind of command held the server: its lower quarter.

    A kind is a command, or a script by its hash.
    """
    durations: dict[bytes, list[int]] = {}
    for one in server.admin.slowlog_get(200_000):
        durations.setdefault(b" ".join(one["command"].split(b" ")[:2]), []).append(one["duration"])
    ours = {kind: held for kind, held in durations.items() if kind.startswith(b"EVALSHA")}
    return {kind: sorted(held)[len(held) // 4] for kind, held in ours.items()}


@pytest.mark.parametrize("shards", [1, 64], ids=["one-shard", "all-shards"])
async def test_no_step_of_a_large_batchs_life_holds_redis_for_long(stores, server, shards):
    """Take `JOBS` equal calls of one owner from acceptance to the end of their retention."""
    server.admin.flushall()
    server.admin.slowlog_reset()
    IDS.shards = shards
    try:
        await _live(stores)
    finally:
        IDS.shards = 1

    held = holds(server)

    assert len(held) > 8
    assert {kind: us for kind, us in held.items() if us > HOLD_US} == {}


async def _live(stores: RedisStores) -> None:
    ids = [job.id for job in await _accept(stores)]
    await stores.deliveries.renew(ids[:500], until=LATER)
    fingerprint = new_job().job.fingerprint
    listed = JobFilter(states=frozenset({JobState.COMPLETED}), tag=("team", "etl"))
    for _ in range(3):
        assert await stores.deliveries.claim(OWNER, fingerprint, retry_count=1, now=T0) is not None
        assert len(await stores.queue.take(make_key(), ready_at=LATER, limit=500)) == 500
        assert len(await stores.queue.due(make_key(), before=T0, limit=500)) == 0
    await _batch(stores)
    for _ in range(3):
        assert len(await stores.jobs.list_jobs(OWNER, listed, after=None, limit=100)) == 100
    assert await stores.jobs.prune(finalized_before=LATER, limit=JOBS) == JOBS


async def _accept(stores: RedisStores) -> Sequence[Job]:
    accepted = []
    for _ in range(0, JOBS, 100):
        news = [new_job(body=b"x" * 2_000, tags={"team": "etl"}) for _ in range(100)]
        accepted += await asyncio.gather(*map(stores.jobs.accept, news))
    return [one.job for one in accepted]


async def _batch(stores: RedisStores) -> None:
    batch = make_batch()
    await stores.batches.add(batch)
    plenty = ClaimLimits(max_requests=50_000, max_bytes=10**9)
    while not (
        claimed := await stores.batches.claim(batch.key, batch.id, plenty, ready_at=LATER)
    ).complete:
        pass
    assert claimed.count == JOBS
    assert await stores.batches.replace(replace(batch, state=BatchState.SEALED, version=1))
    names: list[tuple[JobId, int]] = []
    async for page in stores.batches.lines(batch.id):
        names += [(line.job_id, line.attempt) for line in page]
    for start in range(0, JOBS, 100):
        await _end(stores, names[start : start + 100])
    await stores.batches.drop_items(batch.id)


async def _end(stores: RedisStores, names: Sequence[tuple[JobId, int]]) -> None:
    jobs = await stores.jobs.get_many([job_id for job_id, _ in names])
    outcome, result = Outcome(200), Result(status_code=200, body=b"y" * 1_500)
    writes = [JobWrite(advance(job, Succeeded(job.attempt, T0, outcome)), result) for job in jobs]
    assert await stores.jobs.replace_many(writes) == frozenset()
