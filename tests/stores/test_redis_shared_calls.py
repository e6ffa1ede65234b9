"""Jobs that are accepted at the same time share a call of the script, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.core.errors import StoreCorruptError, StoreUnavailableError
from proxy.core.ids import CredentialId, OwnerId, shard_for
from proxy.ports.jobs import Acceptance, JobFilter, NewJob, Pending
from proxy.stores.redis import RedisStores, keys
from proxy.stores.redis.shared_connection import SHARING, SHARING_BYTES
from tests.chaos.cable import Cable
from tests.helpers.factories import IDS, OWNER, make_credential, new_job
from tests.helpers.redis_server import (
    RedisServer,
    eventually,
    opened,
    redis_server,
)

pytestmark = pytest.mark.redis

OTHER = OwnerId("owner-other")


@pytest.fixture
async def stores(server: RedisServer) -> AsyncIterator[RedisStores]:
    server.admin.flushall()
    async with opened(server.url) as one:
        # The server knows the scripts from here on.
        await one.jobs.get((await one.jobs.accept(new_job())).job.id)
        server.admin.config_resetstat()
        yield one


def at_home(call: str, **changes: Any) -> NewJob:
    """Make a job in the shard of its call, so that nothing has to be written before it."""
    return new_job(id=IDS.job(shard=shard_for(call)), fingerprint=call, **changes)


def in_shards(count: int) -> list[NewJob]:
    """Make jobs of calls that differ."""
    return [at_home(f"call {number}", tokens=number) for number in range(count)]


async def together(stores: RedisStores, news: Sequence[NewJob]) -> list[Acceptance | BaseException]:
    return await asyncio.gather(*map(stores.jobs.accept, news), return_exceptions=True)


def calls(server: RedisServer) -> int:
    return int(server.admin.info("commandstats")["cmdstat_evalsha"]["calls"])


async def test_jobs_of_all_shards_share_calls_and_come_back_as_they_were(stores, server):
    news = in_shards(8 * SHARING)

    accepted = await together(stores, news)

    assert accepted == [Acceptance(new.job, created=True) for new in news]
    assert calls(server) == 8
    jobs = [new.job for new in news]
    assert await stores.jobs.get_many([job.id for job in jobs]) == jobs
    assert {await stores.jobs.body(job.id) for job in jobs} == {news[0].body}
    (head,) = await stores.batches.heads()
    assert head.count == 1 + len(news)


async def test_of_those_who_share_a_call_one_that_is_there_already_fails_alone(stores, server):
    first = at_home("first", tags={"team": "a"})
    await stores.jobs.accept(first)
    # In the midst of others, and with a key more than they have.
    news = [*in_shards(5), first, *in_shards(5)]
    server.admin.config_resetstat()

    outcomes = await together(stores, news)

    failed = [place for place, one in enumerate(outcomes) if isinstance(one, BaseException)]
    assert failed == [5]
    assert "is there already" not in str(outcomes[5])  # It would name the job in logs.
    assert isinstance(outcomes[5], StoreCorruptError)
    others = [new.job for new in news if new is not first]
    assert await stores.jobs.get_many([job.id for job in others]) == others
    assert (await stores.jobs.pending())[OWNER] == Pending(12, 12 * first.job.body_bytes)


async def test_what_stands_in_the_way_of_one_is_not_in_that_of_others(stores, server):
    blocked = at_home("blocked", owner=OTHER)
    server.admin.set(keys.listed(shard_for("blocked"), OTHER, "queued"), "something else")
    news = [*in_shards(5), blocked, *in_shards(5)]

    outcomes = await together(stores, news)

    assert isinstance(outcomes.pop(5), StoreCorruptError)
    assert all(isinstance(one, Acceptance) and one.created for one in outcomes)


async def test_of_two_with_one_idempotency_key_in_one_call_the_second_finds_the_first(
    stores, server
):
    names = [f"key-{number % 4}" for number in range(8)]
    news = [at_home(name, idempotency_key=name) for name in names]

    accepted = await together(stores, news)

    # Two share it over each connection, and four look the first one up.
    assert calls(server) == 2 + 4
    for first, second in zip(accepted[:4], accepted[4:], strict=True):
        assert isinstance(first, Acceptance)
        assert isinstance(second, Acceptance)
        assert {first.created, second.created} == {True, False}
        assert first.job == second.job


async def test_only_those_who_bring_a_new_credential_have_it_added(stores, server):
    known, new = (replace(make_credential(), id=CredentialId(name)) for name in ("known", "new"))
    await stores.credentials.remember(known)
    server.admin.config_resetstat()

    await asyncio.gather(*map(stores.credentials.remember, [known, known, known, known, new]))

    # A shared call over each connection, and what adds the new one.
    assert calls(server) <= 2 + 1
    found = await stores.credentials.all()
    assert {one.id for one in found} == {known.id, new.id}


async def test_everybody_gets_their_own_tags_owners_and_amounts(stores, server):
    news = [
        at_home(
            f"call {number}",
            owner=OwnerId(f"tenant-{number % 3}"),
            tags={f"tag-{name}": str(number) for name in range(number % 4)},
            body=b"x" * (number + 1),
            body_bytes=number + 1,
        )
        for number in range(24)
    ]

    await together(stores, news)

    pending = await stores.jobs.pending()
    for number in range(3):
        its = range(number, 24, 3)
        size = sum(one + 1 for one in its)
        assert pending[OwnerId(f"tenant-{number}")] == Pending(8, size)
    for number, new in enumerate(news):
        assert await stores.jobs.body(new.job.id) == new.body
        for name, value in new.job.tags.items():
            where = JobFilter(tag=(name, value))
            (found,) = await stores.jobs.list_jobs(new.job.owner, where, after=None, limit=9)
            assert found == new.job, number


async def test_large_bodies_do_not_share_a_call(stores, server):
    news = [new_job(body=b"%d" % number * SHARING_BYTES) for number in range(6)]

    await together(stores, news)

    assert len(await stores.jobs.get_many([new.job.id for new in news])) == 6


async def test_a_server_that_forgot_the_script_costs_nobody_their_job(stores, server):
    server.admin.script_flush()
    news = in_shards(40)

    accepted = await together(stores, news)

    assert accepted == [Acceptance(new.job, created=True) for new in news]


async def test_a_call_that_breaks_is_told_to_exactly_those_who_share_it(stores, server):
    async with (
        Cable(server.port).laid() as cable,
        opened(f"redis://127.0.0.1:{cable.port}/0?timeout=0.3") as cut,
    ):
        cable.cut(abruptly=True)

        lost, others = await asyncio.gather(
            together(cut, in_shards(10)), together(stores, in_shards(10))
        )

        assert {type(one) for one in lost} == {StoreUnavailableError}
        assert {type(one) for one in others} == {Acceptance}
        cable.mend()
        await eventually(lambda: _accepts(cut))


async def _accepts(stores: RedisStores) -> bool:
    (outcome,) = await together(stores, in_shards(1))
    return isinstance(outcome, Acceptance)


async def test_a_full_memory_is_told_to_everyone_who_shares_the_call(stores, server):
    server.admin.config_set("maxmemory", 1)
    try:
        outcomes = await together(stores, in_shards(10))
    finally:
        server.admin.config_set("maxmemory", 0)

    assert {str(one) for one in outcomes} == {"Redis is out of memory"}


async def test_who_is_cancelled_before_the_call_goes_out_is_not_in_it(stores, server):
    news = in_shards(6)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stores.jobs.accept(new)) for new in news]
        await asyncio.sleep(0)
        tasks[2].cancel()

    kept = [new.job for place, new in enumerate(news) if place != 2]
    assert await stores.jobs.get_many([new.job.id for new in news]) == kept


async def test_who_is_cancelled_while_the_call_is_out_leaves_others_their_own_answers(
    stores, server
):
    """Callers are cancelled after each number of turns of the loop; what they share a call
    with are others, who must be told of their own jobs."""
    names = [f"key-{number}" for number in range(6)]
    known = [at_home(name, idempotency_key=name) for name in names]
    await together(stores, known)

    for turns in range(20):
        # Replies are late: the call is sent, and nothing has come back yet.
        server.admin.execute_command("CLIENT", "PAUSE", 20, "ALL")
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(stores.jobs.accept(at_home(name, idempotency_key=name)))
                for name in names
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()

        for task, first in zip(tasks, known, strict=True):
            if not task.cancelled():
                assert task.result() == Acceptance(first.job, created=False)


async def test_in_a_cluster_a_call_stays_within_a_slot(cluster):
    cluster.flush()
    async with opened(cluster.url) as stores:
        await together(stores, in_shards(64))
        for one in cluster.servers:
            one.admin.config_resetstat()
        news = in_shards(256)

        accepted = await together(stores, news)

        assert accepted == [Acceptance(new.job, created=True) for new in news]
        # There are two connections to each node.
        assert sum(map(calls, cluster.servers)) <= 2 * 64
        assert len(await stores.jobs.get_many([new.job.id for new in news])) == 256


async def test_slots_behind_one_address_are_noticed_at_the_first_refusal(tmp_path: Path):
    with redis_server(tmp_path, "--cluster-enabled", "yes") as node:
        node.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        await eventually(lambda: _is_up(node))
        async with opened(node.url) as stores:
            for _ in range(3):
                news = in_shards(64)
                accepted = await together(stores, news)
                assert accepted == [Acceptance(new.job, created=True) for new in news]
            node.admin.config_resetstat()

            await together(stores, in_shards(64))

            assert node.admin.info("commandstats")["cmdstat_evalsha"]["rejected_calls"] == 0


async def _is_up(node: RedisServer) -> bool:
    return b"cluster_state:ok" in node.admin.execute_command("CLUSTER", "INFO")
