"""Where a running proxy is, as people write it down."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

_USUAL_PORTS: Final[Mapping[str, str]] = {"http": ":80", "https": ":443"}


def proxy_url(text: str) -> str:
    """Return the URL that paths of calls are appended to.

    A `/v1` at its end, as SDKs want it of a base URL, is taken off: calls would be
    deferred below it all the same, and their answers never be found there.

    Raises:
        ValueError: saying what it must be, and not what it is: it may hold a password.
    """
    text = text.strip()
    try:
        parts = urlsplit(text)
        is_one = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if (
        not is_one
        or parts.scheme not in _USUAL_PORTS
        or any(char in text for char in "?#@ ")
        or not text.isprintable()
    ):
        raise ValueError("the URL of the proxy must be http(s)://host[:port][/path]")
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


def normal_url(url: str) -> str:
    """Return what differs only if another proxy may be meant."""
    scheme, separator, rest = url.strip().partition("://")
    host, slash, path = rest.partition("/")
    port = _USUAL_PORTS.get(scheme.lower(), "")
    return f"{scheme.lower()}{separator}{host.lower().removesuffix(port)}{slash}{path}".rstrip("/")
