"""Redis over TLS, with a user that may touch nothing but our keys: all of it in the URL."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from proxy.core.errors import ConfigError, StoreError
from proxy.ports.batches import ClaimLimits
from proxy.stores.redis import RedisStores
from tests.helpers.certificates import write_certificate
from tests.helpers.factories import T0, make_batch, new_job
from tests.helpers.ports import free_port
from tests.helpers.raw_upstream import wait_until
from tests.helpers.redis_server import (
    STORE_KEYS,
    RedisServer,
    opened,
    redis_server,
)

pytestmark = pytest.mark.redis

USER = ("offramp", "p@ss/word")
IN_URL = "offramp:p%40ss%2Fword"
PLENTY = ClaimLimits(max_requests=1_000, max_bytes=10**9)


@dataclass(frozen=True)
class Guarded:
    server: RedisServer
    port: int
    certificate: Path

    def url(self, user: str = IN_URL, ca: Path | None = None) -> str:
        return f"rediss://{user}@127.0.0.1:{self.port}/0?ca={ca or self.certificate}&timeout=2"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("redis")
    certificate, port = write_certificate(folder / "server.pem"), free_port()
    tls = {"port": port, "cert-file": certificate, "key-file": certificate, "auth-clients": "no"}
    words = [word for name, value in tls.items() for word in (f"--tls-{name}", str(value))]
    name, password = USER
    with redis_server(folder, *words, "--tls-ca-cert-file", str(certificate)) as server:
        may = ("on", f">{password}", "~offramp:*", "&offramp:*", "+@all")
        server.admin.execute_command("ACL", "SETUSER", name, *may)
        yield Guarded(server, port, certificate)


async def test_a_job_lives_its_life_over_tls_by_a_user_who_may_touch_nothing_else(guarded):
    async with opened(guarded.url()) as stores:
        job = (await stores.jobs.accept(new_job())).job
        batch = make_batch()
        await stores.batches.add(batch)
        claimed = await stores.batches.claim(job.key, batch.id, PLENTY, ready_at=T0)
        heard: list[str] = []
        stores.wakeups.subscribe(heard.extend)

        def published() -> bool:
            stores.wakeups.publish([job.id])
            return job.id in heard

        await wait_until(published)

        assert claimed.count == 1
        assert (await stores.jobs.get(job.id)).batch_id == batch.id

    others = Redis(port=guarded.server.port, username=USER[0], password=USER[1], protocol=2)
    with pytest.raises(NoPermissionError):
        others.set("another:key", "1")
    others.close()


async def refusal(url: str) -> StoreError:
    """Return why a store cannot be opened, once its connection is gone."""
    before = sockets()
    async with asyncio.TaskGroup() as tasks:
        with pytest.raises(StoreError) as refused:
            await RedisStores.open(url, STORE_KEYS, tasks)
    # The library waits for no end of TLS, which takes the server: the loop would end before.
    await wait_until(lambda: sockets() <= before)
    return refused.value


def sockets() -> frozenset[str]:
    """Return the names of this process' sockets."""
    names = set()
    for link in Path("/proc/self/fd").iterdir():
        # That of the folder itself is closed by now.
        with suppress(FileNotFoundError):
            names.add(str(link.readlink()))
    return frozenset(name for name in names if name.startswith("socket:"))


async def test_a_server_with_a_certificate_of_somebody_else_is_not_talked_to(guarded, tmp_path):
    refused = await refusal(guarded.url(ca=write_certificate(tmp_path / "other.pem")))

    assert "certificate of Redis is not trusted" in str(refused)


@pytest.mark.parametrize("content", [None, ""], ids=["absent", "empty"])
async def test_authorities_that_cannot_be_used_are_named(guarded, tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)

    async with asyncio.TaskGroup() as tasks:
        with pytest.raises(ConfigError, match="cannot be used: "):
            await RedisStores.open(guarded.url(ca=path), STORE_KEYS, tasks)


@pytest.mark.parametrize("user", ["offramp:wrong", "nobody:p"])
async def test_a_wrong_password_is_told_without_showing_it(guarded, user):
    refused = await refusal(guarded.url(user))

    assert "refused the credentials" in str(refused)
    assert "wrong" not in str(refused)
