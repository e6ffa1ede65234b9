"""Which node to talk to: the one there is, the master of a service, or a slot's owner."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, Final, Protocol

from redis.asyncio import Connection, SSLConnection
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from proxy.core.errors import StoreError, StoreUnavailableError
from proxy.ports.tasks import TaskOwner
from proxy.stores.redis.address import Place, RedisAddress
from proxy.stores.redis.commands import SLOTS
from proxy.stores.redis.packing import pack
from proxy.stores.redis.wire import (
    Answer,
    Ask,
    Lane,
    Reply,
    as_int,
    as_list,
    as_text,
    translate,
)

CONNECT_S: Final = 2.0

FRONTS: Final = 2
"""Connections for what somebody waits for: while Redis works on the group of one, we make
that of the other. More would only make smaller groups."""

_load: Final = attrgetter("load")


class Node:
    """One server, with connections for what somebody waits for and one for the rest."""

    def __init__(
        self, find: Callable[[], Awaitable[Place]], address: RedisAddress, tasks: TaskOwner
    ) -> None:
        self.connect = partial(_connect, find, address)
        """Return a new connection, which the caller owns."""

        self.back, *self._fronts = self._lanes = [
            Lane(
                self.connect,
                timeout_s=address.timeout_s,
                acks=address.acks,
                acks_timeout_s=address.acks_timeout_s,
                spans_slots=not address.is_cluster,
            )
            for _ in range(1 + FRONTS)
        ]
        for lane in self._lanes:
            tasks.create_task(lane.run(), name="redis")

    @property
    def front(self) -> Lane:
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
        for lane in self._lanes:
            lane.reset()

    def close(self) -> None:
        """Take no more commands."""
        for lane in self._lanes:
            lane.close()


class Topology(Protocol):
    """Finds the node for a slot."""

    @property
    def nodes(self) -> Sequence[Node]:
        """All masters that are known."""
        ...

    def node_of(self, slot: int) -> Node:
        """Return who has the slot, as far as is known."""
        ...

    def node_at(self, place: Place) -> Node:
        """Return the node there, whether or not it has slots."""
        ...

    async def refresh(self) -> None:
        """Find out anew who has what."""
        ...

    def close(self) -> None:
        """Take no more commands, at any node."""
        ...


class OneNode:
    """A single server, or the master that sentinels name."""

    def __init__(self, address: RedisAddress, tasks: TaskOwner) -> None:
        sentinels = address.service is not None
        find = partial(_find_master, address) if sentinels else partial(_the_place, address)
        self._node = Node(find, address, tasks)

    @property
    def nodes(self) -> Sequence[Node]:
        return [self._node]

    def node_of(self, slot: int) -> Node:  # noqa: ARG002 - it has them all
        return self._node

    def node_at(self, place: Place) -> Node:  # noqa: ARG002 - there is no other
        return self._node

    async def refresh(self) -> None:
        self._node.reset()

    def close(self) -> None:
        self._node.close()


class Cluster:
    """Masters that share the slots."""

    def __init__(self, address: RedisAddress, tasks: TaskOwner) -> None:
        self._address = address
        self._tasks = tasks
        self._nodes: dict[Place, Node] = {}
        self._owners: list[Node | None] = [None] * SLOTS

    @property
    def nodes(self) -> Sequence[Node]:
        return list(dict.fromkeys(node for node in self._owners if node is not None))

    def node_of(self, slot: int) -> Node:
        node = self._owners[slot]
        if node is None:
            raise StoreUnavailableError(
                "no node of the cluster has one of our slots", hint="look at CLUSTER INFO"
            )
        return node

    def node_at(self, place: Place) -> Node:
        if place not in self._nodes:
            find = partial(_the_place, replace(self._address, places=(place,)))
            self._nodes[place] = Node(find, self._address, self._tasks)
        return self._nodes[place]

    async def refresh(self) -> None:
        """Ask one node after the other who has what; the first that knows decides.

        Raises:
            StoreUnavailableError: if none answers.
        """
        problem: StoreError = StoreUnavailableError("no node of the cluster answers")
        for place in dict.fromkeys((*self._nodes, *self._address.places)):
            try:
                answer = await self.node_at(place).ask("CLUSTER", "SLOTS")
            except StoreError as exc:
                problem = exc
                continue
            if isinstance(answer, list) and answer:
                self._learn(answer, place)
                return
            if isinstance(answer, ResponseError):
                problem = _no_cluster(answer)
        raise problem

    def close(self) -> None:
        for node in self._nodes.values():
            node.close()

    def _learn(self, ranges: list[Reply], asked: Place) -> None:
        owners: list[Node | None] = [None] * SLOTS
        used = set()
        for one in ranges:
            first, last, master = as_list(one)[:3]
            name, port = as_list(master)[:2]
            # A node that does not know its own name is where we asked.
            place = ((as_text(name) if name else "") or asked[0], as_int(port))
            used.add(place)
            count = as_int(last) - as_int(first) + 1
            owners[as_int(first) : as_int(last) + 1] = [self.node_at(place)] * count
        self._owners = owners
        for place in set(self._nodes) - used:
            self._nodes.pop(place).close()


def _no_cluster(refusal: ResponseError) -> StoreError:
    if "cluster support disabled" not in str(refusal):
        return translate(refusal)
    return StoreUnavailableError(
        "Redis is no cluster", hint="begin the store's URL with redis:// or rediss://"
    )


def topology_of(address: RedisAddress, tasks: TaskOwner) -> Topology:
    """Return what fits the address."""
    return Cluster(address, tasks) if address.is_cluster else OneNode(address, tasks)


async def _the_place(address: RedisAddress) -> Place:
    return address.places[0]


async def _find_master(address: RedisAddress) -> Place:
    """Ask one sentinel after the other (Redis Sentinel client spec, steps 1 and 2)."""
    # Whoever waits has one time limit for all of it: where the master's machine died with
    # its sentinel, the others must get their turn, and the new master its own.
    each_s = min(CONNECT_S, address.timeout_s / (len(address.places) + 1))
    problem = StoreUnavailableError(f"no sentinel knows a master of {address.service!r}")
    for place in address.places:
        sentinel = _connection(
            place,
            replace(
                address,
                username=address.sentinel_username,
                password=address.sentinel_password,
                database=0,
            ),
        )
        try:
            async with asyncio.timeout(each_s):
                await sentinel.connect()  # type: ignore[no-untyped-call]
                await sentinel.send_command(
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service or ""
                )
                found = await sentinel.read_response()
        except (AuthenticationError, NoPermissionError):
            problem = StoreUnavailableError(
                "a sentinel refused the credentials or their rights",
                hint="sentinels have their own: sentinel_username and sentinel_password in the URL",
            )
            continue
        except (RedisError, OSError, TimeoutError):
            continue
        finally:
            await sentinel.disconnect(nowait=True)
        if isinstance(found, list):
            host, port = found
            return as_text(host), as_int(port)
    raise problem


async def _connect(find: Callable[[], Awaitable[Place]], address: RedisAddress) -> Connection:
    connection = _connection(await find(), address)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


def _connection(place: Place, address: RedisAddress) -> Connection:
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
