"""What becomes of calls while a cluster changes: slots move, and nodes do not know it yet."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from proxy.core.errors import StoreUnavailableError
from proxy.core.ids import JobId, shard_of
from proxy.core.job import Job
from proxy.stores.redis import RedisStores, keys
from proxy.stores.redis.commands import slot_of
from tests.helpers.factories import BODY, IDS, new_job
from tests.helpers.redis_server import (
    RedisClusterServers,
    RedisServer,
    opened,
    redis_cluster,
)

pytestmark = pytest.mark.redis


async def accepted(stores: RedisStores, **changes: Any) -> Job:
    return (await stores.jobs.accept(new_job(**changes))).job


async def test_a_slot_that_moved_to_another_node_is_found_there(cluster):
    cluster.flush()
    async with opened(cluster.url) as stores:
        before = await accepted(stores)
        move = _Move(cluster, slot_of(keys.record(before.id)))

        # While it moves, one key can be asked for where it is by now; a script that
        # needs several has to wait.
        move.begin()
        assert await stores.jobs.body(before.id) == BODY
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(accepted(stores, id=IDS.job(shard=shard_of(before.id))))
            assert await stores.jobs.body(before.id) == BODY
            move.end()
        during = waiting.result()

        after = await accepted(stores, id=IDS.job(shard=shard_of(before.id)))
        found = await stores.jobs.get_many([job.id for job in (before, during, after)])
        assert found == [before, during, after]


async def test_a_slot_that_takes_long_to_move_refuses_its_own_jobs_alone(cluster):
    cluster.flush()
    async with opened(cluster.url) as stores:
        job = await accepted(stores)
        move = _Move(cluster, slot_of(keys.record(job.id)))
        move.begin()
        try:
            with pytest.raises(StoreUnavailableError, match="moves what belongs to the job"):
                await accepted(stores, id=_in_slot(move.slot))
            others = [one for one in _everyones() if shard_of(one) != shard_of(job.id)]
            for job_id in others:
                await accepted(stores, id=job_id)
        finally:
            move.end()

        late = await accepted(stores, id=_in_slot(move.slot))
        assert await stores.jobs.get_many([job.id, late.id]) == [job, late]


async def test_a_slot_is_found_where_its_old_node_says_though_another_has_not_heard(cluster):
    """The one that is asked first for all slots hears of a move last."""
    cluster.flush()
    moves = (_Move(cluster, slot_of(keys.heads(shard))) for shard in keys.ALL_SHARDS)
    move = next(one for one in moves if one.source is not cluster.servers[0])
    async with opened(cluster.url) as stores:
        move.end(told=())

        job = await accepted(stores, id=_in_slot(move.slot))
        assert await stores.jobs.get(job.id) == job
    move.end()


async def test_a_slot_that_nobody_had_is_found_once_somebody_has_it(cluster):
    cluster.flush()
    job = new_job()
    slot = slot_of(keys.record(job.job.id))
    async with opened(cluster.url) as stores:
        _everywhere(cluster, "CONFIG", "SET", "cluster-require-full-coverage", "no")
        _everywhere(cluster, "CLUSTER", "DELSLOTS", slot)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await stores.jobs.accept(job)

        first = cluster.servers[0].admin
        first.execute_command("CLUSTER", "ADDSLOTS", slot)
        assert (await stores.jobs.accept(job)).created

        name = first.execute_command("CLUSTER", "MYID").decode()
        for other in cluster.servers[1:]:
            other.admin.execute_command("CLUSTER", "SETSLOT", slot, "NODE", name)
        _everywhere(cluster, "CONFIG", "SET", "cluster-require-full-coverage", "yes")


async def test_a_node_that_knows_only_itself_is_not_believed_about_the_others(tmp_path: Path):
    with redis_cluster(tmp_path) as cluster:
        alone, *others = cluster.servers
        _everywhere(cluster, "CONFIG", "SET", "cluster-require-full-coverage", "no")
        async with opened(cluster.url) as stores:
            for other in others:
                name = other.admin.execute_command("CLUSTER", "MYID").decode()
                alone.admin.execute_command("CLUSTER", "FORGET", name)
            alone.admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            first = await asyncio.gather(
                *(accepted(stores, id=job_id) for job_id in _everyones()), return_exceptions=True
            )
            assert any(isinstance(one, StoreUnavailableError) for one in first)

            jobs = [await accepted(stores, id=job_id) for job_id in _everyones()]
            assert await stores.jobs.get_many([job.id for job in jobs]) == jobs


def _everyones() -> list[JobId]:
    """Return IDs of all shards."""
    return [IDS.job(shard=shard) for shard in keys.ALL_SHARDS]


def _everywhere(cluster: RedisClusterServers, *command: str | int) -> None:
    for server in cluster.servers:
        server.admin.execute_command(*command)


def _in_slot(slot: int) -> JobId:
    shard = next(one for one in keys.ALL_SHARDS if slot_of(keys.heads(one)) == slot)
    return IDS.job(shard=shard)


class _Move:
    """One slot on its way from its node to another (Redis Cluster specification)."""

    def __init__(self, cluster: RedisClusterServers, slot: int) -> None:
        self.slot = slot
        self.source = next(one for one in cluster.servers if self._has(one.admin))
        self.target = next(one for one in cluster.servers[::-1] if one is not self.source)
        self.everyone = cluster.servers

    def _has(self, node: Redis) -> bool:
        for line in node.execute_command("CLUSTER", "NODES").decode().splitlines():
            fields = line.split()
            if "myself" in fields[2]:
                ranges = [one.split("-") for one in fields[8:] if not one.startswith("[")]
                return any(int(one[0]) <= self.slot <= int(one[-1]) for one in ranges)
        return False

    def begin(self) -> None:
        source, target = self.source.admin, self.target.admin
        names = [one.execute_command("CLUSTER", "MYID").decode() for one in (source, target)]
        target.execute_command("CLUSTER", "SETSLOT", self.slot, "IMPORTING", names[0])
        source.execute_command("CLUSTER", "SETSLOT", self.slot, "MIGRATING", names[1])
        while found := source.execute_command("CLUSTER", "GETKEYSINSLOT", self.slot, 100):
            source.execute_command(
                *("MIGRATE", "127.0.0.1", self.target.port, "", 0, 5_000, "KEYS", *found)
            )

    def end(self, told: Sequence[RedisServer] | None = None) -> None:
        name = self.target.admin.execute_command("CLUSTER", "MYID").decode()
        for one in (self.target, self.source, *(self.everyone if told is None else told)):
            one.admin.execute_command("CLUSTER", "SETSLOT", self.slot, "NODE", name)
