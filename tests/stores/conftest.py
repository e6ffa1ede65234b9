"""A SQLite store in a folder of its own, and servers of Redis."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from proxy.stores.sqlite import SqliteStores
from proxy.stores.vault import Vault
from tests.helpers.redis_server import (
    RedisClusterServers,
    RedisServer,
    redis_cluster,
    redis_server,
)

Open = Callable[[], AbstractAsyncContextManager[SqliteStores]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "offramp.db"


@pytest.fixture
def vault() -> Vault:
    return Vault(keys=[b"k" * 32], hash_key=b"h" * 32)


@pytest.fixture
def open_stores(path: Path, vault: Vault) -> Open:
    """Open the same file, as often as a test wants."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[SqliteStores]:
        stores = await SqliteStores.open(path, vault)
        try:
            yield stores
        finally:
            await stores.aclose()

    return opened


@pytest.fixture
async def stores(open_stores: Open) -> AsyncIterator[SqliteStores]:
    async with open_stores() as opened:
        yield opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisClusterServers]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running
