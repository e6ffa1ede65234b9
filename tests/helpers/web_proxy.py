"""A web proxy that opens tunnels, or does not."""

import asyncio
from contextlib import suppress

from proxy.core.web_proxy import WebProxy
from tests.helpers.raw_upstream import read_head

OPEN = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 us\r\n\r\n"


class TunnelProxy:
    """Leads each tunnel to a port of this machine; use as a context manager.

    `answer` is what it says to each request. A tunnel is opened if it is `OPEN`.
    """

    def __init__(self, port: int, *, answer: bytes = OPEN) -> None:
        self._port = port
        self._answer = answer
        self.asked: list[bytes] = []
        """The heads of all requests."""
        self._tasks = asyncio.TaskGroup()
        self._writers: list[asyncio.StreamWriter] = []

    def way(self, authorization: str | None = None) -> WebProxy:
        """Return how to reach it."""
        return WebProxy("127.0.0.1", self._server.sockets[0].getsockname()[1], authorization)

    async def __aenter__(self) -> "TunnelProxy":
        await self._tasks.__aenter__()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._tasks.__aexit__(None, None, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.asked.append(await read_head(reader))
        writer.write(self._answer)
        if self._answer != OPEN:
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(far_writer)
        self._tasks.create_task(_carry(reader, far_writer))
        self._tasks.create_task(_carry(far_reader, writer))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
