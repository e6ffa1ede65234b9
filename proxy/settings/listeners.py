"""Where calls and operators come in, and what bounds whoever connects."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field

from proxy.settings.section import Section
from proxy.settings.values import (
    Address,
    Count,
    ListenAddress,
    PositiveDuration,
    Size,
)


class Tls(Section):
    """A certificate, with which a listener speaks TLS alone. Read again on SIGHUP."""

    cert_file: Path
    """The certificate and those that lead to its authority, as PEM."""

    key_file: Path
    """Its private key, as PEM and without a passphrase."""


class Admin(Section):
    """The listener for operators: probes, metrics, drain, dashboard."""

    listen: ListenAddress = Address("127.0.0.1", 8081)
    """Where operators come in."""

    tls: Tls | None = None

    token_file: Path | None = None
    """Holds the token that everything but probes and metrics asks for off loopback; a change
    counts from the next start."""

    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    """Names in `Host`, without port. A page that a browser shows can rebind its own
    name to this address, but cannot make the browser send another one. The address
    that a connection came in on is always allowed: an address cannot be rebound."""

    def read_token(self) -> str | None:
        """Return the token, if one is configured.

        Raises:
            ValueError: if it is empty, or nothing that a header could carry.
            OSError: if the file cannot be read.
        """
        if self.token_file is None:
            return None
        token = self.token_file.read_text().strip()
        if not token:
            raise ValueError("must not be empty")
        if not token.isascii() or not token.isprintable():
            raise ValueError("must be one token: printable ASCII")
        return token


class Callers(Section):
    """Bounds on whoever connects: slow ones, idle ones, and how many."""

    max_connections: Count = 10_000
    """At once; any further one is told 503, or cut off where it would need a TLS handshake first.
    Each forwarded call needs two open files: it is fewer where the process may not have them."""

    head_timeout: PositiveDuration = timedelta(seconds=75)
    """Until the head of a call is there, from its connection on or from the call before:
    for those who send nothing, or a letter a minute, or keep a connection unused. A TLS
    handshake, on the admin listener too, counts as part of it."""

    max_field_bytes: Annotated[Size, Field(ge=1024, le=1 << 20)] = 32 << 10
    """For the request line, and for each header field; nginx stops at 8 KB, node at 16 KB. A whole
    head may have eight times as much."""

    max_fields: Annotated[int, Field(ge=16, le=10_000)] = 512
    """Header fields of one call."""
