"""Open a connection: name, address, TCP, a web proxy's tunnel, TLS."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from aiohappyeyeballs import start_connection

from proxy.core.upstream import Upstream
from proxy.core.web_proxy import WebProxy, WebProxyOf, directly
from proxy.ports.upstream import Cause, Phase, UpstreamUnavailableError
from proxy.reading import SmallReads, new_inbox
from proxy.system_words import system_words
from proxy.upstreams.addresses import Addresses
from proxy.upstreams.connection import Connection
from proxy.upstreams.tls import resume_sessions, verifying_context
from proxy.upstreams.tunnel import WebProxyError, open_tunnel, web_proxy_error

# RFC 8305, section 5: how long one address family waits for the other.
_FAMILY_DELAY_S: Final = 0.25
# Within minutes of silence, as a model thinks, network translators forget a
# connection; the SDKs of the vendors keep theirs alive at the same pace.
_PROBE_AFTER_S: Final = 60


class Dialer:
    """Opens connections; a given `ssl_context` is taken over."""

    def __init__(
        self,
        ssl_context: ssl.SSLContext | None,
        *,
        web_proxy_of: WebProxyOf = directly,
    ) -> None:
        self._ssl = ssl_context
        self._web_proxy_of = web_proxy_of
        self._addresses = Addresses()
        self._inbox = new_inbox()

    async def open(
        self, upstream: Upstream, make: Callable[[socket.socket], Connection]
    ) -> Connection:
        """Return a connection that `make` made of its socket.

        Raises:
            OSError: if there is none; failures of TLS and of names are such, too.
            UnicodeError: if the name can be none.
        """
        web_proxy = self._web_proxy_of(upstream)
        next_hop = upstream if web_proxy is None else web_proxy
        try:
            return await self._open(upstream, web_proxy, make)
        except BaseException:
            self._addresses.forget(next_hop.host, next_hop.port)
            raise

    async def _open(
        self,
        upstream: Upstream,
        web_proxy: WebProxy | None,
        make: Callable[[socket.socket], Connection],
    ) -> Connection:
        loop = asyncio.get_running_loop()
        secured: dict[str, Any] = {}
        if upstream.scheme == "https":
            secured = {"ssl": await self._context(), "server_hostname": upstream.host}
        if web_proxy is None:
            sock = await self._reach(upstream.host, upstream.port)
        else:
            try:
                sock = await self._reach(web_proxy.host, web_proxy.port)
            except OSError as exc:
                raise web_proxy_error(web_proxy, system_words(exc)) from exc
        connection: Connection | None = None

        def take_over() -> SmallReads:
            nonlocal connection
            connection = make(sock)
            return SmallReads(connection, self._inbox)

        try:
            _keep_alive(sock)
            if web_proxy is not None:
                await open_tunnel(sock, web_proxy, upstream)
            await loop.create_connection(take_over, sock=sock, **secured)
        except BaseException:
            # Closing a new TLS connection in order may take half a minute. If its socket were
            # closed meanwhile, asyncio would take the next one, which gets the same number, for
            # this one, and refuse it.
            if connection is not None:
                connection.abort()
            sock.close()
            raise
        assert connection is not None
        return connection

    async def _reach(self, host: str, port: int) -> socket.socket:
        return await start_connection(
            cast("Any", await self._addresses.of(host, port)),
            happy_eyeballs_delay=_FAMILY_DELAY_S,
            interleave=1,
            loop=asyncio.get_running_loop(),
        )

    async def _context(self) -> ssl.SSLContext:
        if self._ssl is None:
            # Not before it is needed, and not on the loop.
            self._ssl = await asyncio.to_thread(verifying_context)
        resume_sessions(self._ssl)
        return self._ssl


def connect_error(upstream: Upstream, exc: Exception) -> UpstreamUnavailableError:
    """Return how a caller is told that there is no connection to its upstream."""
    timed_out = isinstance(exc, TimeoutError)
    # Neither a timeout nor a handshake that was hung up on has words of its own.
    silent = "timed out" if timed_out else "it hung up"
    cause: Cause = "timeout" if timed_out else "refused"
    what = f"cannot connect to upstream {upstream.name!r}"
    return UpstreamUnavailableError(
        f"{what}: {_without_addresses(exc) or silent}",
        phase=Phase.CONNECT,
        cause=cause,
        sent=False,
        detail=f"{what}: {str(exc) or silent}",
    )


def _without_addresses(exc: Exception) -> str:
    if isinstance(exc, WebProxyError):
        return "no way through the web proxy"
    if isinstance(exc, ssl.SSLCertVerificationError):
        # Its words name the host or the address that the certificate is not for.
        return "its certificate cannot be verified"
    # aiohttp puts the host before what the system said.
    return system_words(getattr(exc, "os_error", exc))


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_AFTER_S)
