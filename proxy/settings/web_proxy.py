"""Which upstreams are reached through a web proxy: what the environment says of it."""

import ipaddress
import os

from proxy.core.upstream import Upstream
from proxy.core.web_proxy import WebProxy, WebProxyOf, directly


def web_proxy_of_environment() -> WebProxyOf:
    """Return what `HTTPS_PROXY` and `NO_PROXY` say, in capitals or not, as curl reads them.

    Upstreams by `http://` and those on this machine are always reached directly.

    Raises:
        ConfigError: if the web proxy is of a kind that cannot be used.
    """
    name = next((one for one in ("https_proxy", "HTTPS_PROXY") if os.environ.get(one)), None)
    if name is None:
        return directly
    said_by = f"{name} (which forwarding.web_proxy: none ignores)"
    web_proxy = WebProxy.parse(os.environ[name], said_by=said_by)
    # Only where there is one: the module brings an HTTP client along. Requests and aiohttp ask
    # the same function.
    from urllib.request import proxy_bypass  # noqa: PLC0415

    def web_proxy_of(upstream: Upstream) -> WebProxy | None:
        host = upstream.host
        without = (
            upstream.scheme != "https" or _is_here(host) or proxy_bypass(f"{host}:{upstream.port}")
        )
        return None if without else web_proxy

    return web_proxy_of


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
