"""The stores that every suite here runs against. A new one joins by one entry below."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from proxy.ports.stores import Stores
from proxy.stores.redis import RedisStores
from proxy.stores.sqlite import SqliteStores
from proxy.stores.vault import Vault
from tests.helpers.factories import IDS
from tests.helpers.fakes import MemoryStores
from tests.helpers.redis_server import (
    RedisClusterServers,
    RedisServer,
    redis_cluster,
    redis_server,
)


@asynccontextmanager
async def memory_stores(_: Path) -> AsyncIterator[Stores]:
    yield MemoryStores()


@asynccontextmanager
async def sqlite_stores(folder: Path) -> AsyncIterator[Stores]:
    vault = Vault.load_or_create(folder / "key")
    opened = await SqliteStores.open(folder / "offramp.db", vault)
    yield opened
    await opened.aclose()


@asynccontextmanager
async def redis_stores(url: str, *, shards: int) -> AsyncIterator[Stores]:
    vault = Vault(keys=[b"k" * 32], hash_key=b"h" * 32)
    async with asyncio.TaskGroup() as tasks:
        opened = await RedisStores.open(url, vault, tasks, by_callers_clock=True)
        IDS.shards = shards
        try:
            yield opened
        finally:
            IDS.shards = 1
            await opened.aclose()


_STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Stores]]] = {
    "memory": memory_stores,
    "sqlite": sqlite_stores,
}

_REDIS = ("redis", "redis-cluster")
"""All jobs in one shard of one server, and in all shards of three."""


@pytest.fixture(scope="session")
def one_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def three_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisClusterServers]:
    with redis_cluster(tmp_path_factory.mktemp("redis-cluster")) as servers:
        yield servers


@pytest.fixture(
    params=[*_STORES, *(pytest.param(name, marks=pytest.mark.redis) for name in _REDIS)]
)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    if request.param in _STORES:
        opening = _STORES[request.param](tmp_path)
    elif request.param == "redis-cluster":
        servers: RedisClusterServers = request.getfixturevalue("three_redis")
        servers.flush()
        opening = redis_stores(servers.url, shards=64)
    else:
        server: RedisServer = request.getfixturevalue("one_redis")
        server.admin.flushall()
        opening = redis_stores(server.url, shards=1)
    async with opening as opened:
        yield opened
