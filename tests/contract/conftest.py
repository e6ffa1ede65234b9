"""The stores that every suite here runs against. A new one joins by one entry in `_STORES`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from proxy.ports.batches import BatchStore, LeaseStore, UnbatchableStore
from proxy.ports.jobs import CredentialStore, DeliveryStore, JobStore, QueueStore
from proxy.stores.sqlite import SqliteStores
from proxy.stores.vault import Vault
from tests.helpers.fakes import MemoryStores


class Stores(Protocol):
    """All ports of one store; an adapter that lacks a method does not type-check."""

    @property
    def jobs(self) -> JobStore: ...
    @property
    def queue(self) -> QueueStore: ...
    @property
    def deliveries(self) -> DeliveryStore: ...
    @property
    def credentials(self) -> CredentialStore: ...
    @property
    def batches(self) -> BatchStore: ...
    @property
    def unbatchable(self) -> UnbatchableStore: ...
    @property
    def leases(self) -> LeaseStore: ...


@asynccontextmanager
async def memory_stores(_: Path) -> AsyncIterator[Stores]:
    yield MemoryStores()


@asynccontextmanager
async def sqlite_stores(folder: Path) -> AsyncIterator[Stores]:
    vault = Vault.load_or_create(folder / "key")
    opened = await SqliteStores.open(folder / "offramp.db", vault)
    yield opened
    await opened.aclose()


_STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Stores]]] = {
    "memory": memory_stores,
    "sqlite": sqlite_stores,
}


@pytest.fixture(params=list(_STORES))
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    async with _STORES[request.param](tmp_path) as opened:
        yield opened
