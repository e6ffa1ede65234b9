"""What the fleet's store does beyond the contract: opening, crashes, time to live, secrets."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import structlog
from hypothesis import given, settings

from proxy.core.batch import BatchState
from proxy.core.errors import ConfigError, StoreCorruptError
from proxy.core.ids import BatchId, InstanceId, JobId, shard_for, shard_of
from proxy.core.job import CancelRequested, Escalated, Job, Outcome, Released, Succeeded, advance
from proxy.core.ledger import Booking, Receipt, Sums, batch_row
from proxy.core.plan import Head
from proxy.core.repeats import CLAIM_WINDOW
from proxy.ports.batches import ClaimLimits
from proxy.ports.jobs import DeliveryNote, JobFilter, JobWrite, Result
from proxy.stores.codec import to_micros
from proxy.stores.redis import RedisStores, keys
from proxy.stores.redis.claim import Claim
from proxy.stores.redis.deliveries import EXPECTED
from proxy.stores.redis.opening import SCHEMA
from proxy.stores.redis.queue import small_field
from proxy.stores.vault import Vault
from tests.contract.steps import assert_left_out, assert_stands_among
from tests.contract.test_delivery_store import STEPS, play
from tests.helpers.factories import (
    IDS,
    OWNER,
    T0,
    make_batch,
    make_credential,
    make_job,
    make_key,
    new_job,
)
from tests.helpers.fakes import MemoryStores
from tests.helpers.redis_server import RedisServer, eventually

pytestmark = pytest.mark.redis

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
HEAD = struct.Struct("<7d")
PLENTY = ClaimLimits(max_requests=10_000, max_bytes=10**9)
KEYS = Vault(keys=[b"k" * 32], hash_key=b"h" * 32)
CANARY = "canary-prompt"


@asynccontextmanager
async def opened(server: RedisServer) -> AsyncIterator[RedisStores]:
    async with asyncio.TaskGroup() as tasks:
        stores = await RedisStores.open(server.url, KEYS, tasks)
        try:
            yield stores
        finally:
            await stores.aclose()


@pytest.fixture(autouse=True)
def _empty(server: RedisServer) -> None:
    server.admin.flushall()


@pytest.fixture
async def stores(server: RedisServer) -> AsyncIterator[RedisStores]:
    async with opened(server) as one:
        yield one


async def accepted(stores: RedisStores, **changes: Any) -> Job:
    return (await stores.jobs.accept(new_job(**changes))).job


async def accepted_everywhere(stores: RedisStores, count: int) -> list[Job]:
    """Accept jobs in all shards."""
    news = [new_job(id=IDS.job(shard=number % 64)) for number in range(count)]
    return [one.job for one in await asyncio.gather(*map(stores.jobs.accept, news))]


async def filling(stores: RedisStores) -> BatchId:
    batch = make_batch()
    await stores.batches.add(batch)
    return batch.id


async def claim(stores: RedisStores, batch_id: BatchId) -> int:
    claimed = await stores.batches.claim(make_key(), batch_id, PLENTY, ready_at=T0)
    return claimed.count


async def items(stores: RedisStores, batch_id: BatchId) -> list[JobId]:
    return [item.job_id async for page in stores.batches.items(batch_id) for item in page]


# Opening


async def test_a_server_that_throws_keys_away_is_refused(server):
    server.admin.config_set("maxmemory-policy", "allkeys-lru")
    try:
        async with asyncio.TaskGroup() as tasks:
            with pytest.raises(ConfigError, match="allkeys-lru") as refused:
                await RedisStores.open(server.url, KEYS, tasks)
    finally:
        server.admin.config_set("maxmemory-policy", "noeviction")

    assert "noeviction" in (refused.value.hint or "")


@pytest.mark.parametrize(("schema", "version"), [(SCHEMA - 1, "older"), (SCHEMA + 1, "newer")])
async def test_a_store_of_another_version_is_refused(stores, server, schema, version):
    server.admin.hset(keys.META, "schema", schema)

    async with asyncio.TaskGroup() as tasks:
        with pytest.raises(StoreCorruptError, match=f"{version} version"):
            await RedisStores.open(server.url, KEYS, tasks)


async def test_it_says_that_a_server_keeps_everything_in_memory_only(stores):
    durability = await stores.durability()

    assert durability.words == "redis: memory only: everything can be lost; 0 replicas"
    assert not durability.is_durable


@pytest.mark.parametrize(
    ("fsync", "lost"),
    [("everysec", "the last second"), ("no", "half a minute"), ("always", None)],
)
async def test_a_file_that_reaches_the_disk_later_than_the_answer_is_not_durable(
    stores, server, fsync, lost
):
    server.admin.config_set("appendfsync", fsync)
    server.admin.config_set("appendonly", "yes")
    try:
        durability = await stores.durability()
    finally:
        server.admin.config_set("appendonly", "no")

    can_be_lost = f": {lost} can be lost with its machine" if lost else ""
    assert f"fsync {fsync}{can_be_lost}; 0" in durability.words
    assert durability.is_durable == (lost is None)


# Crashes


async def test_a_claim_that_is_cut_off_at_any_moment_loses_no_job_and_takes_none_twice(stores):
    for turns in range(1, 40, 3):
        jobs = await accepted_everywhere(stores, 96)
        batch_id = await filling(stores)
        async with asyncio.TaskGroup() as group:
            doomed = group.create_task(claim(stores, batch_id))
            for _ in range(turns):
                await asyncio.sleep(0)
            doomed.cancel()

        assert await claim(stores, batch_id) == 96

        assert sorted(await items(stores, batch_id)) == sorted(job.id for job in jobs)
        assert await stores.batches.heads() == []


async def test_a_take_that_was_planned_before_the_batch_was_sealed_takes_nothing(stores):
    batch = make_batch()
    await stores.batches.add(batch)
    await accepted_everywhere(stores, 64)
    late = Claim(
        client=stores.batches._client,
        key=keys.key_digest(batch.key),
        batch_id=batch.id,
        limits=PLENTY,
        ready_at=to_micros(T0),
    )
    assert await late._is_filling()
    fronts = await late._peek(keys.ALL_SHARDS, 10)

    assert await stores.batches.replace(replace(batch, state=BatchState.SEALED, version=1))
    taken = await late._take({shard: front.rows for shard, front in fronts.items()})

    assert sum(one.count for one in taken.values()) == 0
    assert await items(stores, batch.id) == []
    assert await claim(stores, await filling(stores)) == 64


async def test_the_jobs_of_a_batch_that_is_lost_can_be_given_back(stores, server):
    """Of a cluster's servers, the one that has the batches fails over to one that is behind."""
    jobs = await accepted_everywhere(stores, 64)
    lost, other = await filling(stores), await filling(stores)
    await claim(stores, lost)
    await accepted_everywhere(stores, 3)
    await claim(stores, other)

    server.admin.hdel(keys.BATCHES, lost)
    server.admin.zrem(keys.BATCHES_LIVE, lost)

    assert await stores.batches.lost() == [lost]
    waiting = [item.job_id async for page in stores.batches.open_items(lost) for item in page]
    assert sorted(waiting) == sorted(job.id for job in jobs)
    found = await stores.jobs.get_many(waiting)
    released = [advance(job, Released(job.attempt, "its batch was lost")) for job in found]
    assert not await stores.jobs.replace_many([JobWrite(job) for job in released])
    await stores.batches.drop_items(lost)
    assert await stores.batches.lost() == []
    assert await claim(stores, await filling(stores)) == 64


