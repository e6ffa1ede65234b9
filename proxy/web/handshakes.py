"""A listener that speaks TLS, with bounds on whoever has not finished the handshake.

The event loops tell a server of a connection only after its handshake, and never of one whose
handshake fails: callers who connect and say nothing would not count as connections, and could hold
as many open files as they like. Here a connection counts from the moment it is accepted.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

import structlog
from aiohttp import web

from proxy.ports.tasks import TaskOwner

log = structlog.get_logger()

BACKLOG: Final = 4096
"""Connections that may wait to be accepted; Linux grants no more by default. If a thousand come at
once, aiohttp's 128 would be accepted in time, and the others would try again and again."""


@dataclass(frozen=True, slots=True)
class Handshakes:
    """What a listener needs to speak TLS, and what it grants."""

    context: ssl.SSLContext
    tasks: TaskOwner
    """Owns the handshakes. They end with their listener, which is to end first."""

    max_connections: int = 10_000
    """At once, those who are served and those in their handshake together."""

    limit_s: float = 75.0
    """What one may take."""


class SecureSite(web.BaseSite):
    """Listens for a runner's server, to which it hands a connection after the handshake.

    One that is too many is cut off without a word, since a word would take a handshake.
    """

    def __init__(
        self,
        runner: web.BaseRunner,
        host: str,
        port: int,
        *,
        terms: Handshakes,
        reuse_port: bool | None = None,
        on_refused: Callable[[], None],
    ) -> None:
        """`on_refused` is called for each connection that was one too many."""
        super().__init__(runner)
        assert runner.server is not None, "a site is made after the setup of its runner"
        self._serving = runner.server
        self._address = (host, port)
        self._terms = terms
        self._reuse_port = reuse_port
        self._on_refused = on_refused
        self._pending: set[asyncio.Task[None]] = set()
        self._is_stopped = False

    @property
    def name(self) -> str:
        """The address that was asked for."""
        host, port = self._address
        return f"https://{host}:{port}"

    @property
    def pending(self) -> int:
        """How many handshakes are not finished."""
        return len(self._pending)

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: if the address cannot be had.
        """
        await super().start()
        host, port = self._address
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Arrival(self._arrived),
            host,
            port,
            backlog=BACKLOG,
            reuse_address=True,
            reuse_port=self._reuse_port,
        )

    async def stop(self) -> None:
        """Listen no more, and give up the handshakes; those who are served stay."""
        self._is_stopped = True
        await super().stop()
        for task in self._pending:
            task.cancel()

    def _arrived(self, transport: asyncio.Transport) -> None:
        count = len(self._pending) + len(self._serving.connections)
        if count >= self._terms.max_connections:
            self._on_refused()
        elif not self._is_stopped:
            with suppress(OSError):  # No more files may be open.
                self._begin(_taken(transport))
        transport.abort()

    def _begin(self, accepted: socket.socket) -> None:
        def end(task: asyncio.Task[None]) -> None:
            self._pending.discard(task)
            if task.cancelled():
                # Maybe before it began.
                accepted.close()

        task = self._terms.tasks.create_task(self._secure(accepted), name="handshake")
        self._pending.add(task)
        task.add_done_callback(end)

    async def _secure(self, accepted: socket.socket) -> None:
        # The server's part is made before the handshake, and counts the time from then on.
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._serving,
                accepted,
                ssl=self._terms.context,
                ssl_handshake_timeout=self._terms.limit_s,
            )
        except OSError:
            # The caller left, was too slow, or speaks no TLS like ours.
            return
        except Exception as exc:  # noqa: BLE001 - a caller must not be able to end the service
            log.warning("handshake.failed", error=type(exc).__name__)


class _Arrival(asyncio.Protocol):
    """A connection that has just been accepted."""

    def __init__(self, on_made: Callable[[asyncio.Transport], None]) -> None:
        self._on_made = on_made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._on_made(cast("asyncio.Transport", transport))


def _taken(transport: asyncio.Transport) -> socket.socket:
    """Return the connection of a transport that has read nothing and is ended next.

    `start_tls` would keep the transport, but begins with a task's first step: uvloop
    reads before, and what was read is lost to the handshake.

    Raises:
        OSError: if no more files may be open.
    """
    return socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
