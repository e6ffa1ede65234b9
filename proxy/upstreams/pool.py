"""The connections to all upstreams: kept, bounded, and lent in the order they were asked for.

A connection or the right to open one goes to whoever waited longest and can use
it. One timer looks after all of them; a call costs none.
"""

import asyncio
import ssl
from collections import deque
from typing import Final, cast

from proxy.core.upstream import Upstream
from proxy.core.web_proxy import WebProxyOf
from proxy.ports.upstream import ClientLimits
from proxy.upstreams.connection import Connection
from proxy.upstreams.dial import Dialer, connect_error

_SWEEP_AT_MOST_S: Final = 0.5
_SWEEP_AT_LEAST_S: Final = 0.005


class Site:
    """One upstream: its free connections, and who waits for one."""

    __slots__ = ("free", "open", "upstream", "waiting")

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.free: list[Connection] = []
        self.open = 0
        """Connections, and places reserved for some that are being opened."""
        self.waiting: deque[tuple[int, asyncio.Future[Connection | None]]] = deque()


class Pool:
    """Lends connections. `take` is for the common case, `open` for all others."""

    def __init__(
        self, limits: ClientLimits, ssl_context: ssl.SSLContext | None, web_proxy_of: WebProxyOf
    ) -> None:
        self._limits = limits
        self._dialer = Dialer(ssl_context, web_proxy_of=web_proxy_of)
        self._sites: dict[str, Site] = {}
        self._all: set[Connection] = set()
        self._open = 0
        self._waiting = 0
        self._asked = 0
        self._keeps = True
        self._closed = False
        self._sweep_s = min(
            max(_shortest(limits) / 4, _SWEEP_AT_LEAST_S),
            _SWEEP_AT_MOST_S,
        )
        self._timer: asyncio.TimerHandle | None = None

    def take(self, upstream: Upstream) -> Connection | None:
        """Lend a free connection that is good for a call, if there is one."""
        site = self._sites.get(upstream.base_url)
        if site is None:
            return None
        free = site.free
        while free:
            connection = free.pop()
            if connection.is_usable():
                connection.calls += 1
                return connection
            connection.abort()
        return None

    async def open(self, upstream: Upstream) -> Connection:
        """Lend a connection, as soon as one is free or may be opened.

        Raises:
            UpstreamUnavailableError: if there is none in time; nothing was sent.
        """
        site = self._sites.get(upstream.base_url)
        if site is None:
            site = self._sites[upstream.base_url] = Site(upstream)
        try:
            async with asyncio.timeout(self._limits.connect_s):
                connection = await self._wait(site)
                while connection is not None and not connection.is_usable():
                    # It died on its way from one caller to the next.
                    connection.abort()
                    connection = await self._wait(site)
                if connection is None:
                    connection = await self._connect(site)
        except (OSError, UnicodeError) as exc:
            raise connect_error(upstream, exc) from exc
        if self._closed:
            connection.abort()
        connection.calls += 1
        return connection

    def give_back(self, connection: Connection) -> None:
        """Take back a connection that may serve another call."""
        site = cast("Site", connection.site)
        connection.exchange = None
        connection.idle_since = now = asyncio.get_running_loop().time()
        if not self._keeps or now - connection.born >= self._limits.max_age_s:
            connection.abort()
            return
        if self._waiting:
            heir = self._next_site(site)
            if heir is site:
                _first_waiter(site).set_result(connection)
                return
            if heir is not None:
                # It frees the place that another upstream's caller waits for.
                connection.abort()
                return
        site.free.append(connection)

    def forget(self, connection: Connection) -> None:
        """Make room where a connection was."""
        if connection not in self._all:
            return
        site = cast("Site", connection.site)
        self._all.discard(connection)
        if connection in site.free:
            site.free.remove(connection)
        self._release_place(site)

    def drain(self) -> None:
        """Keep no connection beyond its call from now on; calls go on."""
        self._keeps = False
        for connection in [one for site in self._sites.values() for one in site.free]:
            connection.abort()

    async def aclose(self) -> None:
        """Cut every connection, and open no more."""
        self._keeps = False
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._all):
            connection.abort()
        # A transport closes its socket in the next turn of the loop.
        await asyncio.sleep(0)

    # Places.

    async def _wait(self, site: Site) -> Connection | None:
        """Return a connection, or nothing as soon as there is a place to open one."""
        if self._reserve_place(site):
            return None
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._asked += 1
        self._waiting += 1
        site.waiting.append((self._asked, waiter))
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._pass_on(site, waiter.result())
            raise
        finally:
            self._waiting -= 1

    def _pass_on(self, site: Site, granted: Connection | None) -> None:
        """Hand on what came just as its caller gave up."""
        if granted is None:
            self._release_place(site)
        else:
            self.give_back(granted)

    def _reserve_place(self, site: Site) -> bool:
        if self._waiting and self._next_site(site) is not None:
            return False
        if site.open >= self._limits.max_per_upstream:
            return False
        if self._open >= self._limits.max_connections:
            # A free connection that nobody uses must not keep others out.
            oldest = min(
                (one for other in self._sites.values() for one in other.free),
                key=lambda one: one.idle_since,
                default=None,
            )
            if oldest is None:
                return False
            self.forget(oldest)
            oldest.abort()
        site.open += 1
        self._open += 1
        return True

    def _release_place(self, site: Site) -> None:
        site.open -= 1
        self._open -= 1
        heir = self._next_site(None) if self._waiting else None
        if heir is not None:
            heir.open += 1
            self._open += 1
            _first_waiter(heir).set_result(None)

    def _next_site(self, returned_to: Site | None) -> Site | None:
        """Return the site whose first caller waits longest and could go on."""
        found: Site | None = None
        earliest = self._asked + 1
        for site in self._sites.values():
            while site.waiting and site.waiting[0][1].done():
                site.waiting.popleft()
            if not site.waiting or site.waiting[0][0] >= earliest:
                continue
            if site is returned_to or site.open < self._limits.max_per_upstream:
                found, earliest = site, site.waiting[0][0]
        return found

    async def _connect(self, site: Site) -> Connection:
        try:
            connection = await self._dialer.open(
                site.upstream,
                lambda sock: Connection(sock, self._limits, site=site, on_lost=self.forget),
            )
        except BaseException:
            self._release_place(site)
            raise
        self._all.add(connection)
        if self._timer is None:
            self._arm()
        return connection

    # The one timer.

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._sweep_s, self._sweep)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(self._all):
            if connection.exchange is not None:
                connection.exchange.check(now)
            elif (
                now - connection.idle_since > self._limits.keepalive_s
                or now - connection.born >= self._limits.max_age_s
            ):
                connection.abort()
        self._timer = None
        if self._all:
            self._arm()


def _first_waiter(site: Site) -> "asyncio.Future[Connection | None]":
    return site.waiting.popleft()[1]


def _shortest(limits: ClientLimits) -> float:
    return min(limits.first_byte_s, limits.idle_s, limits.keepalive_s)