async def test_a_credential_that_is_remembered_again_at_the_last_moment_stays(stores):
    one = make_credential()
    await stores.credentials.remember(one)
    await stores.credentials.forget_unused(limit=9)

    # The next pass has decided already that it goes.
    (row,) = await stores.credentials._everything()
    await stores.credentials.remember(one)
    assert not await stores.credentials._forget(row)

    assert await stores.credentials.all() == [one]


async def test_a_model_that_is_noted_again_at_the_last_moment_stays_known(stores):
    credential, later = make_credential().id, T0 + HOUR
    await stores.unbatchable.note(credential, "/v1/x", "m", until=T0)

    # Another instance has read that it is over, and is about to forget it.
    over = {f'{credential} ["/v1/x", "m"]': b"%d" % to_micros(T0)}
    await stores.unbatchable.note(credential, "/v1/x", "m", until=later)
    await stores.unbatchable._forget(over)

    assert await stores.unbatchable.known(now=T0) == {(credential, "/v1/x", "m"): later}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"x", b"1"),
        (b"c {}", b"1"),
        (b'c ["/v1/x", "m"]', b"soon"),
        (b"\xff", b"1"),
        (b"c 7", b"1"),
    ],
)
async def test_a_note_about_a_model_that_cannot_be_read_hides_no_other(
    stores, server, field, value
):
    credential, later = make_credential().id, T0 + HOUR
    await stores.unbatchable.note(credential, "/v1/x", "m", until=later)
    server.admin.hset(keys.UNBATCHABLE, field, value)

    with structlog.testing.capture_logs() as said:
        for _ in range(2):
            known = await stores.unbatchable.known(now=T0)
            assert known == {(credential, "/v1/x", "m"): later}

    assert [(line["event"], line["subject"]) for line in said] == [
        ("record.unread", keys.UNBATCHABLE)
    ]
    assert server.admin.hexists(keys.UNBATCHABLE, field)


