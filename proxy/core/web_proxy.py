"""A web proxy that stands between us and the upstreams, as companies have them."""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from proxy.core.authority import authority
from proxy.core.errors import ConfigError
from proxy.core.upstream import Upstream

_PORT: Final = 80


@dataclass(frozen=True, slots=True)
class WebProxy:
    """Where tunnels to upstreams are asked for, by `CONNECT`. Made by `WebProxy.parse`."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
    """What goes into `Proxy-Authorization`, if it wants to know who asks."""

    @classmethod
    def parse(cls, url: str, *, said_by: str) -> "WebProxy":
        """Read `http://[user:password@]host[:port]`, with or without scheme; `said_by` names it.

        Raises:
            ConfigError: if it is no such URL. The error does not quote it: it may hold a password.
        """
        allowed = f"{said_by} must be http://[user:password@]host[:port]"
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ConfigError(allowed) from None
        if parts.scheme != "http" or not host:
            raise ConfigError(f"{allowed}; web proxies of another kind are not supported")
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = f"Basic {b64encode(pair.encode()).decode()}"
        return cls(host, _PORT if port is None else port, authorization)

    @property
    def authority(self) -> str:
        """Its host and port."""
        return authority(self.host, self.port)


WebProxyOf = Callable[[Upstream], WebProxy | None]
"""Tells which web proxy an upstream is reached through, if any."""


def directly(upstream: Upstream) -> None:  # noqa: ARG001 - a `WebProxyOf`
    """Reach every upstream without a web proxy."""
    return
