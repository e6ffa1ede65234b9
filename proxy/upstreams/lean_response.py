"""One call over one connection: its answer as it comes in, and what can go wrong.

Nothing here waits: the connection calls in, and whoever waits is woken. An
answer that was framed validly to its end is complete; everything else is a
failure, and a failure cuts the connection.
"""

import asyncio
from typing import Final

from aiohttp.http import HttpVersion11, RawResponseMessage

from proxy.core.fields import RawHeaders
from proxy.ports.tunnel import TunnelEnd
from proxy.ports.upstream import (
    BodySourceError,
    Cause,
    ClientLimits,
    OnNews,
    Phase,
    UpstreamRequest,
    UpstreamUnavailableError,
    Write,
)
from proxy.reading import READ_AT_MOST
from proxy.upstreams.body import BodyFraming, framing_of
from proxy.upstreams.connection import Connection
from proxy.upstreams.head import MalformedHeadError, head_end, may_be_head
from proxy.upstreams.pool import Pool
from proxy.upstreams.timeouts import Timeouts

# What is held for a reader when the upstream is held back: one full read, or many small ones.
_HELD_ENOUGH: Final = READ_AT_MOST


class LeanResponse:
    """An `UpstreamResponse` that is fed by its connection."""

    __slots__ = (
        "_connection",
        "_framing",
        "_held",
        "_held_bytes",
        "_limits",
        "_on_news",
        "_pool",
        "_request",
        "_reusable",
        "_timeouts",
        "_tunnel",
        "_unparsed",
        "_waiter",
        "_write",
        "chunked",
        "complete",
        "continued",
        "failure",
        "framed",
        "headed",
        "headers",
        "reason",
        "sent_all",
        "status",
        "upload",
    )

    def __init__(
        self,
        pool: Pool,
        connection: Connection,
        request: UpstreamRequest,
        limits: ClientLimits,
        on_news: OnNews | None = None,
    ) -> None:
        """`on_news` is called wherever a waiter would be woken otherwise."""
        self._on_news = on_news
        self._pool = pool
        self._connection: Connection | None = connection
        self._request = request
        self._limits = limits
        self._framing: BodyFraming | None = None
        self._unparsed = b""
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._write: Write | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._tunnel: TunnelEnd | None = None
        self._timeouts = Timeouts(limits)
        self._reusable = False
        self.failure: UpstreamUnavailableError | BodySourceError | None = None
        self.upload: asyncio.Task[None] | None = None
        self.continued: asyncio.Future[None] | None = None
        self.sent_all = False
        self.headed = False
        self.complete = False
        """Whether the whole answer is here; it may not have been handed out yet."""
        self.status = 0
        self.reason = ""
        self.headers: RawHeaders = ()
        self.chunked = False
        self.framed = False
        connection.exchange = self

    @property
    def trailers(self) -> RawHeaders:
        return self._framing.trailers if self._framing is not None else ()

    @property
    def body_bytes(self) -> int:
        return self._framing.body_bytes if self._framing is not None else 0

    @property
    def at_end(self) -> bool:
        return self.complete and not self._held

    # What the holder calls.

    def arrival(self) -> asyncio.Future[None]:
        """Return what is done with the final head, or with a failure instead of it."""
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        if self.headed or self.failure is not None:
            waiter.set_result(None)
        return waiter

    def take_ready(self) -> bytes:
        held = self._held
        if not held:
            return b""
        data = held[0] if len(held) == 1 else b"".join(held)
        held.clear()
        self._held_bytes = 0
        return data

    async def next_chunk(self) -> bytes:
        while not self._held:
            if self.complete:
                return b""
            # What came before a failure is handed out before that is told.
            if self.failure is not None:
                raise self.failure
            self._go_on()
            await self._wait()
        return self.take_ready()

    async def pump(self, write: Write) -> None:
        if self._held and not write(self.take_ready()):
            return
        if self.failure is None and not self.complete:
            self._write = write
            try:
                self._go_on()
                await self._wait()
            finally:
                self._write = None
        if self.failure is not None and not self._held:
            raise self.failure

    def flow(self, write: Write) -> None:
        self._write = write
        self._go_on()

    def tunnel(self) -> TunnelEnd:
        connection = self._connection
        assert connection is not None
        assert self.status == 101
        self._tunnel = end = TunnelEnd(connection.transport, connection.drain)
        if first := self.take_ready():
            end.feed_data(first)
        if self.failure is not None or connection.closing:
            end.feed_eof()
        self._go_on()
        return end

    def close(self) -> None:
        self._on_news = None
        if self.upload is not None and not self.sent_all:
            self.upload.cancel()
        if self._connection is None:
            return
        if self._tunnel is not None:
            # What was written last is still to be sent.
            self._tunnel.close()
        else:
            self._connection.abort()

    def fail(self, error: UpstreamUnavailableError | BodySourceError) -> None:
        """End the exchange; the first failure is the one that is told."""
        if self.failure is None and not self.complete:
            self.failure = error
            if self._connection is not None:
                self._connection.abort()
            self._wake()

    def unavailable(self, what: str, phase: Phase, cause: Cause) -> UpstreamUnavailableError:
        name = self._request.upstream.name
        return UpstreamUnavailableError(
            f"upstream {name!r} {what}", phase=phase, cause=cause, sent=True
        )

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._on_news is not None:
            self._on_news()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _go_on(self) -> None:
        if self._connection is not None:
            self._connection.resume_reading()

    # What the connection calls.

    def data_received(self, data: bytes) -> None:
        self._timeouts.heard = True
        if self._framing is not None:
            self._take_body(data)
        elif self._tunnel is not None:
            self._tunnel.feed_data(data)
        elif self.headed:
            self._hold(data)
        elif self.failure is None:
            self._take_heads(self._unparsed + data if self._unparsed else data)

    def ended(self, *, reset: bool) -> None:
        if self._tunnel is not None:
            self._tunnel.feed_eof()
        if self.complete or self.failure is not None:
            return
        if not self.headed:
            error = self.unavailable("hung up without an answer", Phase.FIRST_BYTE, "reset")
        elif self._framing is not None and not reset and self._framing.end():
            self._finish(keep=False)
            return
        else:
            cause: Cause = "reset" if reset else "truncated"
            error = self.unavailable("broke off its answer", Phase.IDLE, cause)
        self.fail(error)

    def check(self, now: float) -> None:
        connection = self._connection
        if connection is None or self.status == 101:
            return
        overdue = self._timeouts.overdue(
            now, connection, sent_all=self.sent_all, headed=self.headed
        )
        if overdue is not None:
            self.fail(self.unavailable(*overdue, "timeout"))

    def note_sent(self) -> None:
        """Begin to wait for the answer."""
        self.sent_all = True
        self._timeouts.heard = True

    # The answer.

    def _take_heads(self, data: bytes) -> None:
        try:
            self._unparsed = self._parse_heads(data)
        except MalformedHeadError as exc:
            error = self.unavailable("sent no valid HTTP", Phase.FIRST_BYTE, "malformed")
            error.__cause__ = exc
            self.fail(error)

    def _parse_heads(self, data: bytes) -> bytes:
        """Take all heads that are here; return what may become one.

        Raises:
            MalformedHeadError: if it will not.
        """
        connection = self._connection
        assert connection is not None
        while data:
            end = head_end(data)
            if max(end, len(data) if end < 0 else 0) > self._limits.max_head_bytes:
                raise MalformedHeadError("the head is too long")
            if end < 0:
                if not may_be_head(data):
                    raise MalformedHeadError("no head begins so")
                return data
            message = connection.parser.parse(data[:end])
            data = data[end:]
            if message.code >= 200 or (message.code == 101 and self._request.upgrade):
                self._take_final(message, data)
                return b""
            self._pass_informational(message)
        return b""

    def _pass_informational(self, message: RawResponseMessage) -> None:
        if message.code == 101:
            raise MalformedHeadError("it switched protocols unasked")
        if self._request.on_informational is not None:
            self._request.on_informational(message.code, message.reason, message.raw_headers)
        if message.code == 100 and self.continued is not None and not self.continued.done():
            self.continued.set_result(None)

    def _take_final(self, message: RawResponseMessage, rest: bytes) -> None:
        request = self._request
        if message.code != 101:
            self._framing = framing_of(
                message,
                method=request.method,
                keep_chunks=request.keep_chunks,
                max_trailer_bytes=self._limits.max_head_bytes,
            )
        self.headed = True
        self.status = message.code
        self.reason = message.reason
        self.headers = message.raw_headers
        self.chunked = message.chunked
        self.framed = self.chunked and request.keep_chunks
        if self.continued is not None and not self.continued.done() and self.upload is not None:
            # A final answer instead of 100: the body is not wanted.
            self.upload.cancel()
        if self._framing is None:
            self._hold(rest)
        else:
            # An upstream that was asked for another protocol may go on in it, or close.
            self._reusable = not request.upgrade and _persists(message, bodiless=self._framing.done)
            if rest or self._framing.done:
                self._take_body(rest)
        self._wake()

    def _take_body(self, data: bytes) -> None:
        framing, connection = self._framing, self._connection
        assert framing is not None
        if connection is None:
            return
        data = framing.feed(data) if data else b""
        if data:
            if self._write is None:
                self._hold(data)
            elif not self._write(data):
                # What comes before the next call of `pump` is held, up to its bound.
                self._write = None
                self._wake()
        if framing.done:
            self._finish(keep=self._reusable and not framing.surplus)
        elif framing.broken:
            self.fail(self.unavailable("sent no valid chunks", Phase.IDLE, "malformed"))

    def _hold(self, data: bytes) -> None:
        if not data:
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= _HELD_ENOUGH and self._connection is not None:
            self._connection.pause_reading()
        if self._framing is None or not self._framing.done:
            # At the end it is told together with that.
            self._wake()

    def _finish(self, *, keep: bool) -> None:
        """Let go of the connection as soon as the answer is here, however slow its reader is."""
        connection = self._connection
        assert connection is not None
        self.complete = True
        self._connection = None
        # Where an upload still goes on, half a request lies on the connection.
        if keep and self.sent_all and not connection.writing_paused:
            if connection.calls == 1:
                connection.note_answered()
            if connection.reading_paused:
                connection.resume_reading()
            self._pool.give_back(connection)
        else:
            if self.upload is not None:
                self.upload.cancel()
            connection.abort()
        self._wake()


def _persists(message: RawResponseMessage, *, bodiless: bool) -> bool:
    """Tell whether another call may follow on the connection (RFC 9112, section 9.3)."""
    if not message.should_close:
        return True
    # The parser does not know of HEAD, and takes a missing length for a body
    # that ends with the connection.
    if not bodiless or message.version != HttpVersion11:
        return False
    return not any(name.lower() == b"connection" for name, _ in message.raw_headers)
