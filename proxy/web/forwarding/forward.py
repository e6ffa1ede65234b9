"""Relay one call to its upstream and its answer back, unchanged.

What is taken out belongs to one connection (RFC 9110, section 7.6.1) or to us
(`X-Deferrable*`); nothing is added. What can go wrong on the way, and what its
caller sees of that, is decided here; `web/forwarding/relay.py` reads and writes.
"""

import asyncio
import time
from collections.abc import Callable

from aiohttp import web

from proxy.core.errors import ProxyError
from proxy.core.fields import RawHeaders
from proxy.core.routing import Route
from proxy.core.shapes import HeadWriter
from proxy.ports.upstream import (
    BodySourceError,
    UpstreamClient,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamUnavailableError,
)
from proxy.web.forwarding.relay import OnDone, Outcome, Relay, own_error
from proxy.web.forwarding.upgrade import run_tunnel
from proxy.web.pages import already_written


class Forwarder:
    """Forwards calls. One instance serves all of them, concurrently."""

    def __init__(
        self,
        client: UpstreamClient,
        *,
        on_done: OnDone,
        tap: Callable[[UpstreamResponse], UpstreamResponse] | None,
        annotation: Callable[[], bytes] | None = None,
        upload_idle_s: float = 300.0,
    ) -> None:
        """`tap` may wrap each answer to see it pass; `annotation` returns head lines that are added
        to each answer.

        `upload_idle_s` bounds the pause between two pieces of a caller's body.
        """
        self._upload_idle_s = upload_idle_s
        self._heads = HeadWriter()
        self._client = client
        self._on_done = on_done
        self._tap = tap
        self._annotation = annotation

    async def forward(
        self,
        request: web.BaseRequest,
        route: Route,
        *,
        body: bytes | None = None,
        without: frozenset[bytes] = frozenset(),
        more: RawHeaders = (),
    ) -> web.StreamResponse:
        """Relay a call, to the end of its answer.

        `body` is given by whoever read it already; else it is relayed as it
        arrives. `without` names further request fields to take out, in lower
        case, and `more` are put in. What is returned was sent already. `on_done`
        is called exactly once, also if this is cancelled because the caller left.
        """
        call = Relay(request, route, self._heads, self._upload_idle_s)
        try:
            return await self._relay(call, call.outgoing(body, without, more))
        except (asyncio.CancelledError, ConnectionError, BodySourceError) as exc:
            call.outcome = Outcome.CALLER_LEFT
            if isinstance(exc, asyncio.CancelledError):
                raise
            return call.cut()
        finally:
            if call.response is not None:
                call.bytes_down += call.response.body_bytes
                call.response.close()
                # The response knows the request, which knows whom to tell of a 103: without this
                # cycle, a call is freed as it ends, not by the collector.
                call.response = None
            if call.error is not None:
                # Nor need its frames, which know the call, once it is dealt with.
                call.error.__traceback__ = None
            self._on_done(call.record())

    async def _relay(self, call: Relay, outgoing: UpstreamRequest) -> web.StreamResponse:
        try:
            response = await self._client.send(outgoing)
            if self._tap is not None:
                response = self._tap(response)
            call.response = response
        except UpstreamUnavailableError as exc:
            call.error = exc
            return await self._refuse(call, exc)
        call.first_byte_s = time.perf_counter() - call.started
        if response.status == 101:
            call.status = 101
            call.bytes_up, call.bytes_down = await run_tunnel(call.request, response)
            call.outcome = Outcome.COMPLETED
            return already_written(101, keep_alive=False)
        try:
            lines = self._annotation() if self._annotation is not None else b""
            return await call.relay(response, lines)
        except UpstreamUnavailableError as exc:
            call.error = exc
            call.outcome = Outcome.BROKEN
            return call.cut()

    async def _refuse(self, call: Relay, error: ProxyError) -> web.StreamResponse:
        answer = own_error(call.route.upstream, error)
        call.outcome = Outcome.REFUSED
        return await call.answer(answer)
