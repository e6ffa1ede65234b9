"""What a start says of a store that it cannot use, and what becomes of one that goes away."""

import asyncio
import json
import re
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.app import SystemClock, serving
from proxy.app.adapters import open_stores
from proxy.core.errors import StoreCorruptError, StoreUnavailableError
from proxy.settings import Settings, load
from proxy.settings.values import parse_store
from proxy.stores.redis import RedisStores, keys
from proxy.stores.vault import Vault
from tests.chaos.cable import Cable
from tests.e2e.processes import settings_for
from tests.helpers.factories import IDS, T0
from tests.helpers.ports import free_port
from tests.helpers.redis_server import (
    STORE_KEYS,
    RedisClusterServers,
    RedisServer,
    opened,
    redis_sentinel,
    redis_server,
)

pytestmark = pytest.mark.redis

BOUND_S = 20
"""A start has some ten steps, none of which may take longer than the store's time limit."""


class Breaking:
    """A cable that breaks when so many pieces of data have come by."""

    def __init__(self, server: RedisServer, *, abruptly: bool) -> None:
        self.cable = Cable(server.port, self._count)
        self.left: int | None = None
        self.passed = 0
        self._abruptly = abruptly

    def _count(self) -> None:
        self.passed += 1
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                self.cable.cut(abruptly=self._abruptly)


def settings_over(folder: Path, port: int, *, timeout_s: float) -> Settings:
    Vault.load_or_create(folder / "key")
    changes = {
        # A password and a database make connecting itself a matter of several steps.
        "store": f"redis://default:secret@127.0.0.1:{port}/1?timeout={timeout_s}",
        "secret_key_file": str(folder / "key"),
    }
    config = folder / "offramp.yaml"
    config.write_text(json.dumps(settings_for(folder, {"openai": "http://127.0.0.1:9"}, changes)))
    return load(config).settings


@pytest.mark.parametrize(
    ("off", "told"),
    [
        (timedelta(hours=2), r"; its clock is \w+ behind this machine's$"),
        (timedelta(hours=-2), r"; its clock is \w+ ahead of this machine's$"),
        (timedelta(), "0 replicas$"),
    ],
    ids=["ahead", "behind", "in step"],
)
async def test_an_instance_whose_clock_is_another_than_that_of_redis_is_told(
    tmp_path: Path, off: timedelta, told: str
) -> None:
    class Clock(SystemClock):
        def now(self) -> datetime:
            return super().now() + off

    with redis_server(tmp_path) as server:
        store = {"store": parse_store(server.url)}
        settings = settings_over(tmp_path, server.port, timeout_s=5).model_copy(update=store)
        async with AsyncExitStack() as stack:
            with capture_logs() as logs:
                _, watch = await open_stores(stack, settings, STORE_KEYS, Clock())

    assert re.search(told, watch.known.words)
    assert watch.known.words.startswith("not durable, redis: memory only")
    assert [one["event"] for one in logs] == ["clock.doubted"] * bool(off) + ["store.doubted"]


@pytest.mark.parametrize(("abruptly", "stride"), [(True, 1), (False, 3)], ids=["broken", "silent"])
async def test_a_start_ends_in_bounded_time_wherever_the_store_goes_away(
    server: RedisServer, tmp_path: Path, abruptly: bool, stride: int
) -> None:
    """Goal: no step of a start hangs, and what did not start says that the store is away.

    Method: the way to the store breaks at the first piece of data, at a later one, and
    so on, until a start has none left. Each time it is whole again afterwards, and the
    next start must come up.
    """
    server.admin.flushall()
    way, failed, broke = Breaking(server, abruptly=abruptly), 0, True
    async with way.cable.laid() as cable:
        hasty = settings_over(tmp_path, cable.port, timeout_s=0.3)
        patient = settings_over(tmp_path, cable.port, timeout_s=10)
        for step in range(1, 200, stride):
            way.left = step
            try:
                async with asyncio.timeout(BOUND_S), serving(hasty):
                    broke = way.left <= 0
            except StoreUnavailableError:
                failed += 1
            cable.mend()
            way.left = None
            if not broke:
                break
            async with asyncio.timeout(2 * BOUND_S), serving(patient):
                pass
    assert not broke
    assert failed > 20 // stride


async def test_an_instance_ends_in_order_though_the_store_has_gone(
    server: RedisServer, tmp_path: Path
) -> None:
    server.admin.flushall()
    async with (
        Cable(server.port).laid() as cable,
        serving(settings_over(tmp_path, cable.port, timeout_s=0.5)),
    ):
        cable.cut(abruptly=True)


PLACE = "127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("url", "problem", "advice"),
    [
        (f"redis://{PLACE}/99", "no such database", "number"),
        (f"redis+cluster://{PLACE}", "is no cluster", "redis://"),
        ("redis://127.0.0.1:1", "does not answer", "connecting to 127.0.0.1:1"),
        ("redis://no.such.host.invalid", "does not answer", "no.such.host.invalid"),
    ],
    ids=["database", "cluster", "port", "host"],
)
async def test_a_url_that_does_not_fit_the_server_is_told_what_is_wrong(
    server: RedisServer, url: str, problem: str, advice: str
) -> None:
    refused = await refusal(url.format(port=server.port))

    assert problem in str(refused)
    assert advice in (refused.hint or "")


@pytest.mark.parametrize("options", ["", "?acks=1"])
async def test_a_replica_is_told_from_a_master(
    server: RedisServer, tmp_path: Path, options: str
) -> None:
    with redis_server(tmp_path, "--replicaof", f"127.0.0.1 {server.port}") as replica:
        refused = await refusal(f"{replica.url}{options}")

    assert "is a replica" in str(refused)
    assert "sentinels" in (refused.hint or "")