async def test_what_stands_in_another_jobs_place_is_not_taken_for_it(stores, server):
    mine, theirs = await accepted(stores), await accepted(stores)
    for name in (keys.record, keys.payload):
        server.admin.set(name(mine.id), server.admin.get(name(theirs.id)))

    for read in (stores.jobs.get, stores.jobs.body):
        with pytest.raises(StoreCorruptError):
            await read(mine.id)


DAMAGED = b"1 cancelled 0 key 0 -\nneither a job nor what a newer version makes of one"


async def test_a_record_that_cannot_be_read_keeps_no_other_job_from_being_pruned(stores, server):
    damaged, *others = await accepted_everywhere(stores, 3)
    for minutes, job in enumerate((damaged, *others)):
        after = advance(job, Succeeded(0, T0 + minutes * MINUTE, Outcome(200)))
        result = Result(status_code=200, body=b"{}")
        assert not await stores.jobs.replace_many([JobWrite(after, result)])
    server.admin.set(keys.record(damaged.id), DAMAGED)

    assert await stores.jobs.prune(finalized_before=T0 + HOUR, limit=9) == 3

    assert await stores.jobs.get_many([job.id for job in others]) == []
    assert not [*server.admin.scan_iter(f"*:{damaged.id}")]
    assert await stores.jobs.prune(finalized_before=T0 + HOUR, limit=9) == 0


async def test_a_record_that_cannot_be_read_ends_no_other_waiters_lease(stores, server):
    damaged, other = [await accepted(stores) for _ in range(2)]
    server.admin.set(keys.record(damaged.id), DAMAGED)

    async with opened(server) as another:
        await another.deliveries.renew([damaged.id, other.id], until=T0 + HOUR)
        now = T0 + HOUR - SECOND
        claims = [
            await another.deliveries.claim(OWNER, other.fingerprint, retry_count=0, now=now)
            for _ in range(2)
        ]

    assert claims == [damaged.id, None]


async def test_a_queued_job_that_cannot_be_read_holds_up_no_other(stores, server):
    damaged, other = await accepted_everywhere(stores, 2)
    server.admin.set(keys.record(damaged.id), DAMAGED)

    with structlog.testing.capture_logs() as said:
        taken = await stores.queue.take(make_key(), ready_at=T0, limit=9)
        due = await stores.queue.due(make_key(), before=T0 + 99 * HOUR, limit=9)

    assert [job.id for job in taken] == [job.id for job in due] == [other.id]
    assert [(line["event"], line["subject"]) for line in said] == [("record.unread", damaged.id)]


async def test_a_listed_job_that_cannot_be_read_keeps_its_place(stores, server):
    times = [T0 + each * SECOND for each in range(3)]
    older, damaged, newer = [
        await accepted(stores, id=IDS.job(at, shard=shard), accepted_at=at)
        for shard, at in enumerate(times)
    ]
    server.admin.set(keys.record(damaged.id), DAMAGED)

    await assert_stands_among(stores, damaged.id, older.id, newer.id)


async def test_a_queued_job_that_cannot_be_read_takes_no_place_of_another(stores, server):
    damaged, other = await accepted_everywhere(stores, 2)
    server.admin.set(keys.record(damaged.id), DAMAGED)

    for _ in range(2):
        taken = await stores.queue.take(make_key(), ready_at=T0, limit=1)

    assert [job.id for job in taken] == [other.id]


async def test_a_called_job_that_cannot_be_read_holds_up_no_other(stores, server):
    damaged, other = jobs = await accepted_everywhere(stores, 2)
    called = [JobWrite(advance(job, Escalated(InstanceId("one")))) for job in jobs]
    assert not await stores.jobs.replace_many(called)
    server.admin.set(keys.record(damaged.id), DAMAGED)

    assert [job.id for job in await stores.queue.escalating(limit=9)] == [other.id]


