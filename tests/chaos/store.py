"""Stores that can be hurt, and lose nothing that they acknowledged."""

import asyncio
import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from tests.helpers.ports import free_port
from tests.helpers.redis_server import (
    RedisServer,
    eventually,
    make_cluster,
    redis_sentinel,
    redis_server,
)

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class Store(Protocol):
    """What instances are given, and a fault is done to."""

    @property
    def port(self) -> int | None:
        """Where a cable can be laid to; none if instances find their own way."""
        ...

    def url(self, port: int | None) -> str:
        """Return the URL for an instance whose cable has that port."""
        ...

    async def hurt(self, pause_s: float) -> None:
        """Let the store go away for about so long, and come back."""
        ...

    def close(self) -> None:
        """End its servers."""
        ...


class Restarted:
    """One server, killed and started again over its files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.port: int = self._start(free_port())

    def url(self, port: int | None) -> str:
        return f"redis://127.0.0.1:{port}/0?timeout=2"

    def _start(self, port: int) -> int:
        return self._stack.enter_context(redis_server(self._folder, *DURABLE, port=port)).port

    async def hurt(self, pause_s: float) -> None:
        self._stack.close()
        await asyncio.sleep(pause_s)
        await asyncio.to_thread(self._start, self.port)

    def close(self) -> None:
        self._stack.close()


class Failover:
    """Two servers and a sentinel: the master is killed, and comes back as a replica."""

    port = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._secret = secrets.token_hex(8)
        self._stacks = [ExitStack(), ExitStack()]
        self._ports = [free_port(), free_port()]
        self._sentinel_stack = ExitStack()
        for name in ("server-0", "server-1", "sentinel"):
            (folder / name).mkdir()
        self._master = 0
        self._servers = [self._start(0, None), self._start(1, self._ports[0])]
        # More than the second in which a sentinel connects anew, or it fails over again
        # from the master that it has just made.
        watch = redis_sentinel(folder / "sentinel", self._servers[0], self._secret, down_ms=2500)
        self._sentinel = self._sentinel_stack.enter_context(watch)

    def url(self, port: int | None) -> str:
        where = f"127.0.0.1:{self._sentinel.port}/main/0"
        # Without acks a master takes writes that its successor never saw.
        return f"redis+sentinel://:{self._secret}@{where}?timeout=2&acks=1&acks_timeout=1"

    def _start(self, place: int, master: int | None) -> RedisServer:
        auth = ("--requirepass", self._secret, "--masterauth", self._secret)
        quick = ("--repl-diskless-sync-delay", "0", "--repl-diskless-load", "swapdb")
        of = () if master is None else ("--replicaof", f"127.0.0.1 {master}")
        return self._stacks[place].enter_context(
            redis_server(
                self._folder / f"server-{place}",
                *(*DURABLE, *auth, *quick, *of),
                port=self._ports[place],
                password=self._secret,
            )
        )

    async def hurt(self, pause_s: float) -> None:
        old, new = self._master, 1 - self._master
        await eventually(lambda: _is_in_step(self._servers[old]))
        await eventually(self._is_watched, seconds=60)
        self._stacks[old].close()
        await eventually(lambda: _has_role(self._servers[new], "master"), seconds=60)
        await asyncio.sleep(pause_s)
        self._servers[old] = await asyncio.to_thread(self._start, old, self._ports[new])
        self._master = new

    async def _is_watched(self) -> bool:
        """Return whether the sentinel would promote the replica if the master died now.

        It hears of a replica, and that one is back and follows, only up to ten seconds
        later than the master; and for half a minute after a pause of its own (`tilt`) it
        does nothing at all.
        """
        admin = self._sentinel.admin
        master = admin.sentinel_master("main")
        assert isinstance(master, dict)
        return (
            master["port"] == self._ports[self._master]
            and master["flags"] == "master"
            and admin.info("sentinel")["sentinel_tilt"] == 0
            and any(
                replica["port"] == self._ports[1 - self._master]
                and replica["flags"] == "slave"
                and replica["master-link-status"] == "ok"
                for replica in admin.sentinel_slaves("main")
            )
        )

    def close(self) -> None:
        for stack in (self._sentinel_stack, *self._stacks):
            stack.close()


class Cluster:
    """Three masters with a replica each: one master after the other is killed, and comes back
    as a replica of the one that took over."""

    port = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stacks = [ExitStack() for _ in range(6)]
        self._ports = [free_port() for _ in self._stacks]
        self._killed = 0
        for place in range(6):
            (folder / f"node-{place}").mkdir()
        self._servers = [self._start(place) for place in range(6)]
        make_cluster(self._servers)
        for place in range(3):
            master = self._servers[place].admin.execute_command("CLUSTER", "MYID")
            self._servers[3 + place].admin.execute_command("CLUSTER", "REPLICATE", master)

    def url(self, port: int | None) -> str:
        places = ",".join(f"127.0.0.1:{port}" for port in self._ports[:2])
        return f"redis+cluster://{places}?timeout=2&acks=1&acks_timeout=1"

    def _start(self, place: int) -> RedisServer:
        cluster = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1500")
        quick = ("--repl-diskless-sync-delay", "0", "--repl-diskless-load", "swapdb")
        return self._stacks[place].enter_context(
            redis_server(
                self._folder / f"node-{place}",
                *(*DURABLE, *cluster, *quick),
                port=self._ports[place],
            )
        )

    async def hurt(self, pause_s: float) -> None:
        await eventually(self._is_in_step, seconds=60)
        masters = [place for place in range(6) if self._is_master(place)]
        place = masters[self._killed % 3]
        self._killed += 1
        others = [other for other in range(6) if other != place]
        self._stacks[place].close()

        async def is_replaced() -> bool:
            return sum(map(self._is_master, others)) == 3

        await eventually(is_replaced, seconds=60)
        await asyncio.sleep(pause_s)
        self._servers[place] = await asyncio.to_thread(self._start, place)

    async def _is_in_step(self) -> bool:
        """Return whether whichever master dies now is replaced, by one that lacks nothing."""
        told = [server.admin.info("replication") for server in self._servers]
        states = [server.admin.execute_command("CLUSTER", "INFO") for server in self._servers]
        followed = [one.get("slave0", {}).get("state") == "online" for one in told]
        return sum(followed) == 3 and all(b"cluster_state:ok" in state for state in states)

    def _is_master(self, place: int) -> bool:
        return bool(self._servers[place].admin.info("replication")["role"] == "master")

    def close(self) -> None:
        for stack in self._stacks:
            stack.close()


async def _has_role(server: RedisServer, role: str) -> bool:
    return bool(server.admin.info("replication")["role"] == role)


async def _is_in_step(master: RedisServer) -> bool:
    """Return whether a replica follows: a second master would be an empty one."""
    return bool(master.admin.info("replication").get("slave0", {}).get("state") == "online")
