"""Which header fields pass through a proxy, and how fields and heads are written. Pure.

Taken out is what belongs to one connection only (RFC 9110, section 7.6.1) and
what is addressed to this service. Everything else keeps its order, its case and
its duplicates. `Transfer-Encoding` is hop-by-hop too, but stays: the body is
framed again in the same way, so the field stays true.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

RawHeaders = tuple[tuple[bytes, bytes], ...]
"""Header fields in order, names as spelled on the wire, values without outer whitespace."""

HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"}
)
HOP_OF_REQUESTS: Final = HOP_BY_HOP | {b"proxy-authorization"}
OURS: Final = b"x-deferrable"

LENGTH_DIGITS_MAX: Final = 15
"""The most digits of a `Content-Length`: a petabyte. aiohttp's parser takes the largest number of
64 bits for no body at all, and Python reads no number of more than 4,300."""

# Framing, addressing and what is written anew are never dropped because
# `Connection` names them: that is how requests are smuggled.
_NEVER_NAMED: Final = frozenset({b"content-length", b"transfer-encoding", b"host", b"expect"})

_H2C: Final = re.compile(rb"\bh2c?\b", re.IGNORECASE)

_READ: Final = frozenset({b"content-length", b"transfer-encoding", b"host", b"expect"})
_NOTABLE: Final = HOP_OF_REQUESTS | _READ
# `Connection` values of nearly every call; they name no field.
PLAIN_CONNECTION: Final = frozenset({b"keep-alive", b"close", b""})


@dataclass(slots=True)
class RequestFields:
    """A request's fields as its upstream shall see them, and what they say."""

    kept: RawHeaders = ()
    has_body: bool = False
    """Whether the fields frame a body, perhaps an empty one."""
    chunked: bool = False
    expect_continue: bool = False
    upgrade: bool = False


def request_fields(
    headers: RawHeaders, *, host: bytes, without: frozenset[bytes] = frozenset()
) -> RequestFields:
    """Return what goes upstream: `Host` is `host`, `without` is left out (lower case)."""
    found = RequestFields()
    kept: list[tuple[bytes, bytes]] = []
    connection: set[bytes] = set()
    dropped = HOP_OF_REQUESTS | without if without else HOP_OF_REQUESTS
    addressed = False
    for field in headers:
        name = field[0].lower()
        if name in _NOTABLE or name in without or name.startswith(OURS):
            if name == b"connection":
                connection |= _tokens(field[1])
            if name in dropped or name.startswith(OURS):
                continue
            if name == b"host":
                addressed = True
                kept.append((field[0], host))
                continue
            _read(found, name, field[1])
        kept.append(field)
    if not addressed:
        # An HTTP/1.0 caller; upstream the call is HTTP/1.1, where it is required.
        kept.insert(0, (b"Host", host))
    if connection:
        _apply_connection(found, kept, connection, headers)
    found.kept = tuple(kept)
    return found


def response_fields(headers: RawHeaders, *, dechunk: bool = False) -> RawHeaders:
    """Return what goes back to the caller; `dechunk` for one who knows no chunks."""
    kept: list[tuple[bytes, bytes]] = []
    named: set[bytes] = set()
    for field in headers:
        name = field[0].lower()
        if name in HOP_BY_HOP:
            if name == b"connection":
                named |= _tokens(field[1])
        elif not (dechunk and name == b"transfer-encoding"):
            kept.append(field)
    if named:
        return tuple(field for field in kept if not _is_named(field[0], named))
    return tuple(kept)


def raw_headers(fields: Mapping[str, str]) -> RawHeaders:
    """Return fields that we write ourselves as they go over the wire."""
    return tuple([(name.encode("latin-1"), fields[name].encode("latin-1")) for name in fields])


def by_name(headers: RawHeaders) -> dict[str, str]:
    """Return the fields as text, by names in lower case; of several with one name, the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def has_length(headers: RawHeaders) -> bool:
    """Tell whether `Content-Length` is among the fields."""
    return any(name.lower() == b"content-length" for name, _ in headers)


def persistence(*, keep_alive: bool, modern: bool) -> RawHeaders:
    """Return the field that says what becomes of the connection, unless it is the default.

    `modern` is HTTP/1.1, whose connections persist unless said otherwise
    (RFC 9112, section 9.3).
    """
    if not keep_alive:
        return ((b"Connection", b"close"),)
    return () if modern else ((b"Connection", b"keep-alive"),)


def request_head(method: str, target: str, headers: RawHeaders) -> bytes:
    """Write the head of a request; undecodable bytes of the target as they came."""
    return _head(f"{method} {target} HTTP/1.1", headers)


def response_head(status: int, reason: str | None, headers: RawHeaders) -> bytes:
    """Write the head of a response; without a `reason` the registered one."""
    return _head(
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase if reason is None else reason}", headers
    )


def _head(line: str, headers: RawHeaders) -> bytes:
    lines = [b"%b: %b\r\n" % field for field in headers]
    return b"%b\r\n%b\r\n" % (line.encode("utf-8", "surrogateescape"), b"".join(lines))


def _read(found: RequestFields, name: bytes, value: bytes) -> None:
    if name == b"content-length":
        found.has_body = True
    elif name == b"transfer-encoding":
        found.has_body = True
        found.chunked = True
    elif name == b"expect":
        found.expect_continue = value.lower() == b"100-continue"


def _tokens(value: bytes) -> set[bytes]:
    # A set, since each field is looked for in it: of both there can be thousands.
    lowered = value.lower()
    if lowered in PLAIN_CONNECTION:
        return set()
    return {token.strip() for token in lowered.split(b",")}


def _is_named(name: bytes, named: set[bytes]) -> bool:
    lowered = name.lower()
    return lowered in named and lowered not in _NEVER_NAMED


def _apply_connection(
    found: RequestFields,
    kept: list[tuple[bytes, bytes]],
    connection: set[bytes],
    headers: RawHeaders,
) -> None:
    """Drop what `Connection` names; but where it asks for an upgrade, keep the handshake."""
    kept[:] = [field for field in kept if not _is_named(field[0], connection)]
    if b"upgrade" not in connection:
        return
    handshake = [field for field in headers if field[0].lower() in {b"connection", b"upgrade"}]
    protocols = [value for name, value in handshake if name.lower() == b"upgrade"]
    # Further calls within HTTP/2 would pass no check of ours; and whoever offers it, as Java's
    # client does with each call, can do without (RFC 9113, section 3.1).
    found.upgrade = bool(protocols) and not any(_H2C.search(value) for value in protocols)
    if found.upgrade:
        kept.extend(handshake)
