"""A real server in front of a real upstream client, for tests on the wire."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, NoReturn, cast

from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser

from policies.headers import NOTHING_ASKED
from policies.policy import Policy
from proxy.core.routing import Refusal, Route, resolve
from proxy.core.upstream import Upstream
from proxy.ports.upstream import (
    ClientLimits,
    UpstreamClient,
    UpstreamResponse,
    UpstreamUnavailableError,
)
from proxy.services.callers.accounts import Accounts
from proxy.services.deferral.repeats import Repeats
from proxy.services.traffic.kept import Kept, Room
from proxy.upstreams.aiohttp_client import AiohttpClient
from proxy.upstreams.lean_client import LeanClient
from proxy.web.bodies import read_body
from proxy.web.entrance.calls import Calls, ShortcutReport
from proxy.web.entrance.heads import FirstLook
from proxy.web.entrance.known_heads import KnownCall, KnownHeads
from proxy.web.entrance.server import CallerBounds, DataServer
from proxy.web.forwarding.forward import Forwarder
from proxy.web.forwarding.relay import Forwarded
from proxy.web.forwarding.shortcut import Shortcut
from proxy.web.forwarding.tap import TappedResponse
from tests.helpers.factories import T0

ClientFactory = Callable[[ClientLimits], AbstractAsyncContextManager[UpstreamClient]]


@asynccontextmanager
async def aiohttp_client(limits: ClientLimits) -> AsyncIterator[UpstreamClient]:
    async with asyncio.TaskGroup() as tasks:
        client = AiohttpClient(tasks, limits)
        try:
            yield client
        finally:
            await client.aclose()


@asynccontextmanager
async def lean_client(limits: ClientLimits) -> AsyncIterator[UpstreamClient]:
    async with asyncio.TaskGroup() as tasks:
        client = LeanClient(tasks, limits)
        try:
            yield client
        finally:
            await client.aclose()


@asynccontextmanager
async def short_client(limits: ClientLimits) -> AsyncIterator[UpstreamClient]:
    """The lean one; what may take the shortcut takes it."""
    async with lean_client(limits) as client:
        yield client


CLIENTS: dict[str, ClientFactory] = {
    "aiohttp": aiohttp_client,
    "lean": lean_client,
    "short": short_client,
}
"""Every adapter, and the shortcut; a new one joins the whole suite here."""


_NO_POLICY: Final = Policy()
_READ_AT_MOST: Final = 1 << 20
_PARSER_LIMITS: Final[dict[str, Any]] = {**CallerBounds().head_options}


@dataclass
class RunningProxy:
    port: int
    done: list[Forwarded] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    """What was kept of each answer, if any was."""
    usual: list[str] = field(default_factory=list)
    """The targets of the calls that did not take the shortcut."""
    server: DataServer = field(init=False)


class _Everything(KnownHeads):
    """Knows every head, also one that never came before."""

    def __init__(
        self, upstreams: Mapping[str, Upstream], running: RunningProxy, shortcut: Shortcut
    ) -> None:
        nobody = SimpleNamespace(expects_any=False, wants_news_of=lambda _caller: False)
        told = ShortcutReport(running.done.append, b"")
        super().__init__(
            policy=lambda: _NO_POLICY,
            repeats=cast("Repeats", nobody),
            accounts=cast("Accounts", nobody),
            calls=cast("Calls", SimpleNamespace(of_shortcut=lambda *_, **__: told)),
            annotate=False,
            forward=shortcut.begin,
            defer=None,
        )
        self._upstreams = upstreams

    def find(self, head: bytes) -> KnownCall | None:
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 16, **_PARSER_LIMITS)
        try:
            messages, _, _ = parser.feed_data(head)
        except HttpProcessingError:
            return None
        message = messages[0][0]
        route = resolve(message.path, message.raw_headers, self._upstreams)
        if isinstance(route, Route):
            request = SimpleNamespace(
                method=message.method,
                version=message.version,
                keep_alive=not message.should_close,
                raw_path=message.path,
                raw_headers=message.raw_headers,
            )
            look = FirstLook(route, T0, NOTHING_ASKED, _nobody, exchange=None)
            self.learn(cast("web.BaseRequest", request), look)
        return super().find(head)


def _nobody() -> NoReturn:
    raise AssertionError("nobody's repeat is waited for, and no credential is to be proved")


async def _have_a_free_connection(client: UpstreamClient, upstream: Upstream) -> None:
    """Only over such a one goes a call that takes the shortcut."""
    assert isinstance(client, LeanClient)
    with suppress(UpstreamUnavailableError):
        client._pool.give_back(await client._pool.open(upstream))


def _tap(response: UpstreamResponse, running: RunningProxy) -> UpstreamResponse:
    # Whatever its status and type: here all that passes is to pass unchanged.
    kept = Kept(encoding="", framed=response.framed, room=Room())
    running.kept.append(kept)
    return TappedResponse(response, kept)


@asynccontextmanager
async def running_proxy(
    upstream_port: int,
    factory: ClientFactory,
    *,
    limits: ClientLimits | None = None,
    dialect: str = "openai",
    base_path: str = "",
    without: frozenset[bytes] = frozenset(),
    upload_idle_s: float = 300.0,
    reads: bool = False,
    tapped: bool = False,
    tls: ssl.SSLContext | None = None,
    drain_s: float = 5.0,
) -> AsyncIterator[RunningProxy]:
    """Serve `/up/…` from the upstream on the given port, and `/up/v1` to SDKs.

    With `reads` the body of each call is read before that is forwarded, as for rules.
    `tapped` says that parts of every answer are kept, as for a call that is recorded.
    """
    base_url = f"http://127.0.0.1:{upstream_port}{base_path}"
    upstreams = {"up": Upstream.parse("up", dialect, base_url)}

    async with factory(limits or ClientLimits()) as client:
        running = RunningProxy(0)
        forwarder = Forwarder(
            client,
            on_done=running.done.append,
            tap=(lambda response: _tap(response, running)) if tapped else None,
            upload_idle_s=upload_idle_s,
        )

        find = None
        if factory is short_client and not (tapped or without):
            shortcut = Shortcut(client)
            find = _Everything(upstreams, running, shortcut).find
            await _have_a_free_connection(client, upstreams["up"])

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            running.usual.append(request.raw_path)
            route = resolve(request.raw_path, request.raw_headers, upstreams)
            if isinstance(route, Refusal):
                return web.Response(status=route.status, text=route.message)
            assert isinstance(route, Route)
            body = await read_body(request, max_bytes=_READ_AT_MOST) if reads else None
            return await forwarder.forward(request, route, body=body, without=without)

        running.server = DataServer(handle, find=find)
        runner = web.ServerRunner(running.server, shutdown_timeout=drain_s)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        running.port = runner.addresses[0][1]
        try:
            yield running
        finally:
            await runner.cleanup()
