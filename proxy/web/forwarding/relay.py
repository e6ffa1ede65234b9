"""The caller's side of one forwarded call: its body as it comes, its answer as it goes.

Nothing is added; what is taken out says `core/fields.py`. Bytes stay bytes: no body is
parsed, decoded or gathered, and every piece of an answer goes on as it comes.

Rule: an answer that broke off never looks whole. Whatever fails after the first
byte cuts the caller's connection, as the upstream's own failure would have.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11

from proxy.core.dialects import DIALECTS, ErrorAnswer, error_answer
from proxy.core.errors import ProxyError
from proxy.core.fields import RawHeaders, persistence, response_fields, response_head
from proxy.core.routing import Route
from proxy.core.shapes import HeadWriter
from proxy.core.upstream import Upstream
from proxy.ports.upstream import (
    Body,
    BodySourceError,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamUnavailableError,
)
from proxy.web.forwarding.endings import cut, end_now, finish_on_close, hold_open
from proxy.web.pages import already_written, may_go_on, page_for

_LAST_CHUNK: Final = b"0\r\n\r\n"
_BODILESS: Final = frozenset({204, 304})


class Outcome(StrEnum):
    """How a forwarded call ended. The values are public in logs and metrics."""

    COMPLETED = "completed"
    """The upstream's answer was relayed to its end, whatever its status."""
    REFUSED = "refused"
    """No answer from upstream; the caller got an error of ours."""
    BROKEN = "broken"
    """The upstream failed within its answer; the caller's connection was cut."""
    CALLER_LEFT = "caller_left"
    """The caller went away, or its body broke off; the upstream call was cut."""


# Not frozen, as records are elsewhere: one is made for each call.
@dataclass(slots=True)
class Forwarded:
    """What became of one forwarded call; durations in seconds."""

    upstream: str
    method: str
    outcome: Outcome
    status: int | None
    """What the caller was answered; none if it left before."""
    bytes_up: int
    bytes_down: int
    """Body bytes, without framing."""
    first_byte_s: float | None
    """Until the upstream's final head was there."""
    duration_s: float
    error: UpstreamUnavailableError | None


OnDone = Callable[[Forwarded], None]
"""Told of each call at its end."""


