"""What a store does with the keys that it is opened with. A new one joins by one class below."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from proxy.app.machine import task_group
from proxy.core.errors import StoreCorruptError
from proxy.core.ids import CredentialId
from proxy.ports.stores import Stores
from proxy.stores.redis import RedisStores, keys
from proxy.stores.redis.address import RedisAddress
from proxy.stores.sqlite import SqliteStores
from proxy.stores.vault import Vault
from tests.helpers.factories import T0, make_credential, new_job
from tests.helpers.redis_server import RedisServer
from tests.helpers.sqlite_file import opened

CREDENTIAL = make_credential()


class Kept(Protocol):
    """What outlives a store that is closed."""

    @property
    def shown(self) -> str:
        """Its place, as messages name it."""
        ...

    def opened(self, vault: Vault) -> AbstractAsyncContextManager[Stores]: ...

    def copy_headers(self, from_id: CredentialId, to_id: CredentialId) -> None:
        """Put the sealed headers of one credential in the place of another's."""
        ...

    def spoil_headers(self, of_id: CredentialId) -> None:
        """Put what was never sealed in the place of a credential's headers."""
        ...


class KeptInFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.shown = str(path)

    @asynccontextmanager
    async def opened(self, vault: Vault) -> AsyncIterator[Stores]:
        stores = await SqliteStores.open(self._path, vault)
        yield stores
        await stores.aclose()

    def copy_headers(self, from_id: CredentialId, to_id: CredentialId) -> None:
        theirs = "UPDATE credentials SET headers = (SELECT headers FROM credentials WHERE id = ?)"
        with opened(self._path) as direct:
            direct.execute(f"{theirs} WHERE id = ?", (from_id, to_id))

    def spoil_headers(self, of_id: CredentialId) -> None:
        with opened(self._path) as direct:
            direct.execute("UPDATE credentials SET headers = x'00' WHERE id = ?", (of_id,))


class KeptByServer:
    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.shown = RedisAddress.parse(server.url).shown
        server.admin.flushall()

    @asynccontextmanager
    async def opened(self, vault: Vault) -> AsyncIterator[Stores]:
        async with task_group() as tasks:
            stores = await RedisStores.open(self._server.url, vault, tasks)
            yield stores
            await stores.aclose()

    def copy_headers(self, from_id: CredentialId, to_id: CredentialId) -> None:
        theirs = self._server.admin.hget(keys.credential(from_id), "headers")
        self._server.admin.hset(keys.credential(to_id), "headers", theirs)

    def spoil_headers(self, of_id: CredentialId) -> None:
        self._server.admin.hset(keys.credential(of_id), "headers", b"\0")


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def kept(request: pytest.FixtureRequest, path: Path) -> Kept:
    if request.param == "sqlite":
        return KeptInFile(path)
    return KeptByServer(request.getfixturevalue("server"))


def vault_of(*letters: bytes, hash_letter: bytes = b"h") -> Vault:
    """Return what seals with the key of the first letter, and opens with those of all."""
    return Vault(
        keys=[letter * 32 for letter in letters],
        hash_key=hash_letter * 32,
        path=Path("/etc/offramp/keys"),
    )


async def test_a_store_that_another_key_file_made_is_refused_with_a_hint(kept: Kept) -> None:
    async with kept.opened(vault_of(b"k")):
        pass

    with pytest.raises(StoreCorruptError, match="another key file") as refused:
        async with kept.opened(vault_of(b"k", hash_letter=b"x")):
            pass

    assert kept.shown in refused.value.message
    assert "/etc/offramp/keys" in refused.value.message
    assert refused.value.hint


async def test_what_jobs_go_on_to_come_with_outlives_the_key_that_first_sealed_it(
    kept: Kept,
) -> None:
    async with kept.opened(vault_of(b"o")) as stores:
        await stores.jobs.accept(replace(new_job(), credential=CREDENTIAL))
        await stores.credentials.pause(CREDENTIAL.id, at=T0, status=401, body=b"no")
    async with kept.opened(vault_of(b"n", b"o")) as stores:
        await stores.jobs.accept(replace(new_job(), credential=CREDENTIAL))

    async with kept.opened(vault_of(b"n")) as stores:
        paused = replace(CREDENTIAL, paused_at=T0, pause_status=401, pause_body=b"no")
        assert await stores.credentials.all() == [paused]


async def test_a_key_that_is_dropped_too_early_is_missed_at_the_start(kept: Kept) -> None:
    async with kept.opened(vault_of(b"o")) as stores:
        await stores.jobs.accept(replace(new_job(), credential=CREDENTIAL))

    with pytest.raises(StoreCorruptError, match="which the key file does not hold") as refused:
        async with kept.opened(vault_of(b"n")):
            pass

    assert f"credential:{CREDENTIAL.id}" in refused.value.message
    assert "put the old key back" in (refused.value.hint or "")


async def test_a_credential_that_is_damaged_hides_no_other(kept: Kept) -> None:
    damaged = make_credential(id=CredentialId("damaged"))
    async with kept.opened(vault_of(b"k")) as stores:
        await stores.credentials.remember(CREDENTIAL)
        await stores.credentials.remember(damaged)
        kept.copy_headers(CREDENTIAL.id, damaged.id)

        assert await stores.credentials.all() == [CREDENTIAL]
        mine = await stores.credentials.of_owner(CREDENTIAL.owner, CREDENTIAL.upstream)
        assert mine == [CREDENTIAL]
        assert await stores.credentials.get(CREDENTIAL.id) == CREDENTIAL
        with pytest.raises(StoreCorruptError, match="altered or moved"):
            await stores.credentials.get(damaged.id)
        assert await stores.credentials.forget_unused(limit=9) == 0
        assert await stores.credentials.forget_unused(limit=9) == 2


@pytest.mark.parametrize("is_moved", [True, False])
async def test_a_credential_that_is_damaged_keeps_nobody_from_starting(
    kept: Kept, is_moved: bool
) -> None:
    damaged = make_credential(id=CredentialId("damaged"))
    async with kept.opened(vault_of(b"o")) as stores:
        await stores.credentials.remember(CREDENTIAL)
        await stores.credentials.remember(damaged)
    if is_moved:
        kept.copy_headers(CREDENTIAL.id, damaged.id)
    else:
        kept.spoil_headers(damaged.id)

    async with kept.opened(vault_of(b"n", b"o")):
        pass
    kept.spoil_headers(damaged.id)

    async with kept.opened(vault_of(b"n")) as stores:
        assert await stores.credentials.all() == [CREDENTIAL]
