"""Which node to talk to: the one there is, the master of a service, or a slot's owner."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeAlias

from redis.exceptions import ResponseError

from proxy.core.errors import StoreError, StoreUnavailableError
from proxy.ports.tasks import TaskOwner
from proxy.stores.redis.address import Place, RedisAddress
from proxy.stores.redis.commands import SLOTS
from proxy.stores.redis.failures import translate
from proxy.stores.redis.node import Node, the_place
from proxy.stores.redis.replies import Reply, as_int, as_list, as_text
from proxy.stores.redis.sentinels import find_master

Range: TypeAlias = tuple[int, int, Place]
"""The first and the last of some slots, and who has them."""


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
        find = partial(find_master, address) if sentinels else partial(the_place, address)
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
            raise _no_slots()
        return node

    def node_at(self, place: Place) -> Node:
        if place not in self._nodes:
            find = partial(the_place, replace(self._address, places=(place,)))
            self._nodes[place] = Node(find, self._address, self._tasks)
        return self._nodes[place]

    async def refresh(self) -> None:
        """Ask one node after the other who has what, until one knows of every slot.

        If none does, the one that knows of the most decides: a node that only just joined,
        or that the others have shut out, knows of few.

        Raises:
            StoreUnavailableError: if none answers.
        """
        problem: StoreError = StoreUnavailableError(
            "no node of the cluster answers", hint="the store's URL may name several: are they up?"
        )
        best: list[Range] = []
        for place in dict.fromkeys((*self._nodes, *self._address.places)):
            node = self.node_at(place)
            # The last to be asked the next time: it may hang.
            self._nodes[place] = self._nodes.pop(place)
            try:
                answer = await node.ask("CLUSTER", "SLOTS")
            except StoreError as exc:
                problem = exc
                continue
            if isinstance(answer, ResponseError):
                problem = _no_cluster(answer)
                continue
            best = max(best, _ranges(answer, place), key=_covered)
            problem = _no_slots()
            if _covered(best) == SLOTS:
                break
        if not best:
            raise problem
        self._learn(best)

    def close(self) -> None:
        for node in self._nodes.values():
            node.close()

    def _learn(self, ranges: Sequence[Range]) -> None:
        owners: list[Node | None] = [None] * SLOTS
        for first, last, place in ranges:
            owners[first : last + 1] = [self.node_at(place)] * (last + 1 - first)
        self._owners = owners
        for place in set(self._nodes) - {place for *_, place in ranges}:
            self._nodes.pop(place).close()


def _ranges(answer: Reply, asked: Place) -> list[Range]:
    """Return what `CLUSTER SLOTS` answered where we asked."""
    ranges = []
    for one in as_list(answer):
        first, last, master = as_list(one)[:3]
        name, port = as_list(master)[:2]
        # A node that does not know its own name is where we asked.
        place = ((as_text(name) if name else "") or asked[0], as_int(port))
        ranges.append((as_int(first), as_int(last), place))
    return ranges


def _no_slots() -> StoreError:
    return StoreUnavailableError(
        "no node of the cluster has one of our slots",
        hint="look at CLUSTER INFO: redis-cli --cluster create (or fix) gives slots to masters",
    )


def _covered(ranges: Sequence[Range]) -> int:
    return sum(last + 1 - first for first, last, _ in ranges)


def _no_cluster(refusal: ResponseError) -> StoreError:
    if "cluster support disabled" not in str(refusal):
        return translate(refusal)
    return StoreUnavailableError(
        "Redis is no cluster", hint="begin the store's URL with redis:// or rediss://"
    )


def topology_of(address: RedisAddress, tasks: TaskOwner) -> Topology:
    """Return what fits the address."""
    return Cluster(address, tasks) if address.is_cluster else OneNode(address, tasks)