async def test_a_queue_whose_key_cannot_be_read_holds_up_no_other(stores, server):
    damaged, fine = [await accepted(stores, key=make_key(model=name)) for name in ("1", "2")]
    name = keys.key_digest(damaged.key)
    server.admin.hset(keys.batch_keys(shard_of(damaged.id)), name, b"damaged")

    with structlog.testing.capture_logs() as said:
        assert [head.key for head in await stores.batches.heads()] == [fine.key]

    assert [(line["event"], line["subject"]) for line in said] == [
        ("record.unread", f"queue {name}")
    ]


def by_model(heads: Sequence[Head]) -> dict[str, Head]:
    return {head.key.model: head for head in heads}


DAMAGED_SUMS = [b"", b"damaged", HEAD.pack(*[float("inf")] * 7)]


@pytest.mark.parametrize("damage", DAMAGED_SUMS)
async def test_a_queue_whose_sums_are_damaged_is_counted_anew(stores, server, damage):
    jobs = [await accepted(stores, deadline=T0 + hours * HOUR) for hours in (3, 2, 1)]
    await accepted(stores, key=make_key(model="fine"))
    before = by_model(await stores.batches.heads())
    name = keys.key_digest(jobs[0].key)
    for job in jobs[:2]:
        server.admin.hset(keys.heads(shard_of(job.id)), name, damage)

    with structlog.testing.capture_logs() as said:
        assert by_model(await stores.batches.heads()) == before
        assert by_model(await stores.batches.all_heads()) == before

    assert [(line["event"], line["subject"]) for line in said] == [
        ("record.unread", f"queue {name}")
    ]
    assert await claim(stores, await filling(stores)) == len(jobs)
    assert [head.key.model for head in await stores.batches.heads()] == ["fine"]


@pytest.mark.parametrize("damage", DAMAGED_SUMS)
async def test_a_queue_whose_sums_are_damaged_and_that_is_empty_is_gone(stores, server, damage):
    server.admin.hset(keys.heads(7), "name", damage)

    assert await stores.batches.heads() == []

    assert not server.admin.exists(keys.heads(7))


async def test_a_queue_whose_sums_cannot_be_read_holds_up_no_other(stores, server):
    """They are no times, and yet numbers: nothing says that they are damaged."""
    damaged, fine = [await accepted(stores, key=make_key(model=name)) for name in ("1", "2")]
    name = keys.key_digest(damaged.key)
    server.admin.hset(keys.heads(shard_of(damaged.id)), name, HEAD.pack(*[1e18] * 7))

    with structlog.testing.capture_logs() as said:
        assert [head.key for head in await stores.batches.heads()] == [fine.key]

    assert [(line["event"], line["subject"]) for line in said] == [
        ("record.unread", f"queue {name}")
    ]
    with pytest.raises(StoreCorruptError):
        await stores.batches.all_heads()


@pytest.mark.parametrize("damage", [b"", b"damaged", b"\xff 1", b"job_0 x"])
async def test_a_deadline_that_cannot_be_read_holds_up_no_other(stores, server, damage):
    job = await accepted(stores)
    due = keys.deadlines(shard_of(job.id), keys.key_digest(job.key))
    server.admin.zadd(due, {damage: 0})

    for limit in (1, 9):
        found = await stores.queue.due(job.key, before=T0 + 99 * HOUR, limit=limit)
        assert [one.id for one in found] == [job.id]


@pytest.mark.parametrize("damage", [b"1 sealed {", b"damaged", b"\xff 1 2"])
async def test_a_batch_that_cannot_be_read_holds_up_no_other(stores, server, damage):
    damaged, other = make_batch(), make_batch()
    for batch in (damaged, other):
        await stores.batches.add(batch)
    server.admin.hset(keys.BATCHES, damaged.id, damage)

    await assert_left_out(stores, damaged, other)


async def test_no_credential_is_forgotten_that_an_unreadable_queue_may_need(stores, server):
    damaged = await accepted(stores)
    await stores.credentials.remember(make_credential())
    name = keys.key_digest(damaged.key)
    server.admin.hset(keys.batch_keys(shard_of(damaged.id)), name, b"damaged")

    for _ in range(2):
        with pytest.raises(StoreCorruptError):
            await stores.credentials.forget_unused(limit=9)

    assert await stores.credentials.all()


async def test_no_credential_is_forgotten_that_an_unreadable_batch_may_need(stores, server):
    damaged = await filling(stores)
    await stores.credentials.remember(make_credential())
    server.admin.hset(keys.BATCHES, damaged, b"damaged")

    for _ in range(2):
        with pytest.raises(StoreCorruptError):
            await stores.credentials.forget_unused(limit=9)

    assert await stores.credentials.all()


