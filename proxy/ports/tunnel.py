"""One end of a connection after an upgrade: bytes in, bytes out, bounded in between.

aiohttp hands everything that follows an upgrade to a "parser", on both of its
sides; a `TunnelEnd` is that parser and parses nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

READ_LIMIT: Final = 1 << 16
"""Bytes held before the peer is held back; what asyncio's own streams use."""


class TunnelEnd:
    """A `Tunnel` over a transport whose protocol feeds it by `feed_data` and `feed_eof`."""

    def __init__(self, transport: asyncio.Transport, drain: Callable[[], Awaitable[None]]) -> None:
        self._transport = transport
        self._drain = drain
        self._buffer = bytearray()
        self._ended = False
        self._arrived = asyncio.Event()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take bytes from the connection; never an error, never a rest."""
        self._buffer += data
        if len(self._buffer) > READ_LIMIT:
            self._transport.pause_reading()
        self._arrived.set()
        return False, b""

    def feed_eof(self) -> None:
        self._ended = True
        self._arrived.set()

    async def read(self) -> bytes:
        while not self._buffer and not self._ended:
            self._arrived.clear()
            await self._arrived.wait()
        data = bytes(self._buffer)
        self._buffer.clear()
        if not self._transport.is_closing():
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError("the peer of the tunnel is gone")
        self._transport.write(data)
        await self._drain()

    def close(self) -> None:
        # The transport sends what it still holds; its reader need not wait for that.
        self._ended = True
        self._arrived.set()
        self._transport.close()
