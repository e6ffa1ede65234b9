"""The upstream client on connections of our own: raw bytes, and no detour.

What makes it cheap is what it does not do: no URL, no headers object, no stream
object, no timer and no task for a call whose body is here. What a head says is
left to aiohttp's C parser (`proxy.upstreams.head`); where a body ends is counted
while it passes (`proxy.upstreams.body`).
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

from proxy.core.upstream import Upstream
from proxy.core.web_proxy import WebProxyOf, directly
from proxy.ports.upstream import (
    BodySourceError,
    ClientLimits,
    OnNews,
    UpstreamRequest,
    UpstreamUnavailableError,
)
from proxy.upstreams.connection import Connection
from proxy.upstreams.lean_response import LeanResponse
from proxy.upstreams.pool import Pool
from proxy.upstreams.sending import LAST_CHUNK, let_news_be_read, may_repeat

# Above, copying a body behind its head costs more than a second write.
_JOINED_AT_MOST: Final = 1 << 16


class LeanClient:
    """An `UpstreamClient`. `tasks` own the uploads and must outlive it.

    A given `ssl_context` is taken over: its connections resume their sessions.
    """

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        limits: ClientLimits | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        web_proxy_of: WebProxyOf = directly,
    ) -> None:
        self._tasks = tasks
        self._limits = limits or ClientLimits()
        self._pool = Pool(self._limits, ssl_context, web_proxy_of)

    async def send(self, request: UpstreamRequest) -> LeanResponse:
        connection = self._pool.take(request.upstream)
        if connection is None:
            connection = await self._pool.open(request.upstream)
        try:
            return await self._exchange(connection, request)
        except UpstreamUnavailableError as exc:
            if not may_repeat(request, exc, reused=connection.calls > 1):
                raise
        return await self._exchange(await self._pool.open(request.upstream), request)

    def begin(
        self, upstream: Upstream, make: Callable[[], UpstreamRequest], on_news: OnNews
    ) -> LeanResponse | None:
        connection = self._pool.take(upstream)
        if connection is None:
            return None
        request = make()
        assert isinstance(request.body, bytes)
        response = LeanResponse(self._pool, connection, request, self._limits, on_news)
        _send_whole(connection, response, request, request.body)
        return response

    def drain(self) -> None:
        """Keep no connection beyond its call from now on; calls go on."""
        self._pool.drain()

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def _exchange(self, connection: Connection, request: UpstreamRequest) -> LeanResponse:
        response = LeanResponse(self._pool, connection, request, self._limits)
        try:
            body = request.body
            if (body is None or isinstance(body, bytes)) and not request.expect_continue:
                _send_whole(connection, response, request, body)
            else:
                upload = _Upload(connection, response, request, self._limits)
                response.upload = self._tasks.create_task(upload.run())
            await response.arrival()
        except BaseException:
            response.close()
            raise
        if response.failure is not None and not response.headed:
            response.close()
            raise response.failure
        return response


def _send_whole(
    connection: Connection, response: LeanResponse, request: UpstreamRequest, body: bytes | None
) -> None:
    """Send head and body, in one write if that is cheap."""
    data = request.written_head()
    write = connection.transport.write
    if request.chunked:
        data += (request.written_piece(body) if body else b"") + LAST_CHUNK
    elif body:
        if len(body) > _JOINED_AT_MOST:
            write(data)
            data = body
        else:
            data += body
    write(data)
    response.note_sent()


class _Upload:
    """A body on its way out, piece by piece, while the answer may come already."""

    def __init__(
        self,
        connection: Connection,
        response: LeanResponse,
        request: UpstreamRequest,
        limits: ClientLimits,
    ) -> None:
        self._connection = connection
        self._response = response
        self._request = request
        self._limits = limits

    async def run(self) -> None:
        """Send everything. Never raises: what goes wrong, the reading side tells."""
        try:
            await self._send()
        except BodySourceError as exc:
            self._response.fail(exc)
        except ConnectionError:
            # The upstream hung up on the upload. Whether it answered first
            # (a 413, say) is for the reading side to find out.
            return

    async def _send(self) -> None:
        request = self._request
        if request.expect_continue:
            self._response.continued = asyncio.get_running_loop().create_future()
        self._write(request.written_head())
        await self._await_continue()
        if isinstance(request.body, bytes):
            await self._send_piece(request.body)
        elif request.body is not None:
            async for piece in request.body:
                await self._send_piece(piece)
        if request.chunked:
            self._write(LAST_CHUNK)
        self._response.note_sent()

    async def _send_piece(self, piece: bytes) -> None:
        if not piece:
            return
        if not self._connection.closing and self._connection.has_news():
            await let_news_be_read()
        self._write(self._request.written_piece(piece))
        await self._connection.drain()

    def _write(self, data: bytes) -> None:
        # This task may go on in the very turn of the loop in which the connection was lost, before
        # its call is cancelled; uvloop treats writing then as a bug.
        if self._connection.closing:
            raise ConnectionResetError("the upstream is gone")
        self._connection.transport.write(data)

    async def _await_continue(self) -> None:
        continued = self._response.continued
        if continued is None:
            return
        try:
            async with asyncio.timeout(self._limits.continue_s):
                await continued
        except TimeoutError:
            self._response.continued = None