def test_more_can_be_set_back_than_a_replica_is_behind_by_that_takes_over():
    """One is taken that lost its master up to ten times as long ago as it takes to notice that.

    redis.io, "High availability with Sentinel", replica selection; redis.conf,
    `cluster-replica-validity-factor`.
    """
    down_after, node_timeout = timedelta(seconds=30), timedelta(seconds=15)

    assert RedisStores.setback > max(10 * down_after, 10 * node_timeout)


@pytest.mark.parametrize("damage", [b"damaged", b"\xff", b""])
async def test_a_row_of_the_ledger_that_cannot_be_read_spoils_no_other(stores, server, damage):
    day = T0.date()
    for name in ("damaged", "fine"):
        row = batch_row(make_key(model=name), day=day)
        booking = Booking(row, Sums(possible_doubles=1))
        await stores.ledger.book([Receipt(id=name, job_id=None, bookings=(booking,))])
    place = keys.ledger(0, day.isoformat())
    (field,) = [one for one in server.admin.hkeys(place) if b"damaged" in one]
    server.admin.hset(place, field, damage)

    rows = await stores.ledger.rows(since=day, until=day)

    assert [row.key.model for row in rows] == ["fine"]


@pytest.mark.parametrize("damage", [b"damaged", b"\xff 1 2", b""])
async def test_what_is_no_record_at_all_is_the_store_s_failure_and_no_bug(stores, server, damage):
    damaged, other = await accepted_everywhere(stores, 2)
    batch_id, unread = await filling(stores), await filling(stores)
    assert await claim(stores, batch_id) == 2
    server.admin.set(keys.record(damaged.id), damage)
    server.admin.set(keys.result(damaged.id), damage)
    server.admin.hset(keys.BATCHES, unread, damage)
    queued = await accepted(stores)

    assert await items(stores, batch_id) == [other.id]
    with pytest.raises(StoreCorruptError):
        await stores.jobs.result(damaged.id)
    with suppress(StoreCorruptError):
        assert await claim(stores, unread) == 0
    server.admin.hset(keys.heads(shard_of(queued.id)), keys.key_digest(queued.key), damage)
    server.admin.hset(keys.SMALL, small_field(queued.key), damage)
    assert [head.count for head in await stores.batches.heads()] == [1]


