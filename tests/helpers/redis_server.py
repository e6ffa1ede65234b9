"""Redis processes of our own: one server, or a cluster of three masters."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from redis import Redis

from proxy.stores.redis import RedisStores
from proxy.stores.vault import Vault
from tests.helpers.ports import free_port

STORE_KEYS = Vault(keys=[b"k" * 32], hash_key=b"h" * 32)
"""Those of `opened`."""

PROGRAM = os.environ.get("TEST_REDIS_SERVER", "redis-server")
"""What is started: `valkey-server` and other builds of Redis' protocol may be tried."""


@dataclass(frozen=True)
class RedisServer:
    """A running server; `admin` is a plain client of the library."""

    port: int
    admin: Redis
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@dataclass(frozen=True)
class RedisClusterServers:
    """Three masters that share the slots."""

    servers: Sequence[RedisServer]

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"redis+cluster://{places}"

    def flush(self) -> None:
        for server in self.servers:
            server.admin.flushall()


@contextmanager
def redis_server(
    folder: Path, *options: str, port: int | None = None, password: str | None = None
) -> Iterator[RedisServer]:
    """Run a server on a free port of the loopback until the block ends."""
    port = port or free_port()
    usual = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "")
    with _running((PROGRAM, *usual, *options), port, password) as server:
        yield server


@contextmanager
def redis_sentinel(
    folder: Path, master: RedisServer, password: str, *, down_ms: int = 30_000
) -> Iterator[RedisServer]:
    """Run a sentinel that decides alone, and calls the master `main`."""
    port, config = free_port(), folder / "sentinel.conf"
    config.write_text(
        f"bind 127.0.0.1\nport {port}\ndir {folder}\n"
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        f"sentinel auth-pass main {password}\n"
        f"sentinel down-after-milliseconds main {down_ms}\n"
        # A failover that found no replica fit is tried again after twice that.
        "sentinel failover-timeout main 5000\n"
    )
    with _running((PROGRAM, str(config), "--sentinel"), port, None) as server:
        yield server


@contextmanager
def _running(command: Sequence[str], port: int, password: str | None) -> Iterator[RedisServer]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    admin = Redis(host="127.0.0.1", port=port, password=password, protocol=2)
    try:
        _wait_until_up(admin, process)
        yield RedisServer(port, admin, process)
    finally:
        admin.close()
        process.kill()
        process.wait()


@contextmanager
def redis_cluster(folder: Path) -> Iterator[RedisClusterServers]:
    """Run three masters that have divided the slots, until the block ends."""
    with ExitStack() as stack:
        servers = []
        for number in range(3):
            home = folder / f"node-{number}"
            home.mkdir()
            servers.append(stack.enter_context(redis_server(home, "--cluster-enabled", "yes")))
        make_cluster(servers)
        yield RedisClusterServers(servers)


def make_cluster(servers: Sequence[RedisServer]) -> None:
    """Let servers be a cluster: the first three share the slots, and the others have none yet."""
    step = 16_384 // 3 + 1
    for number, server in enumerate(servers):
        if number < 3:
            first, last = number * step, min((number + 1) * step, 16_384) - 1
            server.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        server.admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for server in servers[1:]:
        servers[0].admin.execute_command("CLUSTER", "MEET", "127.0.0.1", server.port)
    for server in servers:
        _wait_for(partial(_is_whole, server, len(servers)))


async def eventually(is_true: Callable[[], Awaitable[bool]], *, seconds: float = 30) -> None:
    """Return once a condition holds that has to be asked for."""
    async with asyncio.timeout(seconds):
        while not await is_true():
            await asyncio.sleep(0.02)


def _is_whole(server: RedisServer, count: int) -> bool:
    info = server.admin.execute_command("CLUSTER", "INFO")
    return b"cluster_state:ok" in info and b"cluster_known_nodes:%d\r" % count in info


def _wait_until_up(admin: Redis, process: "subprocess.Popen[bytes]") -> None:
    def is_up() -> bool:
        assert process.poll() is None, "the server ended at once"
        try:
            # Another one may have taken the port since it was found free.
            return admin.ping() and admin.info("server")["process_id"] == process.pid
        except Exception:  # noqa: BLE001 - not up yet, in whatever way
            return False

    _wait_for(is_up)


def _wait_for(is_true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < until, "redis-server does not come up"
        time.sleep(0.02)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisStores]:
    """Open the store there, and close it afterwards."""
    async with asyncio.TaskGroup() as tasks:
        stores = await RedisStores.open(url, STORE_KEYS, tasks)
        try:
            yield stores
        finally:
            await stores.aclose()