class Relay:
    """The caller's side of one forwarded call, and what is to be told about it."""

    def __init__(
        self, request: web.BaseRequest, route: Route, heads: HeadWriter, upload_idle_s: float
    ) -> None:
        self._upload_idle_s = upload_idle_s
        self._heads = heads
        self._modern = request.version >= HttpVersion11
        self.request = request
        self.route = route
        self.started = time.perf_counter()
        self.first_byte_s: float | None = None
        self.outcome = Outcome.CALLER_LEFT
        self.status: int | None = None
        self.error: UpstreamUnavailableError | None = None
        self.response: UpstreamResponse | None = None
        self.bytes_up = 0
        self.bytes_down = 0
        self._expects = False
        self._continued = False
        """Whether the upstream said to go on."""
        self._said_here = False
        """Whether that was said in its stead."""
        self._until_close = False

    def outgoing(
        self, body: bytes | None, without: frozenset[bytes], more: RawHeaders
    ) -> UpstreamRequest:
        """Return the call as the upstream shall see it."""
        request, upstream = self.request, self.route.upstream
        method, target = request.method, self.route.upstream_target
        head, fields = self._heads.request(
            method,
            target,
            request.raw_headers,
            host=upstream.host_header,
            without=without,
            more=more,
        )
        # Whoever read the body has asked for it.
        self._said_here = fields.expect_continue and body is not None
        content = self._body(body, framed=fields.has_body)
        # A body that is here is sent without waiting to be asked for, as its caller did; nor may
        # callers of HTTP/1.0 be made to wait (RFC 9110, section 10.1.1).
        waits = self._modern and not isinstance(content, bytes | None)
        self._expects = fields.expect_continue and waits
        return UpstreamRequest(
            upstream=upstream,
            method=method,
            target=target,
            body=content,
            chunked=fields.chunked,
            expect_continue=self._expects,
            upgrade=fields.upgrade,
            on_informational=self._relay_informational,
            head=head,
            keep_chunks=self._modern,
        )

    def _body(self, body: bytes | None, *, framed: bool) -> Body:
        if body is None and framed:
            content = self.request.content
            # Small bodies mostly arrive with their head; then one write sends all.
            if not content.is_eof() or content.exception() is not None:
                return self._pieces()
            body = content.read_nowait()
        self.bytes_up = len(body) if body is not None else 0
        return body

    async def _pieces(self) -> AsyncIterator[bytes]:
        if self._expects and not self._continued:
            # The upstream did not ask for the body in time; it gets it unasked, and the caller
            # still waits to be told.
            self._write_informational(100, "Continue", ())
            self._said_here = True
        content = self.request.content
        while True:
            try:
                piece = content.read_nowait()
                if not piece and not content.at_eof():
                    async with asyncio.timeout(self._upload_idle_s):
                        piece = await content.readany()
            except asyncio.CancelledError:
                raise
            except Exception as exc:
                # aiohttp fails a reader with whatever befell the connection or
                # the parser; all of it is the sender's doing.
                raise BodySourceError("the body of the call broke off") from exc
            if not piece:
                return
            self.bytes_up += len(piece)
            yield piece

    def _relay_informational(self, status: int, reason: str, headers: RawHeaders) -> None:
        """Pass on each one, as often as it comes (RFC 9110, section 15.2)."""
        if status == 100:
            if self._said_here:
                # Late: the caller has had the word.
                self._said_here = False
                return
            self._continued = True
        if not self.request.protocol.writing_paused:
            # Nothing bounds how many come: a caller who takes no more is not sent them.
            self._write_informational(status, reason, headers)

    def _write_informational(self, status: int, reason: str, headers: RawHeaders) -> None:
        transport = self.request.transport
        if transport is None or transport.is_closing():
            return
        if self._modern and self.status is None:
            transport.write(response_head(status, reason, response_fields(headers)))

    async def relay(self, response: UpstreamResponse, lines: bytes) -> web.StreamResponse:
        """Write the answer as it comes in, its head together with what came with it.

        `lines` are added to the head.

        Raises:
            UpstreamUnavailableError: if the upstream breaks off.
            ConnectionError: if the caller left.
        """
        request, modern = self.request, self._modern
        head, chunked, self._until_close = answer_head(
            self._heads, response, method=request.method, modern=modern
        )
        keep_alive = may_go_on(request) and not self._until_close
        if not keep_alive or not modern:
            head += b"%b: %b\r\n" % persistence(keep_alive=keep_alive, modern=modern)[0]
        self.status = response.status
        frame = chunked and not response.framed
        if self._until_close:
            hold_open(request.transport)
        self._write_first(head + lines + b"\r\n", response, frame=frame)
        if not response.at_end:
            await self._pump(response, frame=frame)
        if request.protocol.writing_paused:
            # Or a caller who sends calls and reads no answer would fill the memory.
            await self._caller_takes_more()
        if self._until_close:
            finish_on_close(request.transport)
            end_now(request.transport)
        self.outcome = Outcome.COMPLETED
        return already_written(response.status, keep_alive=keep_alive)

    def _write_first(self, head: bytes, response: UpstreamResponse, *, frame: bool) -> None:
        """Write the head together with what came with it, mostly all."""
        request = self.request
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the caller left")
        data = response.take_ready()
        if frame:
            data = (_chunk(data) if data else b"") + (_LAST_CHUNK if response.at_end else b"")
        # By this aiohttp tells whether it could still send an error page.
        request.writer.output_size = len(head)
        transport.write(head + data)

    async def _pump(self, response: UpstreamResponse, *, frame: bool) -> None:
        """Write each piece in the turn of the loop in which it came."""
        request = self.request
        transport, protocol = request.transport, request.protocol
        if transport is None:
            raise ConnectionResetError("the caller left")

        def write(data: bytes) -> bool:
            if transport.is_closing():
                return False
            transport.write(_chunk(data) if frame else data)
            return not protocol.writing_paused

        while not response.at_end:
            if protocol.writing_paused or transport.is_closing():
                await self._caller_takes_more()
            await response.pump(write)
        if frame:
            transport.write(_LAST_CHUNK)

    async def _caller_takes_more(self) -> None:
        """Wait until the caller read most of what was written.

        Raises:
            ConnectionError: if it left.
        """
        transport = self.request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the caller left")
        await self.request.writer.drain()

    async def answer(self, answer: ErrorAnswer) -> web.StreamResponse:
        """Write an error of ours, and drop the connection if the body did not come whole."""
        self.status = answer.status
        data, response = page_for(self.request, answer)
        await self.request.writer.write(data)
        return response

    def cut(self) -> web.StreamResponse:
        """End the caller's connection so that the answer cannot be taken for whole."""
        cut(self.request.transport, until_close=self._until_close)
        return already_written(self.status or 502, keep_alive=False)

    def record(self) -> Forwarded:
        return Forwarded(
            upstream=self.route.upstream.name,
            method=self.request.method,
            outcome=self.outcome,
            status=self.status,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            first_byte_s=self.first_byte_s,
            duration_s=time.perf_counter() - self.started,
            error=self.error,
        )


def answer_head(
    heads: HeadWriter, response: UpstreamResponse, *, method: str, modern: bool
) -> tuple[bytes, bool, bool]:
    """Return the head of an answer but for its last line, and how the body is framed.

    That is whether it comes in chunks, and whether only closing the connection ends it.
    """
    head, has_length = heads.response(
        response.status, response.reason, response.headers, dechunk=not modern
    )
    bodiless = method == "HEAD" or response.status in _BODILESS
    chunked = modern and response.chunked and not bodiless
    return head, chunked, not (bodiless or chunked or has_length)


def own_error(upstream: Upstream, error: ProxyError) -> ErrorAnswer:
    """Return an error of ours as the callers of that upstream understand it."""
    return error_answer(DIALECTS[upstream.dialect].family, error)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
