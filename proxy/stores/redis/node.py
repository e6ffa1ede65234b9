"""One server: how it is found, and the connections to it."""

import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from operator import attrgetter
from typing import Any, Final

from redis.asyncio import Connection, SSLConnection

from proxy.core.errors import StoreError, StoreUnavailableError
from proxy.ports.tasks import TaskOwner
from proxy.stores.redis.address import Place, RedisAddress
from proxy.stores.redis.packing import pack
from proxy.stores.redis.replies import Answer, as_text
from proxy.stores.redis.shared_connection import Ask, SharedConnection

CONNECT_S: Final = 2.0

FRONTS: Final = 2
"""Connections for what somebody waits for: while Redis works on the group of one, we make
that of the other. More would only make smaller groups."""

NO_EVICTION: Final = "noeviction"

_load: Final = attrgetter("load")


class StoreEvictsError(StoreUnavailableError):
    """Redis may throw away what was accepted, so nothing is entrusted to it."""

    def __init__(self, policy: str) -> None:
        super().__init__(
            f"Redis throws keys away when its memory is full (maxmemory-policy {policy})",
            hint="CONFIG SET maxmemory-policy noeviction: accepted jobs must not vanish",
        )


class Node:
    """One server, with connections for what somebody waits for and one for the rest."""

    def __init__(
        self, find: Callable[[], Awaitable[Place]], address: RedisAddress, tasks: TaskOwner
    ) -> None:
        self.connect = partial(_connect, find, address)
        """Return a new connection, which the caller owns."""

        self.back, *self._fronts = self._connections = [
            SharedConnection(
                self.connect,
                timeout_s=address.timeout_s,
                acks=address.acks,
                acks_timeout_s=address.acks_timeout_s,
                spans_slots=not address.is_cluster,
                check=_check_that_it_keeps_all,
            )
            for _ in range(1 + FRONTS)
        ]
        for connection in self._connections:
            tasks.create_task(connection.run(), name="redis")

    @property
    def front(self) -> SharedConnection:
        """The connection on which a caller waits for the fewest others."""
        return min(self._fronts, key=_load)

    async def ask(self, *arguments: str) -> Answer:
        """Send one command that needs no key, and return what it got.

        Raises:
            StoreError: if there is no answer.
        """
        ask = Ask([pack(arguments)], writes=False)
        self.front.submit(ask)
        outcome = await ask.future
        if isinstance(outcome, StoreError):
            raise outcome
        return outcome[0]

    def reset(self) -> None:
        """Connect anew, to whoever is found then."""
        for connection in self._connections:
            connection.reset()

    def close(self) -> None:
        """Take no more commands."""
        for connection in self._connections:
            connection.close()


async def the_place(address: RedisAddress) -> Place:
    return address.places[0]


async def _connect(find: Callable[[], Awaitable[Place]], address: RedisAddress) -> Connection:
    connection = connection_to(await find(), address)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        await _check_that_it_keeps_all(connection)
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


async def _check_that_it_keeps_all(connection: Connection) -> None:
    # At each connection, and now and then: after a failover it is another server, after a
    # restart or by an operator it may be set otherwise, and what was accepted would vanish
    # without a word.
    await connection.send_command("INFO", "memory")
    info = as_text(await connection.read_response())
    _, found, rest = info.partition("maxmemory_policy:")
    policy = rest.partition("\r\n")[0] if found else NO_EVICTION
    if policy != NO_EVICTION:
        raise StoreEvictsError(policy)


def connection_to(place: Place, address: RedisAddress) -> Connection:
    """Return a connection that is not open yet."""
    host, port = place
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "db": address.database,
        "username": address.username,
        "password": address.password,
        # A whole group has one time limit; a timer at each reply costs more than the reply.
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_S,
        "protocol": 2,
        "driver_info": None,
    }
    if not address.tls:
        return Connection(**options)
    return SSLConnection(
        ssl_ca_certs=address.ca,
        ssl_min_version=ssl.TLSVersion.TLSv1_2,
        ssl_check_hostname=True,
        **options,
    )
