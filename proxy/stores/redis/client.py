"""Send commands to where their keys are, and see to it that they arrive.

Only what certainly had no effect is sent again: a command that was refused because the node does
not have the slot, the script or the role. After a broken connection nobody knows, and the caller is
told so.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from redis.asyncio import Connection
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from proxy.core.chunks import chunked
from proxy.core.errors import StoreError, StoreUnavailableError
from proxy.ports.tasks import TaskOwner
from proxy.stores.redis.address import RedisAddress
from proxy.stores.redis.commands import Command
from proxy.stores.redis.failures import translate
from proxy.stores.redis.node import Node
from proxy.stores.redis.packing import pack
from proxy.stores.redis.replies import Answer, Reply
from proxy.stores.redis.shared_connection import Ask
from proxy.stores.redis.topology import topology_of

ROUNDS: Final = 40
"""How often a command is sent before it is given up.

While a slot moves, its two nodes refuse scripts whose keys are split between them (`TRYAGAIN`).
With the pause that is a second, since every other round only asks the wrong one of the two; and the
election of a master for two seconds.
"""

CHUNK: Final = 500
"""Commands of one caller that go out at once, so that others get their turn."""

PAUSE_S: Final = 0.05

_BEFORE_IT_BEGAN: Final = (
    NoScriptError,
    AskError,
    TryAgainError,
    ReadOnlyError,
    ClusterCrossSlotError,
)
"""How a command is refused as a whole. Any other refusal of a script may come from its middle."""


class Client:
    """All of Redis behind one address. Used from one event loop."""

    def __init__(self, address: RedisAddress, tasks: TaskOwner) -> None:
        self._topology = topology_of(address, tasks)
        self._is_cluster = self._doubtful = address.is_cluster

    @property
    def nodes(self) -> Sequence[Node]:
        """All masters that are known."""
        return self._topology.nodes

    async def call(self, command: Command, *, background: bool = False) -> Reply:
        """Execute one command.

        Raises:
            StoreError: if it was refused, or may not have been executed.
        """
        if not self._doubtful:
            # What nearly every call is: one command, answered where it was sent.
            node = self._owner(command.slot)
            part = command.part
            ask = Ask(() if part else (command.packed,), writes=command.writes, part=part)
            (node.back if background else node.front).submit(ask)
            outcome = await ask.future
            if isinstance(outcome, StoreError):
                self._doubtful = True
                raise outcome
            answer = outcome[0]
            if not isinstance(answer, ResponseError):
                return answer
            if not isinstance(answer, _BEFORE_IT_BEGAN):
                raise self._refused(answer) from answer
            # It had no effect; the long way finds out what to do about it.
        return (await self.call_many([command], background=background))[0]

    async def call_many(
        self, commands: Sequence[Command], *, background: bool = False
    ) -> list[Reply]:
        """Execute commands beside each other; return their replies in their order.

        They are not one transaction: if one fails, others may be done. What nobody
        waits for should go in the `background`, on a connection of its own.

        Raises:
            StoreError: if one was refused, or may not have been executed.
        """
        replies: list[Reply] = []
        for chunk in chunked(commands, CHUNK):
            replies += await self._settled(chunk, background)
        return replies

    def tell(self, command: Command) -> None:
        """Send a command whose answer nobody waits for; it may be lost."""
        with suppress(StoreError):
            node = self._topology.node_of(command.slot)
            node.back.submit(Ask((command.packed,), writes=False))

    async def refresh(self) -> None:
        """Find out anew where everything is.

        Raises:
            StoreUnavailableError: if nobody can say.
        """
        await self._topology.refresh()
        self._doubtful = False

    def close(self) -> None:
        """Take no more commands; what was begun is finished."""
        self._topology.close()

    async def connect(self) -> Connection:
        """Return a connection of the caller's own, for messages.

        Raises:
            RedisError: in the library's terms, as is everything that goes wrong on it.
        """
        return await self.nodes[0].connect()

    def _refused(self, exc: ResponseError) -> StoreError:
        # A node that others have shut out says the same for ever.
        self._doubtful |= isinstance(exc, ClusterDownError)
        return translate(exc)

    async def _settled(self, commands: Sequence[Command], background: bool) -> list[Reply]:
        if self._doubtful:
            await self.refresh()
        sent = list(commands)
        answers: list[Answer] = [None] * len(sent)
        todo = list(range(len(sent)))
        for number in range(ROUNDS):
            await self._round(sent, todo, answers, background)
            todo = [place for place in todo if isinstance(answers[place], ResponseError)]
            if not todo:
                break
            await self._prepare(sent, todo, answers, again=number > 0)
        replies: list[Reply] = []
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise translate(answer) from answer
            replies.append(answer)
        return replies

    async def _round(
        self,
        commands: Sequence[Command],
        todo: Sequence[int],
        answers: list[Answer],
        background: bool,
    ) -> None:
        """Send what is to do, grouped by node; put down what each command got."""
        places: dict[Node, list[int]] = {}
        asked_at = [answers[place] for place in todo]
        for place, before in zip(todo, asked_at, strict=True):
            places.setdefault(self._node(commands[place], before), []).append(place)
        asks = []
        for node, its in places.items():
            ask = _ask([commands[place] for place in its], [answers[place] for place in its])
            (node.back if background else node.front).submit(ask)
            asks.append((ask, its))
        for ask, its in asks:
            outcome = await ask.future
            if isinstance(outcome, StoreError):
                self._doubtful = True
                raise outcome
            # Before each command's own answer comes the one to `ASKING`.
            own = outcome[-len(its) :] if len(outcome) == len(its) else outcome[1::2]
            for place, answer in zip(its, own, strict=True):
                answers[place] = commands[place].own(answer)

    def _node(self, command: Command, before: Answer) -> Node:
        # Go where the refusal points: `MovedError`, too, is an `AskError` to the library.
        # The node that told us of all slots may not know of one that has just moved.
        if isinstance(before, AskError) and before.host:
            return self._topology.node_at((before.host, before.port))
        return self._owner(command.slot)

    def _owner(self, slot: int) -> Node:
        try:
            return self._topology.node_of(slot)
        except StoreError:
            # Nobody had the slot when we asked; somebody may have it by now.
            self._doubtful = True
            raise

    async def _prepare(
        self, commands: list[Command], todo: Sequence[int], answers: list[Answer], *, again: bool
    ) -> None:
        """Do what it takes for each refused command to be accepted the next time.

        Raises:
            StoreError: if one was refused for good.
        """
        refresh = pause = False
        for place in todo:
            match answers[place]:
                case NoScriptError():
                    commands[place] = commands[place].in_full()
                case MovedError() if not self._is_cluster:
                    raise StoreUnavailableError(
                        "Redis is one node of a cluster, and others have a part of our slots",
                        hint="begin the store's URL with redis+cluster://",
                    )
                case MovedError() | ReadOnlyError():
                    # The first time, only we did not know who has the slot. After that it is
                    # undecided, or has not got round to every node.
                    refresh, pause = True, pause or again
                case AskError():
                    pass
                case TryAgainError():
                    pause = True
                case ResponseError() as exc:
                    raise self._refused(exc) from exc
        if pause:
            await asyncio.sleep(PAUSE_S)
        if refresh:
            await self.refresh()


def _ask(commands: Sequence[Command], before: Sequence[Answer]) -> Ask:
    writes = any(command.writes for command in commands)
    if any(isinstance(one, AskError) and not isinstance(one, MovedError) for one in before):
        asking = pack(("ASKING",))
        return Ask([part for one in commands for part in (asking, one.packed)], writes=writes)
    return Ask([command.packed for command in commands], writes=writes)
