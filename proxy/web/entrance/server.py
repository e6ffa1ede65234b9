"""The server of the data port: aiohttp's, with bounds on its callers.

aiohttp bounds the size of a head, but neither how slowly one may arrive nor how many
connections may be open. One timer watches all connections; no call has its own.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.core.dialects import Family
from proxy.reading import READ_AT_MOST, SmallReads, new_inbox
from proxy.web.entrance.ambiguous import ambiguity
from proxy.web.entrance.connection import CallerConnection, Find, last_answer
from proxy.web.entrance.refused import TOO_MANY_CONNECTIONS, refusal
from proxy.web.pages import may_go_on, written


class _WithoutCallersBytes(logging.Filter):
    """Drops aiohttp's complaints about malformed calls: they quote the header line at fault."""

    def filter(self, record: logging.LogRecord) -> bool:
        exc = record.exc_info[1] if record.exc_info else None
        return not isinstance(exc, HttpProcessingError | web.RequestPayloadError)


_server_logger = logging.getLogger("proxy.web.entrance.server")
_server_logger.addFilter(_WithoutCallersBytes())

SERVER_OPTIONS: Final[dict[str, Any]] = {
    # Without it, a caller who leaves goes on being served, and billed.
    "handler_cancellation": True,
    # A compressed request body must reach the upstream as it was sent.
    "auto_decompress": False,
    "access_log": None,
    "logger": _server_logger,
    # Once twice this waits for an upstream, no more of an upload is read.
    "read_bufsize": READ_AT_MOST // 2,
}
"""What `web.Server` must be given for calls to pass through unchanged, besides bounds on heads."""

_SWEEP_AT_MOST_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class CallerBounds:
    """How many callers may be connected, and how long one may keep us waiting."""

    max_connections: int = 10_000
    head_s: float = 75.0
    """Until the head of a call is there, counted from the connection or from the call before.
    It bounds those who send nothing, those who send a letter a minute, and those who
    keep a connection. As long as nginx's `keepalive_timeout`."""
    take_s: float = 600.0
    """For a caller to take some of what waits for it. One that takes nothing holds an upstream's
    connection besides its own, and nothing else would end that."""
    max_field_bytes: int = 32_768
    """For the request line, and for a field. Keys, cookies and baggage make long ones; nginx stops
    at 8 KB a line, node at 16 KB."""
    max_fields: int = 512

    @property
    def head_options(self) -> dict[str, int]:
        """What `web.Server` must be given for heads to be bounded so."""
        return {
            "max_line_size": self.max_field_bytes,
            "max_field_size": self.max_field_bytes,
            "max_headers": self.max_fields,
        }

    @property
    def max_head_bytes(self) -> int:
        """For a whole head, or trailers; nginx has room for four long fields."""
        return 8 * self.max_field_bytes


class DataServer(web.Server):
    """Serves `handle` with what `web.Server` must be given for calls to pass unchanged."""

    def __init__(
        self,
        handle: Any,
        bounds: CallerBounds | None = None,
        *,
        find: Find | None = None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """`find` says which calls may take a shortcut; without it none may.

        `handle` serves the others.
        `on_refused` is called for each connection that was one too many.
        """
        self.bounds = bounds or CallerBounds()

        async def serve(request: web.BaseRequest) -> web.StreamResponse:
            doubt = ambiguity(request)
            if doubt is not None:
                # Whose call it was to be is in doubt, too.
                return last_answer(refusal(Family.OPENAI, doubt))
            answer: web.StreamResponse = await handle(request)
            return answer

        super().__init__(
            serve,
            request_factory=lambda message, payload, protocol, writer, task: _Request(
                message, payload, protocol, writer, task, self._loop
            ),
            **SERVER_OPTIONS | self.bounds.head_options,
        )
        self._inbox = new_inbox()
        self._find = find
        self._on_refused = on_refused
        shortest = min(self.bounds.head_s, self.bounds.take_s)
        self._sweep_s = min(shortest / 4, _SWEEP_AT_MOST_S)
        self._timer: asyncio.TimerHandle | None = None

    # Whoever listens needs no more than a protocol.
    def __call__(self) -> asyncio.BaseProtocol:  # type: ignore[override]
        """Return what serves one more connection."""
        connection = CallerConnection(
            self,
            self._find,
            max_head_bytes=self.bounds.max_head_bytes,
            loop=self._loop,
            **self._kwargs,
        )
        return SmallReads(connection, self._inbox)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Keep a new connection, unless there are too many."""
        if len(self._connections) >= self.bounds.max_connections:
            self._on_refused()
            page = TOO_MANY_CONNECTIONS
            transport.write(written(page, method="GET", keep_alive=False, modern=True))
            transport.close()
            return
        super().connection_made(handler, transport)
        if self._timer is None:
            self._arm()

    def cut_off(self) -> None:
        """End all calls that are on their way, and wait for none, as `shutdown` does in the end."""
        for connection in cast("list[CallerConnection]", self.connections):
            connection.cut_off()

    def _arm(self) -> None:
        self._timer = self._loop.call_later(self._sweep_s, self._sweep)

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in cast("list[CallerConnection]", self.connections):
            connection.stop_awaiting()
            if connection.is_overdue(now, self.bounds.head_s):
                connection.force_close()
            elif connection.takes_nothing(now, self.bounds.take_s):
                connection.abort()
        self._timer = None
        if self._connections:
            self._arm()


class _Request(web.BaseRequest):
    """A call. Forwarded answers to it are not prepared, but written as they came."""

    @property
    def keep_alive(self) -> bool:
        """Whether another call may follow; callers are told if none may."""
        connection = cast("CallerConnection", self.protocol)
        return not (self._message.should_close or connection.is_ending)

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        # aiohttp has just put it in. Callers need not know what serves them, nor its version.
        response.headers.popall(hdrs.SERVER, None)
        if not may_go_on(self):
            response.force_close()
            response.headers[hdrs.CONNECTION] = "close"
