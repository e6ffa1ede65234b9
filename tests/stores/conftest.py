"""A SQLite store in a folder of its own."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from proxy.stores.sqlite import SqliteStores
from proxy.stores.vault import Vault

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
