"""The upstream client on aiohttp: its connector and its response parser, raw bytes in between.

aiohttp's `ClientSession.request` cannot be made exact: it normalises targets,
reorders and completes headers, follows redirects and repeats calls. The layers
below it do none of that. So the pool, name look-up and TLS are those of its
connector, the framing of answers is its protocol's, and the request's bytes
are written here.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientProxyConnectionError,
    ClientRequest,
    ClientTimeout,
    TCPConnector,
)
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from multidict import CIMultiDict
from yarl import URL

from proxy.core.upstream import Upstream
from proxy.core.web_proxy import WebProxyOf, directly
from proxy.ports.upstream import (
    ClientLimits,
    OnNews,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamUnavailableError,
)
from proxy.system_words import system_words
from proxy.upstreams.aiohttp_response import AiohttpResponse, has_news
from proxy.upstreams.dial import connect_error
from proxy.upstreams.sending import may_repeat
from proxy.upstreams.tunnel import web_proxy_error


class AiohttpClient:
    """An `UpstreamClient`. `tasks` own the uploads and must outlive it."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        limits: ClientLimits | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        web_proxy_of: WebProxyOf = directly,
    ) -> None:
        self._tasks = tasks
        self._web_proxy_of = web_proxy_of
        self._limits = limits or ClientLimits()
        self._connector = TCPConnector(
            limit=self._limits.max_connections,
            limit_per_host=self._limits.max_per_upstream,
            keepalive_timeout=self._limits.keepalive_s,
            ssl=ssl_context or True,
        )
        self._timeout = ClientTimeout(total=None, connect=self._limits.connect_s)
        self._recipes: dict[Upstream, ClientRequest] = {}
        self._lines: WeakKeyDictionary[ResponseHandler, _Line] = WeakKeyDictionary()

    def begin(
        self,
        upstream: Upstream,  # noqa: ARG002 - the protocol's, as below
        make: Callable[[], UpstreamRequest],  # noqa: ARG002
        on_news: OnNews,  # noqa: ARG002
    ) -> None:
        """Begin nothing: aiohttp's connections have to be awaited."""
        return

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        connection, reused = await self._connect(request.upstream)
        try:
            return await self._exchange(connection, request)
        except UpstreamUnavailableError as exc:
            if not may_repeat(request, exc, reused=reused):
                raise
        connection, _ = await self._connect(request.upstream)
        return await self._exchange(connection, request)

    async def aclose(self) -> None:
        await self._connector.close()

    async def _exchange(self, connection: Connection, request: UpstreamRequest) -> AiohttpResponse:
        response = AiohttpResponse(connection, request, self._limits)
        assert connection.protocol is not None
        self._lines[connection.protocol].carry(response)
        try:
            if isinstance(request.body, bytes | None) and not request.expect_continue:
                response.send_whole(request.body)
            else:
                response.upload = self._tasks.create_task(response.send_pieces())
            await response.read_head()
        except BaseException:
            response.close()
            raise
        return response

    async def _connect(self, upstream: Upstream) -> tuple[Connection, bool]:
        while True:
            try:
                connection = await self._connector.connect(
                    self._recipe(upstream), [], self._timeout
                )
            except (ClientError, OSError, TimeoutError, UnicodeError) as exc:
                web_proxy = self._web_proxy_of(upstream)
                if web_proxy is None or not _is_of_web_proxy(exc):
                    raise connect_error(upstream, exc) from exc
                refused = web_proxy_error(web_proxy, system_words(exc))
                raise connect_error(upstream, refused) from exc
            protocol = connection.protocol
            assert protocol is not None
            line = self._lines.get(protocol)
            if line is None:
                self._lines[protocol] = _Line(protocol)
                return connection, False
            if not protocol.should_close and not has_news(protocol) and self._is_young(line):
                return connection, True
            connection.close()

    def _is_young(self, line: "_Line") -> bool:
        return asyncio.get_running_loop().time() - line.born < self._limits.max_age_s

    def _recipe(self, upstream: Upstream) -> ClientRequest:
        """Return what the connector wants to know of a host, made once for each."""
        recipe = self._recipes.get(upstream)
        if recipe is None:
            url = URL.build(scheme=upstream.scheme, host=upstream.host, port=upstream.port)
            way: dict[str, Any] = {}
            if (web_proxy := self._web_proxy_of(upstream)) is not None:
                way["proxy"] = URL(f"http://{web_proxy.authority}")
                if web_proxy.authorization is not None:
                    way["proxy_headers"] = CIMultiDict(
                        {"Proxy-Authorization": web_proxy.authorization}
                    )
            recipe = ClientRequest("GET", url, loop=asyncio.get_running_loop(), **way)
            self._recipes[upstream] = recipe
        return recipe


def _is_of_web_proxy(exc: Exception) -> bool:
    """Return whether it is the web proxy that failed us, and not the upstream behind it."""
    if isinstance(exc, ClientConnectorError):
        # With the upstream itself there has been no more than a handshake.
        return isinstance(exc, ClientProxyConnectionError)
    return isinstance(exc, ClientError) and not isinstance(exc, TimeoutError)


class _Line:
    """What we need to know of a connection and aiohttp does not."""

    def __init__(self, protocol: ResponseHandler) -> None:
        self.born = asyncio.get_running_loop().time()
        # Weakly: it holds the connection, which would never be forgotten otherwise, and its
        # call, whose body a free connection would keep in memory.
        self._carried: ref[AiohttpResponse] | None = None
        if protocol.closed is not None:
            protocol.closed.add_done_callback(self._note_closed)

    def carry(self, response: AiohttpResponse) -> None:
        """Tell it when the connection is gone."""
        self._carried = ref(response)

    def _note_closed(self, closed: asyncio.Future[None]) -> None:
        if not closed.cancelled():
            # Asked for, or asyncio would complain that nobody did.
            closed.exception()
        carried = self._carried() if self._carried is not None else None
        if carried is not None:
            carried.note_closed()
