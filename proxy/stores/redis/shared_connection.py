"""One connection, and the task that alone talks on it.

Callers never touch a connection: they leave their commands and wait for a future.
The task sends the commands of all who wait in one pipeline and reads every reply
before the next group, so that a caller who is cancelled leaves nothing unread
that the next one could take for an answer (as in CVE-2023-28858).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from redis.asyncio import Connection
from redis.exceptions import ClusterCrossSlotError, RedisError, ResponseError

from proxy.core.errors import StoreError, StoreUnavailableError
from proxy.stores.redis.failures import translate
from proxy.stores.redis.packing import Part, join, pack
from proxy.stores.redis.replies import Answer, Reply

GROUP_COMMANDS: Final = 1_000
GROUP_BYTES: Final = 4_000_000
"""What is sent before replies are read: it bounds the buffers on both sides."""

SHARING: Final = 16
SHARING_BYTES: Final = 128_000
"""For how many one call of a script goes out. Redis does nothing else meanwhile: an accept
takes it up to 100 us. Nor should it copy more at once."""

WAITING_BYTES: Final = 256_000_000
"""What may wait for its turn. More than Redis takes in seconds is better refused."""

LOOK_AGAIN_S: Final = 30.0
"""How often it is looked whether the server was set otherwise, at most, on each connection."""

IDLE_S: Final = 1.0
"""A connection that was not used for so long is checked: the other end may have gone."""


class Ask:
    """The commands of one caller for one node, and where their replies go."""

    __slots__ = ("future", "packed", "part", "size", "writes")

    def __init__(self, packed: Sequence[bytes], *, writes: bool, part: Part | None = None) -> None:
        """`part` is, instead of commands, of a call that it may share with others who wait."""
        self.packed = packed
        self.writes = writes
        self.part = part
        self.size = part.size if part else sum(map(len, packed))
        self.future: asyncio.Future[list[Answer] | StoreError]
        # An error is its result, since nobody may be left to be told.
        self.future = asyncio.get_running_loop().create_future()

    def settle(self, outcome: list[Answer] | StoreError) -> None:
        """Say what became of it, if anybody still waits."""
        if not self.future.done():
            self.future.set_result(outcome)


class SharedConnection:
    """One connection. `run` is its task, which ends after `close`."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        timeout_s: float,
        acks: int = 0,
        acks_timeout_s: float = 1.0,
        spans_slots: bool = True,
        check: Callable[[Connection], Awaitable[None]] | None = None,
    ) -> None:
        """`check` raises once a connection should not be used any more; `connect` asks it, too."""
        self._check = check
        self._checked_at = 0.0
        self._connect = connect
        self._timeout_s = timeout_s
        self._acks = acks
        self._acks_timeout_s = acks_timeout_s
        self._spans_slots = spans_slots
        self._waiting: deque[Ask] = deque()
        self._waiting_bytes = 0
        self.load = 0
        """How many callers wait for an answer."""

        self._more = asyncio.Event()
        self._connection: Connection | None = None
        self._used_at = 0.0
        self._closing = False

    def submit(self, ask: Ask) -> None:
        """Let `ask` be sent with the next group.

        Raises:
            StoreUnavailableError: if too much waits already, or it is closed.
        """
        if self._closing:
            raise StoreUnavailableError("the store is closed")
        if self._waiting_bytes + ask.size > WAITING_BYTES:
            raise StoreUnavailableError("too much waits for Redis")
        self._waiting.append(ask)
        self.load += 1
        self._waiting_bytes += ask.size
        self._more.set()

    def reset(self) -> None:
        """Use a new connection from the next group on."""
        self._used_at = float("-inf")

    def close(self) -> None:
        """Take no more; `run` ends once what waits is answered."""
        self._closing = True
        self._more.set()

    async def run(self) -> None:
        """Send what waits, group by group, until closed."""
        group: list[Ask] = []
        try:
            while await self._some():
                group = self._next_group()
                await self._exchange(group)
                self.load -= len(group)
                group = []
        finally:
            ended = StoreUnavailableError("the store is closed")
            for ask in (*group, *self._waiting):
                ask.settle(ended)
            await self._disconnect()

    async def _some(self) -> bool:
        while not self._waiting:
            if self._closing:
                return False
            self._more.clear()
            await self._more.wait()
        return True

    def _next_group(self) -> list[Ask]:
        group: list[Ask] = []
        commands = size = 0
        while self._waiting and commands < GROUP_COMMANDS and size < GROUP_BYTES:
            ask = self._waiting.popleft()
            self._waiting_bytes -= ask.size
            if ask.future.cancelled():
                self.load -= 1
                continue
            group.append(ask)
            commands += len(ask.packed) or 1
            size += ask.size
        return group

    async def _exchange(self, group: Sequence[Ask]) -> None:
        if not group:
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._connected()
                self._used_at = asyncio.get_running_loop().time()
                await self._talk(connection, group)
        except (RedisError, OSError, StoreError, TimeoutError) as exc:
            # Whether it took effect is not known, so nothing is sent again. An error of
            # our own says that no sentinel answers: it must not end the task, and with
            # it the instance.
            await self._disconnect()
            for ask in group:
                ask.settle(translate(exc))

    async def _talk(self, connection: Connection, group: Sequence[Ask]) -> None:
        calls = self._shared(group)
        packed = [command for asks in calls for command in _commands(asks)]
        asks_acks = self._acks > 0 and any(ask.writes for ask in group)
        if asks_acks:
            packed.append(pack(("WAIT", self._acks, int(self._acks_timeout_s * 1000))))
        await connection.send_packed_command(b"".join(packed), check_health=False)
        answered: list[tuple[Ask, list[Answer]]] = []
        for asks in calls:
            replies = await self._replies(connection, asks)
            answered += zip(asks, replies, strict=True)
            if not asks_acks:
                for ask, own in zip(asks, replies, strict=True):
                    ask.settle(own)
        if asks_acks:
            self._settle_acknowledged(answered, await _read(connection))

    def _shared(self, group: Sequence[Ask]) -> list[list[Ask]]:
        """Put those together whom one call of a script can serve; others stay alone."""
        calls: list[list[Ask]] = []
        latest: dict[tuple[bytes, int], tuple[list[Ask], int]] = {}
        for ask in group:
            if ask.part is None:
                calls.append([ask])
                continue
            where = (ask.part.script, 0 if self._spans_slots else ask.part.slot)
            asks, size = latest.get(where, ([], 0))
            size += ask.size
            if not asks or len(asks) == SHARING or size > SHARING_BYTES:
                asks, size = [], ask.size
                calls.append(asks)
            asks.append(ask)
            latest[where] = asks, size
        return calls

    async def _replies(self, connection: Connection, asks: Sequence[Ask]) -> list[list[Answer]]:
        """Read what came for those who share a call, or for one who is alone."""
        if asks[0].part is None:
            return [[await _read(connection) for _ in asks[0].packed]]
        answer = await _read(connection)
        if isinstance(answer, ClusterCrossSlotError) and len(asks) > 1:
            # There is a cluster behind the one address. Nothing was done; each goes alone now.
            self._spans_slots = False
        return [[own] for own in (answer if isinstance(answer, list) else [answer] * len(asks))]

    def _settle_acknowledged(
        self, answered: Sequence[tuple[Ask, list[Answer]]], acks: Answer
    ) -> None:
        missing = not isinstance(acks, int) or acks < self._acks
        if missing:
            # It may be a master that was replaced and does not know it yet.
            self.reset()
        for ask, replies in answered:
            # What was refused wrote nothing that a replica could have.
            is_refused = all(isinstance(reply, ResponseError) for reply in replies)
            if missing and ask.writes and not is_refused:
                ask.settle(
                    StoreUnavailableError(
                        f"a write reached fewer than {self._acks} replicas in time",
                        hint="look at the replicas, or lower acks in the store's URL",
                    )
                )
            else:
                ask.settle(replies)

    async def _connected(self) -> Connection:
        now = asyncio.get_running_loop().time()
        idle_s = now - self._used_at
        connection = self._connection
        if connection is not None and (
            idle_s == float("inf") or (idle_s > IDLE_S and await _is_dirty(connection))
        ):
            await self._disconnect()
        if self._connection is None:
            self._connection = await self._connect()
            self._checked_at = now
        elif self._check is not None and now - self._checked_at >= LOOK_AGAIN_S:
            await self._check(self._connection)
            self._checked_at = now
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


def _commands(asks: Sequence[Ask]) -> Sequence[bytes]:
    """Return what is sent for those who share a call, or for one who is alone."""
    return asks[0].packed or [join([ask.part for ask in asks if ask.part])]


async def _read(connection: Connection) -> Answer:
    try:
        reply: Reply = await connection.read_response()
    except ResponseError as exc:
        return exc
    return reply


async def _is_dirty(connection: Connection) -> bool:
    try:
        return bool(await connection.can_read())
    except (RedisError, OSError):
        return True
