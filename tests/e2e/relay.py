"""A relay on the way from an SDK to the proxy, which breaks connections on purpose.

It stays at its port while the proxy behind it ends and comes back at another one.
One call per connection: give the SDK `Connection: close`.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from urllib.parse import urlsplit

_RESET = struct.pack("ii", 1, 0)


class Cut(Enum):
    """Where a connection breaks, as its caller sees it: always by a reset."""

    NOT = auto()
    IN_REQUEST = auto()
    """Half of the request reaches the proxy."""

    WHILE_HELD = auto()
    """The proxy has the whole request, and loses the caller once `ready` has returned."""

    BEFORE_ANSWER = auto()
    """The proxy has sent the answer; the caller gets none of it."""

    IN_ANSWER = auto()
    """The caller gets the first half of what came first."""


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]

Plan = Callable[[int, bytes], Cut]
"""What befalls a call, by its number from 0 and its head."""


class Relay:
    """Relays to `target()`, the proxy's base URL at that moment."""

    def __init__(
        self,
        target: Callable[[], str],
        plan: Plan = lambda _number, _head: Cut.NOT,
        *,
        ready: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._target = target
        self._plan = plan
        self._ready = ready
        self.calls = 0
        self.port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["Relay"]:
        """Relay until the block ends."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._call(reader, writer)
        finally:
            writer.close()

    async def _call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(_length(head))
        cut = self._plan(self.calls, head)
        self.calls += 1
        parts = urlsplit(self._target())
        try:
            up_reader, up_writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            # Between two lives of the proxy.
            _reset(writer)
            return
        try:
            await self._exchange(cut, head + body, (reader, writer), (up_reader, up_writer))
        finally:
            up_writer.close()

    async def _exchange(self, cut: Cut, request: bytes, caller: Ends, proxy: Ends) -> None:
        up_reader, up_writer = proxy
        up_writer.write(request[: len(request) // 2] if cut is Cut.IN_REQUEST else request)
        await up_writer.drain()
        if cut in {Cut.NOT, Cut.IN_ANSWER}:
            await _answer(cut, caller, proxy)
            return
        if cut is Cut.BEFORE_ANSWER:
            await up_reader.read(1 << 16)
        elif cut is Cut.WHILE_HELD:
            assert self._ready is not None
            await self._ready()
        _reset(up_writer)
        _reset(caller[1])


async def _answer(cut: Cut, caller: Ends, proxy: Ends) -> None:
    """Pass the answer on; end with whichever side ends first."""
    (reader, writer), (up_reader, up_writer) = caller, proxy

    async def down() -> None:
        while data := await up_reader.read(1 << 16):
            if cut is Cut.IN_ANSWER:
                writer.write(data[: len(data) // 2])
                await writer.drain()
                break
            writer.write(data)
            await writer.drain()

    async with asyncio.TaskGroup() as tasks:
        leaving = tasks.create_task(reader.read(1))
        answering = tasks.create_task(_quietly(down()))
        await asyncio.wait([leaving, answering], return_when=asyncio.FIRST_COMPLETED)
        broken = not answering.done() or cut is Cut.IN_ANSWER or not answering.result()
        leaving.cancel()
        answering.cancel()
    if broken:
        _reset(up_writer)
        _reset(writer)


async def _quietly(passing: Awaitable[None]) -> bool:
    """Return whether the answer ended in order."""
    try:
        await passing
    except ConnectionError:
        return False
    return True


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