async def test_one_node_of_a_cluster_is_refused_whichever_it_is(
    cluster: RedisClusterServers,
) -> None:
    cluster.flush()
    async with opened(cluster.url):
        # One of them has the marks of our store from here on.
        pass

    for node in cluster.servers:
        refused = await refusal(node.url)

        assert "one node of a cluster" in str(refused)
        assert "redis+cluster://" in (refused.hint or "")


async def test_sentinels_that_refuse_the_password_are_told_from_those_that_know_no_master(
    tmp_path: Path,
) -> None:
    for name in ("master", "sentinel"):
        (tmp_path / name).mkdir()
    with (
        redis_server(tmp_path / "master") as master,
        redis_sentinel(tmp_path / "sentinel", master, "unused") as sentinel,
    ):
        sentinel.admin.execute_command("ACL", "SETUSER", "default", "resetpass", ">secret")
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}"

        wrong = await refusal(f"{url}/main?sentinel_password=canary")
        unknown = await refusal(f"{url}/other?sentinel_password=secret")

    assert "refused the credentials" in str(wrong)
    assert "canary" not in f"{wrong} {wrong.hint}"
    assert "no sentinel knows a master of 'other'" in str(unknown)
    assert "SENTINEL MASTERS" in (unknown.hint or "")


async def test_sentinels_that_are_away_are_told_from_those_that_know_no_master(
    server: RedisServer,
) -> None:
    nobody = await refusal(f"redis+sentinel://127.0.0.1:{free_port()}/main")
    # A server is none, as where its port is named by mistake.
    mistaken = await refusal(f"redis+sentinel://127.0.0.1:{server.port}/main")

    assert [str(one) for one in (nobody, mistaken)] == ["no sentinel answers"] * 2
    assert "26379" in (nobody.hint or "")


async def test_a_cluster_whose_nodes_have_no_slots_is_told_from_one_that_is_away(
    tmp_path: Path,
) -> None:
    with redis_server(tmp_path, "--cluster-enabled", "yes") as node:
        empty = await refusal(f"redis+cluster://127.0.0.1:{node.port}")
        down = await refusal(node.url)
    away = await refusal(f"redis+cluster://127.0.0.1:{node.port}")

    assert "has one of our slots" in str(empty)
    assert str(down) == "the cluster of Redis is down"
    assert [*map(_has_hint, (empty, down, away))] == [True] * 3
    assert str(away) == "Redis does not answer"


async def test_a_store_that_was_emptied_is_told_of_and_stays_ours(
    server: RedisServer, tmp_path: Path
) -> None:
    server.admin.flushall()
    settings = settings_over(tmp_path, server.port, timeout_s=5)
    async with AsyncExitStack() as stack:
        _, watch = await open_stores(stack, settings, STORE_KEYS, SystemClock())
        with capture_logs() as logs:
            await watch.run_once()
            server.admin.flushall()
            await watch.run_once()
            await watch.run_once()

        strange = Vault(keys=[b"k" * 32], hash_key=b"x" * 32)
        async with asyncio.TaskGroup() as tasks:
            with pytest.raises(StoreCorruptError, match="another key file"):
                await RedisStores.open(settings.store.url, strange, tasks)

    assert [(one["event"], one["log_level"]) for one in logs] == [("store.emptied", "error")]


def _has_hint(refused: StoreUnavailableError) -> bool:
    return bool(refused.hint)


async def test_a_replica_that_has_lost_its_master_is_told_as_one(tmp_path: Path) -> None:
    with redis_server(tmp_path) as replica:
        replica.admin.config_set("replica-serve-stale-data", "no")
        async with opened(replica.url) as stores:
            replica.admin.execute_command("REPLICAOF", "127.0.0.1", free_port())
            with pytest.raises(StoreUnavailableError, match="without its master") as refused:
                await stores.jobs.get(IDS.job(T0))

    assert _has_hint(refused.value)


async def test_a_password_that_is_missing_and_a_right_that_is_are_told_apart(
    server: RedisServer,
) -> None:
    may = ("reset", "on", ">secret", "~offramp:*", "&offramp:*", "+@read")
    server.admin.execute_command("ACL", "SETUSER", "few", *may)

    poor = await refusal(server.url.replace("//", "//few:secret@"))
    server.admin.execute_command("ACL", "SETUSER", "default", "resetpass", ">secret")
    try:
        nameless = await refusal(server.url)
    finally:
        server.admin.execute_command("AUTH", "secret")
        server.admin.execute_command("ACL", "SETUSER", "default", "nopass")

    assert "rights" in str(poor)
    assert "ACL SETUSER" in (poor.hint or "")
    assert str(nameless) == "Redis refused the credentials"
    assert "PASSWORD@" in (nameless.hint or "")


async def test_what_somebody_else_put_under_our_names_is_no_store_of_ours(
    server: RedisServer,
) -> None:
    server.admin.flushall()
    server.admin.hset(keys.META, mapping={"schema": "theirs", "hash_key": "theirs"})

    async with asyncio.TaskGroup() as tasks:
        with pytest.raises(StoreCorruptError, match="something else than a number"):
            await RedisStores.open(server.url, STORE_KEYS, tasks)
    server.admin.flushall()


async def refusal(url: str) -> StoreUnavailableError:
    """Return why a store cannot be opened."""
    async with asyncio.TaskGroup() as tasks:
        with pytest.raises(StoreUnavailableError) as refused:
            await RedisStores.open(url, STORE_KEYS, tasks)
    return refused.value


def test_a_server_that_was_faster_to_take_the_port_is_not_ours(
    server: RedisServer, tmp_path: Path
) -> None:
    with (
        pytest.raises(AssertionError, match="ended at once"),
        redis_server(tmp_path, port=server.port),
    ):
        pass