FOREIGN = {
    keys.webhook("delivered"): ("delivered", b"x"),
    keys.webhook("at"): ("failed_at", b"9" * 30),
    keys.pending(0): ("owner", b"x"),
    keys.waiting(0): ("x owner", b"1"),
    keys.credential(make_credential().id): ("status", b"x"),
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_what_another_wrote_among_ours_is_the_store_s_failure_and_no_bug(
    stores, server, name
):
    await stores.credentials.remember(make_credential())
    field, value = FOREIGN[name]
    server.admin.hset(name, field, value)
    reads = {
        keys.webhook("delivered"): lambda: stores.notices.standing(["delivered"]),
        keys.webhook("at"): lambda: stores.notices.standing(["at"]),
        keys.pending(0): stores.jobs.pending,
        keys.waiting(0): lambda: stores.deliveries.claimable_owners(now=T0),
        keys.credential(make_credential().id): lambda: stores.credentials.get(make_credential().id),
    }

    with pytest.raises(StoreCorruptError):
        await reads[name]()


@pytest.mark.parametrize("score", [0.5, float("-inf"), -(10.0**30)])
async def test_a_queue_with_a_place_that_is_none_is_no_bug(stores, server, score):
    job = await accepted(stores)
    digest = keys.key_digest(job.key)
    for name in (keys.queue, keys.deadlines):
        server.admin.zadd(name(shard_of(job.id), digest), {"strange": score})

    with suppress(StoreCorruptError):
        await stores.queue.due(job.key, before=T0 + 99 * HOUR, limit=9)
    for most in (1, 10_000):
        limits = ClaimLimits(max_requests=most, max_bytes=10**9)
        with pytest.raises(StoreCorruptError):
            await stores.batches.claim(job.key, await filling(stores), limits, ready_at=T0)


# Order over all shards


async def accepted_in_one_shard(stores: RedisStores, count: int, **changes: Any) -> list[JobId]:
    """Accept jobs that are all in the first shard, each a second younger than the last."""
    news = []
    for age in range(count):
        at = T0 + age * SECOND
        job = make_job(id=IDS.job(at, shard=0), accepted_at=at, **changes)
        news.append(new_job(job))
    return [one.job.id for one in await asyncio.gather(*map(stores.jobs.accept, news))]


async def test_the_oldest_are_claimed_first_though_one_shard_has_most_of_them(stores):
    await accepted_everywhere(stores, 1)
    old = await accepted_in_one_shard(stores, 150)
    for shard in range(1, 64):
        at = T0 + HOUR
        await accepted(stores, id=IDS.job(at, shard=shard), accepted_at=at)
    batch_id = await filling(stores)

    limits = ClaimLimits(max_requests=120, max_bytes=10**9)
    await stores.batches.claim(make_key(), batch_id, limits, ready_at=T0 + 2 * HOUR)

    assert set(await items(stores, batch_id)) >= set(old[:119])


async def test_the_newest_are_listed_first_though_one_shard_has_most_of_them(stores):
    newest = await accepted_in_one_shard(stores, 100)
    for shard in range(1, 64):
        at = T0 - HOUR
        await accepted(stores, id=IDS.job(at, shard=shard), accepted_at=at)

    listed = await stores.jobs.list_jobs(OWNER, JobFilter(), after=None, limit=60)

    assert [job.id for job in listed] == newest[::-1][:60]


async def test_the_nearest_are_taken_first_though_one_shard_has_most_of_them(stores):
    near = await accepted_in_one_shard(stores, 100, deadline=T0 + HOUR)
    for shard in range(1, 64):
        await accepted(stores, id=IDS.job(shard=shard), deadline=T0 + 2 * HOUR)

    taken = await stores.queue.take(make_key(), ready_at=T0 + HOUR, limit=80)

    assert {job.id for job in taken} <= set(near)
    assert len(taken) == 80


async def test_the_first_to_end_are_pruned_first_though_one_shard_has_most_of_them(stores):
    first = await accepted_in_one_shard(stores, 60)
    last = [await accepted(stores, id=IDS.job(shard=shard)) for shard in range(1, 64)]
    for job in [*await stores.jobs.get_many(first), *last]:
        at = T0 if job.id in first else T0 + HOUR
        after = advance(job, CancelRequested(at))
        assert await stores.jobs.replace_many([JobWrite(after)]) == frozenset()

    assert await stores.jobs.prune(finalized_before=T0 + 2 * HOUR, limit=60) == 60

    assert await stores.jobs.get_many(first) == []
    assert len(await stores.jobs.get_many([job.id for job in last])) == 63


# What is kept, and for how long


async def test_nothing_that_is_pending_has_a_time_to_live(stores, server):
    await stores.credentials.remember(make_credential())
    await accepted_everywhere(stores, 5)
    await claim(stores, await filling(stores))
    home = shard_for(make_job().fingerprint)
    await accepted(stores, id=IDS.job(shard=home), tags={"team": "etl"})

    # That a shard may hold equal calls is worth nothing without them.
    lasting = [name for name in server.admin.scan_iter() if b"elsewhere" not in name]
    assert {server.admin.ttl(name) for name in lasting} == {-1}


async def test_the_contents_of_a_job_that_ended_vanish_long_after_its_retention(stores, server):
    job = await accepted(stores)
    after = advance(job, Succeeded(0, T0, Outcome(200)))
    await stores.jobs.replace_many([JobWrite(after, Result(status_code=200, body=b"{}"))])

    for name in (keys.payload, keys.result):
        assert 80 * 86_400 < server.admin.ttl(name(job.id)) <= 90 * 86_400

    # As when the time is over: nothing is there to be read, and the pruner still knows
    # what else there is of the job.
    server.admin.delete(keys.payload(job.id), keys.result(job.id))
    assert await stores.jobs.get(job.id) == after
    assert await stores.jobs.result(job.id) is None
    assert await stores.jobs.prune(finalized_before=T0 + HOUR, limit=9) == 1
    assert await stores.jobs.prune(finalized_before=T0 + HOUR, limit=9) == 0


@pytest.mark.parametrize("pruned_late", [False, True], ids=["in time", "long after"])
async def test_when_all_is_over_nothing_is_left_that_does_not_vanish_by_itself(
    stores, server, pruned_late
):
    await stores.credentials.remember(make_credential())
    await stores.credentials.pause(make_credential().id, at=T0, status=401, body=b"no")
    await stores.unbatchable.note(make_credential().id, "/v1/x", "m", until=T0)
    await stores.batches.note_size(make_key(), small=True)
    jobs = [
        await accepted(
            stores, id=IDS.job(shard=n), idempotency_key=f"k{n}", tags={"a": "b"}, webhook="w"
        )
        for n in range(6)
    ]
    batch = make_batch()
    await stores.batches.add(batch)
    await claim(stores, batch.id)
    for number, job in enumerate(jobs):
        await stores.deliveries.finish(
            [DeliveryNote(job.id, flushed=number % 2 == 0, retry_count=0)]
        )
        event = CancelRequested(T0) if number == 0 else Succeeded(1, T0, Outcome(200))
        after = advance(await stores.jobs.get(job.id), event)
        await stores.jobs.replace_many([JobWrite(after, Result(status_code=200, body=b"{}"))])
    for version, state in enumerate((BatchState.SEALED, BatchState.SETTLED), start=1):
        assert await stores.batches.replace(
            replace(batch, state=state, settled_at=T0, version=version)
        )

    if pruned_late:
        # As of a fleet that comes back after months: what has its time is gone before.
        mortal = [name for name in server.admin.scan_iter() if server.admin.ttl(name) != -1]
        server.admin.delete(*mortal)

    assert await stores.jobs.prune(finalized_before=T0 + HOUR, limit=99) == 6
    assert await stores.batches.prune(settled_before=T0 + HOUR, limit=9) == 1
    assert await stores.credentials.forget_unused(limit=9) == 0
    assert await stores.credentials.forget_unused(limit=9) == 1
    left = [name for name in server.admin.scan_iter() if server.admin.ttl(name) == -1]
    assert left == [keys.META.encode()]


async def test_neither_prompts_nor_credentials_are_stored_in_clear(stores, server):
    secret = "sk-canary-secret"
    await stores.credentials.remember(
        make_credential(headers=(("authorization", f"Bearer {secret}"),))
    )
    await stores.credentials.pause(make_credential().id, at=T0, status=401, body=secret.encode())
    job = await accepted(stores, body=json.dumps({"prompt": CANARY}).encode())
    after = advance(job, Succeeded(0, T0, Outcome(200)))
    result = Result(status_code=200, body=CANARY.encode())
    await stores.jobs.replace_many([JobWrite(after, result)])

    dump = b"".join(server.admin.dump(name) + name for name in server.admin.scan_iter())

    assert job.id.encode() in dump
    assert CANARY.encode() not in dump
    assert b"canary" not in dump


async def test_a_user_can_be_confined_to_our_keys(stores, server):
    await accepted_everywhere(stores, 3)
    await claim(stores, await filling(stores))

    assert all(name.startswith(b"offramp:{") for name in server.admin.scan_iter())


async def test_an_instance_remembers_only_batch_keys_under_which_jobs_wait(stores):
    for model in ("one", "two", "three"):
        job = await accepted(stores, key=make_key(model=model))
        assert [head.key.model for head in await stores.batches.heads()] == [model]
        assert not await stores.jobs.replace_many([JobWrite(advance(job, CancelRequested(T0)))])

    assert await stores.batches.heads() == []
    assert not stores.batches._heads._keys


# Repeats


async def test_equal_calls_are_claimed_oldest_first_wherever_their_jobs_are(
    stores: RedisStores,
):
    print_ = make_job().fingerprint
    home = shard_for(print_)
    shards = [home, (home + 1) % 64, home, (home + 40) % 64]
    ids = []
    for age, shard in enumerate(shards):
        at = T0 + timedelta(seconds=age)
        job = await accepted(stores, id=IDS.job(at, shard=shard), accepted_at=at)
        await stores.deliveries.finish([DeliveryNote(job.id, flushed=False, retry_count=0)])
        ids.append(job.id)

    async def claimed() -> JobId | None:
        return await stores.deliveries.claim(OWNER, print_, retry_count=0, now=T0 + HOUR / 99)

    assert [await claimed() for _ in range(5)] == [*ids, None]


async def test_equal_calls_in_their_own_shard_are_claimed_each_once(stores, server):
    home = shard_for(make_job().fingerprint)
    jobs = [await accepted(stores, id=IDS.job(shard=home)) for _ in range(10)]
    assert not list(server.admin.scan_iter("*elsewhere*"))

    claims = await asyncio.gather(
        *(
            stores.deliveries.claim(OWNER, jobs[0].fingerprint, retry_count=0, now=T0 + HOUR)
            for _ in range(15)
        )
    )

    assert sorted(filter(None, claims)) == sorted(job.id for job in jobs)


async def test_of_a_flushed_answer_nothing_is_kept_for_longer_than_it_can_be_claimed(
    stores, server
):
    job = await accepted(stores)
    before = {*server.admin.scan_iter()}

    await stores.deliveries.finish([DeliveryNote(job.id, flushed=True, retry_count=0)])

    (name,) = {*server.admin.scan_iter()} - before
    window_s = CLAIM_WINDOW.total_seconds()
    assert window_s < server.admin.ttl(name) <= 2 * window_s
    # As when the time is over: a late note of the same call changes nothing any more.
    server.admin.delete(name)
    await stores.deliveries.finish([DeliveryNote(job.id, flushed=False, retry_count=0)])
    assert await stores.deliveries.claimable_owners(now=T0 + HOUR) == frozenset()
    assert (
        await stores.deliveries.claim(OWNER, job.fingerprint, retry_count=1, now=T0 + HOUR) is None
    )


async def test_of_a_call_that_is_made_all_day_only_what_can_be_claimed_is_kept(stores, server):
    ids = []
    for minute in range(60):
        job = await accepted(stores, accepted_at=T0 + minute * MINUTE)
        await stores.deliveries.finish([DeliveryNote(job.id, flushed=True, retry_count=0)])
        ids.append(job.id)

    (name,) = server.admin.scan_iter("*flushed:*")
    kept = [row.decode().split()[0] for row in server.admin.zrange(name, 0, -1)]
    # Twice the window: clocks differ.
    assert kept == ids[-2 * (CLAIM_WINDOW // MINUTE) :]
    last = T0 + 59 * MINUTE
    claims = [
        await stores.deliveries.claim(OWNER, job.fingerprint, retry_count=1, now=last)
        for _ in range(12)
    ]
    assert claims == [*ids[-11:], None]


async def test_what_a_call_left_that_was_made_often_is_taken_off_in_bounded_steps(stores, server):
    often = [await accepted(stores) for _ in range(250)]
    notes = [DeliveryNote(job.id, flushed=True, retry_count=0) for job in often]
    await stores.deliveries.finish(notes)
    (name,) = server.admin.scan_iter("*flushed:*")

    left = []
    for _ in range(4):
        job = await accepted(stores, accepted_at=T0 + HOUR)
        await stores.deliveries.finish([DeliveryNote(job.id, flushed=True, retry_count=0)])
        left.append(server.admin.zcard(name))

    assert left == [151, 52, 3, 4]


async def test_the_answer_of_a_job_of_any_instance_is_noted(stores, server):
    ours, another = await accepted(stores), make_job()
    async with opened(server) as others:
        await others.jobs.accept(new_job(another))
    many = [await accepted(stores) for _ in range(EXPECTED)]  # More than are kept in mind.

    notes = [DeliveryNote(job.id, flushed=False, retry_count=0) for job in (ours, another, many[9])]
    await stores.deliveries.finish(notes)
    await stores.deliveries.finish(notes)

    claims = [
        await stores.deliveries.claim(OWNER, ours.fingerprint, retry_count=0, now=T0)
        for _ in range(4)
    ]
    assert {*claims} == {ours.id, another.id, many[9].id, None}


def is_remembered(steps: Sequence[tuple[Any, ...]]) -> bool:
    """Tell whether all happens before a flushed answer, and what is noted of it, is forgotten."""
    seconds = sum(step[1] for step in steps if step[0] == "pass")
    return bool(seconds * SECOND < 2 * CLAIM_WINDOW)


@settings(max_examples=40)
@given(STEPS.filter(is_remembered))
def test_the_scripts_rank_like_the_rule_in_the_core(server, steps):
    async def both() -> None:
        server.admin.flushall()
        async with opened(server) as stores:
            assert await play(stores, steps) == await play(MemoryStores(), steps)

    asyncio.run(both())


# Other instances


async def test_what_one_instance_publishes_every_instance_hears(server):
    async with opened(server) as one, opened(server) as two:
        heard: dict[str, set[JobId]] = {"one": set(), "two": set()}
        one.wakeups.subscribe(heard["one"].update)
        two.wakeups.subscribe(heard["two"].update)
        ids = [IDS.job() for _ in range(1_200)]

        async def everybody_knows() -> bool:
            one.wakeups.publish(ids)
            return heard["one"] == heard["two"] == set(ids)

        await eventually(everybody_knows)


async def test_a_subscription_survives_a_broken_connection(server):
    async with opened(server) as stores:
        heard: set[JobId] = set()
        stores.wakeups.subscribe(heard.update)

        async def is_heard() -> bool:
            stores.wakeups.publish([IDS.job()])
            return bool(heard)

        await eventually(is_heard)
        server.admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        heard.clear()
        await eventually(is_heard)
