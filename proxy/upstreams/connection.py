"""One connection to an upstream: lent to one call at a time.

It knows no HTTP. What arrives goes to the exchange that holds it; what arrives
while nobody does was not asked for, and ends it.
"""

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Protocol, cast

from proxy.ports.upstream import ClientLimits
from proxy.reading import READ_AT_MOST
from proxy.upstreams.head import HeadParser
from proxy.upstreams.tls import ended_in_order, keep_session


class Exchange(Protocol):
    """The call that a connection is lent to."""

    def data_received(self, data: bytes) -> None:
        """Take bytes of the answer."""
        ...

    def ended(self, *, reset: bool) -> None:
        """Learn that nothing more comes."""
        ...

    def check(self, now: float) -> None:
        """Give up on what lasts too long; called every now and then."""
        ...


class Connection(asyncio.Protocol):
    """A transport, and who holds it."""

    def __init__(
        self,
        sock: socket.socket,
        limits: ClientLimits,
        *,
        site: object,
        on_lost: Callable[["Connection"], None],
    ) -> None:
        """`site` is for whoever made it, and `on_lost` is called once it is gone."""
        loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._loop = loop
        self._drained: asyncio.Future[None] | None = None
        # Made once: to ask it is one system call, and no allocation.
        self._news = select.poll()
        self._news.register(sock.fileno(), select.POLLIN)
        self._sock = sock
        self.site = site
        self.parser = HeadParser(loop, limits)
        self._stands = False
        self.exchange: Exchange | None = None
        self.transport: asyncio.Transport
        self.born = loop.time()
        self.idle_since = self.born
        self.calls = 0
        self.writing_paused = False
        self.reading_paused = False

    @property
    def closing(self) -> bool:
        return self.transport.is_closing()

    def is_usable(self) -> bool:
        """Tell whether the upstream has not hung up, as far as the kernel knows.

        A free connection is owed nothing, so anything to read, unseen by the loop
        as yet, is its goodbye (or worse), and a call sent after it would be lost.
        """
        return not self.transport.is_closing() and not self.has_news()

    def has_news(self) -> bool:
        """Tell, while it is open, whether something came that the loop has not read yet."""
        return bool(self._news.poll(0))

    def unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        if not self.reading_paused and not self.transport.is_closing():
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.reading_paused:
            self.reading_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    async def drain(self) -> None:
        """Wait until the upstream took most of what was written.

        Raises:
            ConnectionResetError: if it is gone.
        """
        if self.transport.is_closing():
            raise ConnectionResetError("the upstream is gone")
        if self.writing_paused:
            self._drained = self._loop.create_future()
            await self._drained

    def note_answered(self) -> None:
        """Keep what makes the next connection to this upstream cheaper; said once."""
        keep_session(self.transport.get_extra_info("ssl_object"))

    def abort(self) -> None:
        """Cut the connection at once, whatever is still to be sent."""
        # There may be none yet; and asyncio fails to abort what was closed gracefully and
        # has flushed since.
        if self._stands:
            self.transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not by `isinstance`: uvloop's transports are none of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self._stands = True

    def data_received(self, data: bytes) -> None:
        if self.exchange is None:
            self.abort()
        else:
            self.exchange.data_received(data)

    def eof_received(self) -> None:
        if self.exchange is not None:
            self.exchange.ended(reset=not self._ended_in_order())

    def connection_lost(self, exc: Exception | None) -> None:
        self._stands = False
        exchange = self.exchange
        if exchange is not None:
            if exc is not None:
                self._rescue_answer(exchange)
            exchange.ended(reset=exc is not None or not self._ended_in_order())
            # They know each other: without this they would wait for the collector.
            self.exchange = None
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(ConnectionResetError("the upstream is gone"))
        self._on_lost(self)

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _ended_in_order(self) -> bool:
        return ended_in_order(self.transport.get_extra_info("ssl_object"))

    def _rescue_answer(self, exchange: Exchange) -> None:
        """Read what came before the reset.

        An upstream that does not want a body answers and hangs up. Then writing
        fails before the answer was read, and the loop gives up on both.
        """
        if self.transport.get_extra_info("sslcontext") is not None:
            return
        try:
            data = self._sock.recv(READ_AT_MOST)
        except OSError:
            return
        if data:
            exchange.data_received(data)
