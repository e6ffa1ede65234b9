"""A real server in front of a real upstream client, for tests on the wire."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from proxy.core.dialects import DIALECTS, Family, error_answer
from proxy.core.routing import Refusal, Route, resolve
from proxy.core.upstream import Upstream
from proxy.ports.upstream import ClientLimits, UpstreamClient, UpstreamResponse
from proxy.services.kept import Kept, Room
from proxy.upstreams.lean import LeanClient
from proxy.upstreams.session import AiohttpClient
from proxy.web.forward import Forwarder
from proxy.web.relay import Forwarded
from proxy.web.server import SERVER_OPTIONS
from proxy.web.tap import TappedResponse

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


CLIENTS: dict[str, ClientFactory] = {"aiohttp": aiohttp_client, "lean": lean_client}
"""Every adapter; a new one joins the whole suite here."""


@dataclass
class RunningProxy:
    port: int
    done: list[Forwarded] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    """What was kept of each answer, if any was."""


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
    tapped: bool = False,
) -> AsyncIterator[RunningProxy]:
    """Serve `/up/…` from the upstream on the given port, and `/up/v1` to SDKs.

    `tapped` says that parts of every answer are kept, as for a call that is recorded.
    """
    base_url = f"http://127.0.0.1:{upstream_port}{base_path}"
    upstreams = {"up": Upstream.parse("up", dialect, base_url)}

    async with factory(limits or ClientLimits()) as client:
        running = RunningProxy(0)
        forwarder = Forwarder(
            client,
            error_response=lambda name, error: error_answer(
                DIALECTS[name].family if name in DIALECTS else Family.OPENAI, error
            ),
            on_done=running.done.append,
            tap=(lambda response: _tap(response, running)) if tapped else None,
            upload_idle_s=upload_idle_s,
        )

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            route = resolve(request.raw_path, request.raw_headers, upstreams)
            if isinstance(route, Refusal):
                return web.Response(status=route.status, text=route.message)
            assert isinstance(route, Route)
            return await forwarder.forward(request, route, without=without)

        runner = web.ServerRunner(web.Server(handle, **SERVER_OPTIONS))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        running.port = runner.addresses[0][1]
        try:
            yield running
        finally:
            await runner.cleanup()
