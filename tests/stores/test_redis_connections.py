"""What becomes of calls when callers, connections, servers or slots go away."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from proxy.core.errors import StoreError, StoreUnavailableError
from proxy.core.ids import JobId
from proxy.core.job import CancelRequested, Job, advance
from proxy.ports.jobs import JobWrite
from proxy.stores.redis import RedisStores, keys, shared_connection
from tests.chaos.cable import Cable
from tests.helpers.factories import T0, make_batch, new_job
from tests.helpers.ports import free_port
from tests.helpers.redis_server import (
    STORE_KEYS,
    RedisServer,
    eventually,
    opened,
    redis_sentinel,
    redis_server,
)

pytestmark = pytest.mark.redis


@pytest.fixture(autouse=True)
def _empty(server: RedisServer) -> None:
    server.admin.flushall()


@pytest.fixture
async def stores(server: RedisServer) -> AsyncIterator[RedisStores]:
    async with opened(server.url) as one:
        yield one


async def accepted(stores: RedisStores, **changes: Any) -> Job:
    return (await stores.jobs.accept(new_job(**changes))).job


async def works_again(stores: RedisStores) -> bool:
    """Try a call; whether it may fail for a while is for the test to say."""
    try:
        await accepted(stores)
    except StoreUnavailableError:
        return False
    return True


async def test_nobody_reads_the_reply_of_a_caller_who_was_cancelled(stores, server):
    """Callers are cancelled after each number of turns of the loop: before their
    commands are sent, while the replies are out, and while they are read. Each time
    others follow on the same connection and must get what they asked for."""
    jobs = [await accepted(stores, body=b"body of %d" % n, tokens=n) for n in range(8)]

    async def read(job: Job) -> None:
        assert await stores.jobs.get(job.id) == job
        assert await stores.jobs.body(job.id) == b"body of %d" % job.tokens
        assert (await stores.batches.heads())[0].count == len(jobs)

    for turns in range(40):
        if turns % 4 == 0:
            # Replies are late: the commands are sent, and nothing has come back yet.
            server.admin.execute_command("CLIENT", "PAUSE", 20, "ALL")
        async with asyncio.TaskGroup() as group:
            doomed = [group.create_task(read(job)) for job in jobs]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in doomed:
                task.cancel()
            for job in reversed(jobs):
                group.create_task(read(job))


async def test_commands_of_callers_who_wait_together_go_out_together(stores, server):
    jobs = [await accepted(stores) for _ in range(50)]
    before = server.admin.info("stats")["total_reads_processed"]

    await asyncio.gather(*(stores.jobs.get(job.id) for job in jobs))

    assert server.admin.info("stats")["total_reads_processed"] - before < 10


async def test_a_broken_connection_fails_its_calls_and_the_next_ones_work(stores, server):
    job = await accepted(stores)

    for _ in range(5):
        server.admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with suppress(StoreUnavailableError):
            await stores.jobs.get(job.id)

        assert await stores.jobs.get(job.id) == job


async def test_a_server_that_forgot_the_scripts_is_told_them_again(stores, server):
    await accepted(stores)
    server.admin.script_flush()

    jobs = await asyncio.gather(*(accepted(stores) for _ in range(20)))

    assert await stores.jobs.get_many([job.id for job in jobs]) == jobs


async def test_a_server_that_begins_to_throw_keys_away_takes_no_more_jobs(
    stores, server, monkeypatch
):
    monkeypatch.setattr(shared_connection, "LOOK_AGAIN_S", 0.0)
    await accepted(stores)

    server.admin.config_set("maxmemory-policy", "allkeys-lru")
    try:
        for _ in range(5):
            with pytest.raises(StoreUnavailableError, match="allkeys-lru"):
                await accepted(stores)
    finally:
        server.admin.config_set("maxmemory-policy", "noeviction")

    await accepted(stores)


async def test_a_full_memory_refuses_what_is_new_and_says_what_to_do(stores, server):
    job = await accepted(stores)
    server.admin.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailableError, match="out of memory") as refused:
            await accepted(stores)
        assert await stores.jobs.get(job.id) == job
    finally:
        server.admin.config_set("maxmemory", 0)

    assert "raise maxmemory" in (refused.value.hint or "")
    assert await works_again(stores)


async def test_a_server_that_does_not_answer_costs_a_bounded_time(server):
    server.admin.flushall()
    async with opened(f"{server.url}?timeout=0.2") as stores:
        asked, other = await accepted(stores), await accepted(stores)
        server.admin.execute_command("CLIENT", "PAUSE", 1_000, "ALL")

        with pytest.raises(StoreUnavailableError, match="does not answer in time"):
            await stores.jobs.get(asked.id)
        server.admin.execute_command("CLIENT", "UNPAUSE")

        # Not the reply that came too late.
        await eventually(lambda: _is_back(stores, other))


async def _is_back(stores: RedisStores, job: Job) -> bool:
    try:
        found = await stores.jobs.get(job.id)
    except StoreUnavailableError:
        return False
    assert found == job
    return True


async def test_what_was_accepted_outlives_a_kill_of_a_server_that_syncs(tmp_path: Path):
    port, options = free_port(), ("--appendonly", "yes", "--appendfsync", "always")
    with redis_server(tmp_path, *options, port=port) as first:
        async with opened(first.url) as stores:
            jobs = await asyncio.gather(*(accepted(stores) for _ in range(50)))
            durability = await stores.durability()
            assert "fsync always" in durability.words
            assert durability.is_durable
            first.process.kill()
            first.process.wait()
            with pytest.raises(StoreUnavailableError):
                await accepted(stores)

            with redis_server(tmp_path, *options, port=port):
                await eventually(lambda: works_again(stores))
                assert await stores.jobs.get_many([job.id for job in jobs]) == jobs


async def test_a_server_that_comes_back_to_throw_keys_away_is_trusted_with_nothing(tmp_path: Path):
    port = free_port()
    with redis_server(tmp_path, port=port) as first:
        async with opened(first.url) as stores:
            await accepted(stores)
            first.process.kill()
            first.process.wait()
            with redis_server(tmp_path, "--maxmemory-policy", "allkeys-lru", port=port) as second:
                await eventually(lambda: _is_refused(stores, "allkeys-lru"))

                second.admin.config_set("maxmemory-policy", "noeviction")
                assert await works_again(stores)


async def _is_refused(stores: RedisStores, reason: str) -> bool:
    with pytest.raises(StoreUnavailableError) as refused:
        await accepted(stores)
    return reason in str(refused.value)


async def test_a_write_counts_only_when_enough_replicas_have_it(tmp_path: Path):
    (tmp_path / "master").mkdir()
    (tmp_path / "replica").mkdir()
    with redis_server(tmp_path / "master", "--repl-diskless-sync-delay", "0") as master:
        async with opened(master.url) as stores:
            alone = await accepted(stores)
        async with asyncio.TaskGroup() as tasks:
            with pytest.raises(StoreUnavailableError, match="fewer than 1 replicas"):
                await RedisStores.open(f"{master.url}?acks=1&acks_timeout=0.05", STORE_KEYS, tasks)

        of = ("--replicaof", f"127.0.0.1 {master.port}")
        with redis_server(tmp_path / "replica", *of) as replica:
            await eventually(lambda: _is_linked(replica))
            async with opened(f"{master.url}?acks=1&acks_timeout=5") as stores:
                job = await accepted(stores)
                assert "each write waits for 1 replicas" in (await stores.durability()).words
                assert replica.admin.exists(keys.record(job.id), keys.record(alone.id)) == 2


async def test_a_server_that_takes_no_writes_is_away_and_not_damaged(stores, server):
    job = await accepted(stores)
    server.admin.config_set("min-replicas-to-write", 1)
    try:
        for write in (accepted(stores), _cancel(stores, job), stores.batches.add(make_batch())):
            with pytest.raises(StoreUnavailableError, match="too few replicas follow it"):
                await write
    finally:
        server.admin.config_set("min-replicas-to-write", 0)

    await _cancel(stores, job)


async def test_a_server_that_cannot_save_says_where_to_look(tmp_path: Path):
    with redis_server(tmp_path) as server:
        async with opened(server.url) as stores:
            job = await accepted(stores)
            (tmp_path / "dump.rdb").mkdir()
            server.admin.config_set("save", "3600 1")
            server.admin.bgsave()
            await eventually(lambda: _cannot_save(server))

            for write in (accepted(stores), stores.batches.add(make_batch())):
                with pytest.raises(StoreUnavailableError, match="cannot save") as refused:
                    await write
                assert "its disk" in (refused.value.hint or "")
            assert await stores.jobs.get(job.id) == job


async def _cannot_save(server: RedisServer) -> bool:
    return bool(server.admin.info("persistence")["rdb_last_bgsave_status"] == "err")


async def _cancel(stores: RedisStores, job: Job) -> None:
    assert not await stores.jobs.replace_many([JobWrite(advance(job, CancelRequested(T0)))])


async def _is_linked(replica: RedisServer) -> bool:
    return bool(replica.admin.info("replication")["master_link_status"] == "up")


async def test_a_wrong_password_is_refused_without_being_shown(server):
    server.admin.execute_command("ACL", "SETUSER", "ann", "on", ">secret", "~offramp:*", "+@all")
    url = server.url.replace("//", "//ann:{}@")

    async with opened(url.format("secret")) as stores:
        assert await works_again(stores)
    async with asyncio.TaskGroup() as tasks:
        with pytest.raises(StoreUnavailableError, match="refused the credentials") as refused:
            await RedisStores.open(url.format("canary"), STORE_KEYS, tasks)

    assert "canary" not in f"{refused.value} {refused.value.hint}"


async def test_a_user_who_lacks_a_right_is_told_which_at_the_start(server):
    may = ("~offramp:*", "&offramp:*", "+@all", "-zadd", "-expire")
    server.admin.execute_command("ACL", "SETUSER", "bob", "reset", "on", ">secret", *may)

    async with asyncio.TaskGroup() as tasks:
        with pytest.raises(StoreUnavailableError, match="right to call expire, zadd"):
            await RedisStores.open(server.url.replace("//", "//bob:secret@"), STORE_KEYS, tasks)


@pytest.mark.parametrize("missing", ["zadd", "hset"])
async def test_a_right_that_a_script_lacks_is_told_as_one(server, missing):
    may = ("~offramp:*", "&offramp:*", "+@all")
    server.admin.execute_command("ACL", "SETUSER", "bob", "reset", "on", ">secret", *may)

    async with opened(server.url.replace("//", "//bob:secret@")) as stores:
        server.admin.execute_command("ACL", "SETUSER", "bob", f"-{missing}")
        with pytest.raises(StoreUnavailableError, match="rights") as refused:
            await accepted(stores)

    assert "all commands" in (refused.value.hint or "")


async def test_a_server_that_tells_no_settings_is_not_said_to_keep_nothing(server):
    may = ("~offramp:*", "&offramp:*", "+@all", "-config")
    server.admin.execute_command("ACL", "SETUSER", "eve", "reset", "on", ">secret", *may)

    async with opened(server.url.replace("//", "//eve:secret@")) as stores:
        assert "no word of snapshots" in (await stores.durability()).words


async def test_calls_of_a_closed_store_are_refused(server):
    async with opened(server.url) as stores:
        pass

    with pytest.raises(StoreError, match="closed"):
        await accepted(stores)


async def test_the_master_is_the_one_that_the_sentinels_name(tmp_path: Path):
    for name in ("master", "replica", "sentinel"):
        (tmp_path / name).mkdir()
    secret = secrets.token_hex(8)
    auth = ("--requirepass", secret, "--masterauth", secret)
    quick = ("--repl-diskless-sync-delay", "0")
    with redis_server(tmp_path / "master", *auth, *quick, password=secret) as master:
        of = ("--replicaof", f"127.0.0.1 {master.port}")
        with (
            redis_server(tmp_path / "replica", *auth, *quick, *of, password=secret) as replica,
            redis_sentinel(tmp_path / "sentinel", master, secret) as sentinel,
        ):
            await eventually(lambda: _is_linked(replica))
            nobody = free_port()
            places = f"127.0.0.1:{nobody},127.0.0.1:{sentinel.port}"
            # Without acks the old master takes writes that nobody will ever see again.
            url = f"redis+sentinel://:{secret}@{places}/main/0?acks=1&acks_timeout=2"
            async with opened(url) as stores:
                job = await accepted(stores)
                assert master.admin.exists(keys.record(job.id))
                await eventually(lambda: _failover(sentinel))
                await eventually(lambda: _is_master(replica))
                # As the sentinel would tell it some ten seconds later.
                master.admin.replicaof("127.0.0.1", replica.port)
                await eventually(lambda: works_again(stores))

                late = await accepted(stores)
                assert replica.admin.exists(keys.record(job.id), keys.record(late.id)) == 2


@contextmanager
def watched(folder: Path, secret: str) -> Iterator[tuple[RedisServer, RedisServer]]:
    """Run a master and its sentinel."""
    for name in ("master", "sentinel"):
        (folder / name).mkdir()
    with (
        redis_server(folder / "master", "--requirepass", secret, password=secret) as master,
        redis_sentinel(folder / "sentinel", master, secret) as sentinel,
    ):
        yield master, sentinel


async def test_the_master_is_the_one_that_most_sentinels_name(tmp_path: Path):
    """One sentinel was cut off together with a master that the others have replaced."""
    secret = secrets.token_hex(8)
    for name in ("old", "new", "third"):
        (tmp_path / name).mkdir()
    with (
        watched(tmp_path / "old", secret) as (old, alone),
        watched(tmp_path / "new", secret) as (new, second),
        redis_sentinel(tmp_path / "third", new, secret) as third,
    ):
        places = ",".join(f"127.0.0.1:{one.port}" for one in (alone, second, third))
        async with opened(f"redis+sentinel://:{secret}@{places}/main/0") as stores:
            job = await accepted(stores)

        assert new.admin.exists(keys.record(job.id))
        assert not old.admin.exists(keys.record(job.id))


async def test_sentinels_that_are_all_away_fail_calls_and_end_nothing(tmp_path: Path):
    secret = secrets.token_hex(8)
    with watched(tmp_path, secret) as (master, sentinel):
        async with Cable(sentinel.port).laid() as cable:
            url = f"redis+sentinel://:{secret}@127.0.0.1:{cable.port}/main/0"
            async with opened(url) as stores:
                cable.cut(abruptly=True)
                master.admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await eventually(lambda: _fails(stores))
                with pytest.raises(StoreUnavailableError):
                    await accepted(stores)

                cable.mend()
                await eventually(lambda: works_again(stores))


async def test_a_silent_sentinel_leaves_the_next_one_time_to_answer(tmp_path: Path):
    secret = secrets.token_hex(8)
    with watched(tmp_path, secret) as (_, sentinel):
        async with Cable(sentinel.port).laid() as silent:
            silent.cut(abruptly=False)
            places = f"127.0.0.1:{silent.port},127.0.0.1:{sentinel.port}"
            url = f"redis+sentinel://:{secret}@{places}/main/0?timeout=2"

            async with opened(url) as stores:
                assert await works_again(stores)


async def _fails(stores: RedisStores) -> bool:
    return not await works_again(stores)


async def test_a_subscription_whose_other_end_is_gone_is_made_anew(server):
    heard: list[JobId] = []
    async with Cable(server.port).laid() as cable:
        url = f"redis://127.0.0.1:{cable.port}/0?timeout=0.3"
        async with opened(url) as listener, opened(server.url) as speaker:
            listener.wakeups.subscribe(heard.extend)
            await eventually(lambda: _is_heard(speaker, heard, JobId("before")))
            cable.lose()

            await eventually(lambda: _is_heard(speaker, heard, JobId("after")))


async def _is_heard(speaker: RedisStores, heard: list[JobId], job_id: JobId) -> bool:
    speaker.wakeups.publish([job_id])
    return job_id in heard


async def _failover(sentinel: RedisServer) -> bool:
    try:
        sentinel.admin.execute_command("SENTINEL", "FAILOVER", "main")
    except ResponseError:
        # It has not heard of the replica yet.
        return False
    return True


async def _is_master(server: RedisServer) -> bool:
    return bool(server.admin.info("replication")["role"] == "master")
