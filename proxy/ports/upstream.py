"""How a call reaches an upstream and how its answer comes back, byte for byte.

Nothing here knows providers, JSON or jobs. Header fields are raw pairs in their
order; targets are raw; bodies are never decoded. What an adapter may change on
the way is only what belongs to one connection: how a body is cut into pieces.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from proxy.core.errors import ProxyError
from proxy.core.routing import RawHeaders, Upstream


class Phase(StrEnum):
    """What a call was waiting for when its upstream failed it. Public: never rename one."""

    CONNECT = "connect"
    """Name, free connection, TCP and TLS; nothing of the call was sent."""

    UPLOAD = "upload"
    """The upstream stopped taking the body."""

    FIRST_BYTE = "first_byte"
    """The call was sent, whole or in part; no final status line came back."""

    IDLE = "idle"
    """The answer had begun and then fell silent, or broke off."""


Cause = Literal["refused", "timeout", "reset", "truncated", "malformed"]


class UpstreamUnavailableError(ProxyError):
    """The upstream gave no answer, or not a whole one.

    `phase` says how far the call came. `sent` is false only if it is certain
    that no byte of it left, so that a repeat cannot buy anything twice.
    """

    code = "upstream_unavailable"
    http_status = 502
    retryable = True

    def __init__(self, message: str, *, phase: Phase, cause: Cause, sent: bool) -> None:
        timed_out = cause == "timeout"
        super().__init__(
            message,
            code="upstream_timeout" if timed_out else None,
            http_status=504 if timed_out else None,
        )
        self.phase = phase
        self.cause: Cause = cause
        self.sent = sent


class BodySourceError(Exception):
    """The request body could not be read to its end: its sender's fault, not the upstream's.

    Raised by the iterator that is given as a body; an adapter closes the
    upstream connection and lets the error pass.
    """


Body = bytes | AsyncIterator[bytes] | None
"""A whole body, one that arrives in pieces, or none at all (which is not an empty one)."""

OnInformational = Callable[[int, str, RawHeaders], None]
"""Called for each 1xx answer but 101, in order, before the final one."""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One call as the upstream shall see it.

    `headers` are sent exactly as given: the maker puts `Host` in, takes
    hop-by-hop fields out and leaves `Content-Length` or `Transfer-Encoding` in.
    """

    upstream: Upstream
    method: str
    target: str
    headers: RawHeaders
    body: Body = None
    chunked: bool = False
    """Whether `headers` say so; the body is then sent in chunks of any size."""
    expect_continue: bool = False
    """Whether `headers` say so; the body is then held until the upstream's 100, for a while."""
    upgrade: bool = False
    """Whether a 101 is welcome; the connection is then this call's alone."""
    on_informational: OnInformational | None = None


class UpstreamResponse(Protocol):
    """The answer to one call. Whoever holds it reads it to the end or calls `close`."""

    @property
    def status(self) -> int:
        """The final status, or 101 if the upstream switched protocols."""
        ...

    @property
    def reason(self) -> str:
        """The reason phrase as sent; undecodable bytes as surrogate escapes."""
        ...

    @property
    def headers(self) -> RawHeaders:
        """The header fields as sent, in order, hop-by-hop ones included."""
        ...

    @property
    def chunked(self) -> bool:
        """Whether the body came with `Transfer-Encoding: chunked`."""
        ...

    @property
    def trailers(self) -> RawHeaders:
        """The trailer fields, known after the end; empty where an adapter cannot see them."""
        ...

    @property
    def at_end(self) -> bool:
        """Whether the whole body was received and handed out."""
        ...

    def take_ready(self) -> bytes:
        """Return body bytes that are already here, without waiting; often none. Never raises."""
        ...

    async def next_chunk(self) -> bytes:
        """Return the next body bytes as soon as any arrive; empty at the clean end.

        Not calling it holds the upstream back, with a bounded number of bytes
        in between.

        Raises:
            UpstreamUnavailableError: if the body breaks off or falls silent.
        """
        ...

    def tunnel(self) -> "Tunnel":
        """Take over the raw connection after a 101. The response is then done with."""
        ...

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else cut it at once.

        May be called at any time and more than once.
        """
        ...


class Tunnel(Protocol):
    """One end of a connection that speaks something else than HTTP from now on."""

    async def read(self) -> bytes:
        """Return the next bytes as soon as any arrive; empty once the peer is gone."""
        ...

    async def write(self, data: bytes) -> None:
        """Send, waiting while the peer does not take what was sent before.

        Raises:
            ConnectionError: if the peer is gone.
        """
        ...

    def close(self) -> None:
        """End the connection after what was written; may be called more than once."""
        ...


class UpstreamClient(Protocol):
    """Sends calls, over connections that it keeps and bounds."""

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send a call and return its answer as soon as the final head is there.

        Redirects are answers. Cancelling cuts the connection. No call whose
        bytes may have reached the upstream is sent again, except once a
        bodyless GET, HEAD or OPTIONS on a kept connection that turns out dead.

        Raises:
            UpstreamUnavailableError: if there is no answer.
            BodySourceError: if the body's own iterator failed with it.
        """
        ...

    async def aclose(self) -> None:
        """Cut every connection."""
        ...
