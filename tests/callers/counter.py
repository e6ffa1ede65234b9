"""A relay before the proxy that counts what clients really send, whatever they say.

Bytes pass unchanged, both ways; a second parser reads along. Each scene has a key of its own,
so that a call belongs to a scene by its credential.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools


@dataclass(frozen=True)
class Sent:
    """One request, as it arrived."""

    method: str
    path: str
    key: str
    """The credential, by whatever header."""


class Counter:
    """Relays to a base URL; `sent` grows by each request whose head is complete."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host, self._port = parts.hostname, parts.port
        self.sent: list[Sent] = []
        self.base_url = ""

    def posts(self, key: str) -> list[str]:
        """Return the paths that were posted to with a credential."""
        return [one.path for one in self.sent if one.method == "POST" and one.key == key]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["Counter"]:
        """Relay until the block ends."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        self.base_url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        parser = httptools.HttpRequestParser(reading := _Reading(self.sent.append))
        reading.method = parser.get_method
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pass(reader, up_writer, parser.feed_data))
                tasks.create_task(_pass(up_reader, writer))
        finally:
            up_writer.close()
            writer.close()


async def _pass(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    read_along: Callable[[bytes], object] = lambda _data: None,
) -> None:
    """Pass bytes on until one side ends; then the other side is told."""
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            read_along(data)
            writer.write(data)
            await writer.drain()
    # Whoever leaves has left for good: a client that closes while it is held must be seen
    # to go, and one whose answer ended by a close must not wait.
    writer.close()


class _Reading:
    """What the parser of one connection calls."""

    def __init__(self, sent: Callable[[Sent], None]) -> None:
        self._sent = sent
        self._path = self._key = ""
        self.method: Callable[[], bytes] = lambda: b""

    def on_message_begin(self) -> None:
        self._path = self._key = ""

    def on_url(self, url: bytes) -> None:
        self._path += url.decode().partition("?")[0]

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in {b"authorization", b"x-api-key", b"x-goog-api-key"}:
            self._key = value.decode().removeprefix("Bearer ")

    def on_headers_complete(self) -> None:
        self._sent(Sent(self.method().decode(), self._path, self._key))
