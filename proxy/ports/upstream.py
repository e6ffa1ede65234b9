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
from proxy.core.fields import RawHeaders, request_head
from proxy.core.upstream import Upstream


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
    that no byte of it left, so that a repeat cannot buy anything twice. The message is
    for callers; `detail` is for the log alone, since addresses may stand in it.
    """

    code = "upstream_unavailable"
    http_status = 502

    def __init__(
        self, message: str, *, phase: Phase, cause: Cause, sent: bool, detail: str | None = None
    ) -> None:
        timed_out = cause == "timeout"
        super().__init__(
            message,
            code="upstream_timeout" if timed_out else None,
            http_status=504 if timed_out else None,
        )
        self.phase = phase
        self.cause: Cause = cause
        self.sent = sent
        self.detail = detail or message


class BodySourceError(Exception):
    """The request body could not be read to its end: its sender's fault, not the upstream's.

    Raised by the iterator that is given as a body; an adapter closes the
    upstream connection and lets the error pass.
    """


Body = bytes | AsyncIterator[bytes] | None
"""A whole body, one that arrives in pieces, or none at all (which is not an empty one)."""

OnInformational = Callable[[int, str, RawHeaders], None]
"""Called for each 1xx answer but 101, in order, before the final one."""

Write = Callable[[bytes], bool]
"""Takes bytes at once, and says whether more may follow right away."""

OnNews = Callable[[], None]
"""Called when there is something to look at; it must not fail, and need not be news."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Every bound of a client; durations in seconds. There is no total: streams are long."""

    connect_s: float = 15.0
    """For a free connection, name, TCP and TLS together."""
    first_byte_s: float = 900.0
    """From the last byte sent to the final head. Reasoning models think for minutes
    before a non-streamed answer; SDKs themselves give up after 600 s."""
    idle_s: float = 600.0
    """Between two pieces of an answer, and for the upstream to take a piece of a body."""
    keepalive_s: float = 30.0
    """How long a free connection is kept; below the usual 60 s of load balancers, since
    a call sent just as they close it fails."""
    max_age_s: float = 300.0
    """No call is sent over an older connection, so that a name that points elsewhere
    is followed."""
    continue_s: float = 1.0
    """For `100 Continue`, then the body is sent unasked (RFC 9110, section 10.1.1)."""
    max_connections: int = 4096
    """Over all upstreams; more calls wait for a free one, within `connect_s`."""
    max_per_upstream: int = 3072
    """Bounded, so that an upstream which answers nobody leaves room for the others."""
    max_line_bytes: int = 32768
    max_field_bytes: int = 32768
    max_fields: int = 512
    max_head_bytes: int = 1 << 18
    """All fields of one answer together, and its trailers."""


# Not frozen, as records are elsewhere: one is made for each call, and freezing
# would make that three times as dear.
@dataclass(slots=True)
class UpstreamRequest:
    """One call as the upstream shall see it.

    `headers` are sent exactly as given: the maker puts `Host` in, takes
    hop-by-hop fields out and leaves `Content-Length` or `Transfer-Encoding` in.
    """

    upstream: Upstream
    method: str
    target: str
    headers: RawHeaders = ()
    body: Body = None
    chunked: bool = False
    """Whether `headers` say so; the body is then sent in chunks of any size."""
    expect_continue: bool = False
    """Whether `headers` say so; then the body waits for the upstream's 100, for a while."""
    upgrade: bool = False
    """Whether a 101 is welcome; the connection is then this call's alone."""
    on_informational: OnInformational | None = None
    head: bytes = b""
    """The head written already; then `headers` are not looked at."""
    keep_chunks: bool = False
    """Whether a chunked answer may be handed out as it is framed, trailers and all."""

    def written_head(self) -> bytes:
        """Return the head as it goes out."""
        return self.head or request_head(self.method, self.target, self.headers)

    def written_piece(self, piece: bytes) -> bytes:
        """Return a piece of the body as it goes out; an empty one would end it."""
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece


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
    def framed(self) -> bool:
        """Whether what is handed out has its chunks and trailers around it, checked."""
        ...

    @property
    def body_bytes(self) -> int:
        """Body bytes handed out so far, without framing."""
        ...

    @property
    def trailers(self) -> RawHeaders:
        """The trailer fields, known after the end; empty where an adapter cannot see them.

        Empty as well where they are handed out with the body."""
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

    async def pump(self, write: Write) -> None:
        """Hand each piece of the body to `write` as it arrives, in the very same turn of the loop.

        Returns at the end of the body, or as soon as `write` wants no more for
        now; until the next call the upstream is held back, with a bounded number
        of bytes in between.

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


class PromptResponse(UpstreamResponse, Protocol):
    """An answer whose holder is called instead of waiting: it needs no task.

    The holder is called when the final head is here, when there is body that nobody took,
    at the end of the body, and when there is a failure.
    """

    @property
    def headed(self) -> bool:
        """Whether the final head is here."""
        ...

    @property
    def failure(self) -> Exception | None:
        """What ended it early, if anything did; what came before that can still be taken."""
        ...

    def flow(self, write: Write) -> None:
        """Hand each further piece of the body to `write` in the turn of the loop in which it comes.

        What is here already must have been taken. Ends when `write` wants no more for now;
        until the next call the upstream is held back, with a bounded number of bytes in between.
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

    def begin(
        self, upstream: Upstream, make: Callable[[], UpstreamRequest], on_news: OnNews
    ) -> PromptResponse | None:
        """Send a call at once, if nothing is to be waited for; else return nothing.

        `make` gives the call, its body whole; it is called only if that is sent. `on_news` is
        called only after this has returned, and never after `close`. A failure is told by the
        response; nothing is sent again.
        """
        ...

    async def aclose(self) -> None:
        """Cut every connection."""
        ...
