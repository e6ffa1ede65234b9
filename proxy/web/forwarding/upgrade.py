"""Tunnels: after a 101 both sides are joined, raw bytes both ways, until one ends.

The handshake went upstream unchanged and its answer comes back unchanged, so
WebSocket extensions, subprotocols and anything else that upgrades HTTP are
between the two ends; nothing here knows frames.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from aiohttp import web
from aiohttp.http import WebSocketReader

from proxy.core.fields import response_head
from proxy.ports.tunnel import TunnelEnd
from proxy.ports.upstream import Tunnel, UpstreamResponse


async def run_tunnel(request: web.BaseRequest, response: UpstreamResponse) -> tuple[int, int]:
    """Answer the handshake and relay until either side ends; return bytes up and down.

    Cancelled when the caller leaves, which ends the upstream's side too.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the caller left during the handshake")
    upstream = response.tunnel()
    caller = TunnelEnd(transport, request.writer.drain)
    head = response_head(response.status, response.reason, response.headers)
    await request.writer.write(head)
    # aiohttp hands what follows an upgrade to a "WebSocket reader", of which it
    # uses `feed_data` and `feed_eof` alone.
    request.protocol.set_parser(cast("WebSocketReader", caller))

    def end() -> None:
        # The caller's transport is aiohttp's to close, after this returns.
        caller.feed_eof()
        upstream.close()

    try:
        async with asyncio.TaskGroup() as tasks:
            up = tasks.create_task(_pump(caller, upstream, end))
            down = tasks.create_task(_pump(upstream, caller, end))
        return up.result(), down.result()
    finally:
        upstream.close()


async def _pump(source: Tunnel, sink: Tunnel, end: Callable[[], None]) -> int:
    """Carry bytes until the source ends or the sink is gone; then end the other way too."""
    carried = 0
    with suppress(ConnectionError):
        while data := await source.read():
            await sink.write(data)
            carried += len(data)
    end()
    return carried
