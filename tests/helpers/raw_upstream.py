"""An upstream that records the exact bytes it gets and plays back exact bytes.

It and the caller below are plain sockets with the least HTTP that can tell where
a message ends, so that no library's opinion about HTTP stands between a test and
the wire.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

TIMEOUT_S = 60.0
"""When a wait is a hang: two programs that start one after the other, each with its imports,
took more than twenty seconds on a busy machine."""


@dataclass(frozen=True)
class Message:
    """One HTTP message as it came: its head, and its body before and after unframing."""

    head: bytes
    framed_body: bytes = b""
    body: bytes = b""
    framing: str = "none"
    complete: bool = True
    trailers: bytes = b""

    @property
    def start_line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """The header fields in order, case and duplicates kept, values without outer whitespace."""
        lines = self.head.split(b"\r\n")[1:]
        pairs = [line.partition(b":") for line in lines if line]
        return [(name, value.strip(b" \t")) for name, _, value in pairs]

    def value(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)


async def wait_until(predicate: Callable[[], object], what: str = "the condition") -> None:
    """Yield to the loop until the predicate holds; only a hang makes it fail."""
    async with asyncio.timeout(TIMEOUT_S):
        while not predicate():
            await asyncio.sleep(0.002)


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def read_message(
    reader: asyncio.StreamReader, *, request: bool, bodiless: bool = False
) -> Message:
    """Read one whole message; a body that breaks off is returned as incomplete."""
    head = await read_head(reader)
    plain = Message(head)
    length = plain.value(b"content-length")
    if bodiless or head.startswith((b"HTTP/1.1 1", b"HTTP/1.1 204", b"HTTP/1.1 304")):
        return plain
    if (plain.value(b"transfer-encoding") or b"").lower().endswith(b"chunked"):
        return await _read_chunked(reader, head)
    if length is not None:
        try:
            body = await reader.readexactly(int(length))
        except asyncio.IncompleteReadError as exc:
            return Message(head, exc.partial, exc.partial, "length", complete=False)
        except ConnectionError:
            return Message(head, framing="length", complete=False)
        return Message(head, body, body, "length")
    if request:
        return plain
    return await _read_until_close(reader, head)


async def _read_until_close(reader: asyncio.StreamReader, head: bytes) -> Message:
    body = b""
    try:
        while data := await reader.read(65536):
            body += data
    except ConnectionError:
        return Message(head, body, body, "close", complete=False)
    return Message(head, body, body, "close")


async def _read_chunked(reader: asyncio.StreamReader, head: bytes) -> Message:
    framed, body, trailers = b"", b"", b""
    try:
        while True:
            size_line = await reader.readuntil(b"\r\n")
            framed += size_line
            size = int(size_line.split(b";")[0], 16)
            if size == 0:
                break
            data = await _read_exactly(reader, size)
            body += data
            if len(data) < size:
                return Message(head, framed + data, body, "chunked", complete=False)
            framed += data + await reader.readexactly(2)
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            trailers += line
        return Message(head, framed + trailers + b"\r\n", body, "chunked", trailers=trailers)
    except (asyncio.IncompleteReadError, ConnectionError):
        return Message(head, framed, body, "chunked", complete=False)


async def _read_exactly(reader: asyncio.StreamReader, size: int) -> bytes:
    try:
        return await reader.readexactly(size)
    except asyncio.IncompleteReadError as exc:
        return exc.partial


@dataclass
class RawConnection:
    """One connection to the upstream, in the hands of a test's script."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int = 0
    """How many connections came before."""
    requests: list[Message] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the peer has hung up; only scripts that read to the end learn it."""

    async def request(self) -> Message:
        """Read the next whole request."""
        message = await read_message(self.reader, request=True)
        self.requests.append(message)
        return message

    async def send(self, *pieces: bytes) -> None:
        """Send each piece in a segment of its own."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def wait_closed_by_peer(self) -> bytes:
        """Read until the peer hangs up; return what else it sent."""
        rest = b""
        with suppress(ConnectionError):
            while data := await self.reader.read(65536):
                rest += data
        self.closed.set()
        return rest

    def pause_reading(self) -> None:
        cast("asyncio.Transport", self.writer.transport).pause_reading()

    def resume_reading(self) -> None:
        cast("asyncio.Transport", self.writer.transport).resume_reading()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Hang up with RST, as a crashed process does."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[RawConnection], Awaitable[None]]


class RawUpstream:
    """A server whose every connection is played by `script`; use as a context manager."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.connections: list[RawConnection] = []
        self.failures: list[BaseException] = []
        self.port = 0

    @property
    def requests(self) -> list[Message]:
        return [request for connection in self.connections for request in connection.requests]

    @property
    def authority(self) -> bytes:
        return b"127.0.0.1:%d" % self.port

    async def __aenter__(self) -> "RawUpstream":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for connection in self.connections:
            # asyncio fails to abort what was closed and has flushed since.
            with suppress(AttributeError):
                connection.writer.transport.abort()
        await self._server.wait_closed()
        if self.failures:
            raise self.failures[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = RawConnection(reader, writer, len(self.connections))
        self.connections.append(connection)
        try:
            await self._script(connection)
        except (asyncio.IncompleteReadError, ConnectionError):
            connection.closed.set()
        except Exception as exc:  # noqa: BLE001 - told to the test on exit
            self.failures.append(exc)
        finally:
            writer.close()


def replying(*replies: bytes, close: bool = False) -> Script:
    """Return a script that answers every request with the same segments."""

    async def script(connection: RawConnection) -> None:
        while True:
            await connection.request()
            await connection.send(*replies)
            if close:
                return

    return script


class RawCaller:
    """A caller that sends exact bytes; use as a context manager."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> "RawCaller":
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self._port, limit=1 << 24
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.writer.transport.abort()
        # One turn of the loop, for the transport to close its socket.
        await asyncio.sleep(0)

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    def pause_reading(self) -> None:
        cast("asyncio.Transport", self.writer.transport).pause_reading()

    def resume_reading(self) -> None:
        cast("asyncio.Transport", self.writer.transport).resume_reading()

    async def response(self, *, bodiless: bool = False) -> Message:
        async with asyncio.timeout(TIMEOUT_S):
            return await read_message(self.reader, request=False, bodiless=bodiless)
