"""Heads written by pattern: what was worked out for one call serves all that look like it.

An SDK sends the same field names in the same order with every call, and an
upstream answers with the same ones. Which fields pass, and how the head is laid
out, follows from the names alone, but for a few fields whose value has a say
(`Connection`, `Expect`, `Upgrade`, `Transfer-Encoding`). So the names, exactly as
spelled and in order, are the key of a pattern; a value is never remembered; and
where a value has a say other than the usual one, there is no pattern and
`proxy.core.fields` works the head out.

A memo is bounded in entries and in bytes; it is emptied when full, so that a
caller with ever new names makes calls slower and nothing larger.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from proxy.core.fields import (
    HOP_BY_HOP,
    HOP_OF_REQUESTS,
    OURS,
    PLAIN_CONNECTION,
    RawHeaders,
    RequestFields,
    has_length,
    request_fields,
    request_head,
    response_fields,
    response_head,
)

MAX_SHAPES: Final = 256
_MAX_FIELDS: Final = 64
_MAX_NAME_BYTES: Final = 2048

Names = tuple[bytes, ...]
_Pick = Callable[[tuple[bytes, ...]], tuple[bytes, ...]]

# Their values decide how the call is sent.
_SAY_OF_REQUESTS: Final = frozenset({b"expect", b"transfer-encoding", b"upgrade"})

_WITH_BODY: Final = RequestFields(has_body=True)
_WITHOUT_BODY: Final = RequestFields()


@dataclass(frozen=True, slots=True)
class _Shape:
    """How heads with certain names are written; none of it says anything of a value."""

    template: bytes
    pick: _Pick | None
    """Takes the values that are written; none if all are."""
    connection: tuple[int, ...]
    """Where `Connection` stands, whose value must be a usual one."""
    has_length: bool


class HeadWriter:
    """Writes heads. One instance serves a whole process."""

    def __init__(self) -> None:
        self._requests: dict[bytes, dict[Names, _Shape | None]] = {}
        self._responses: dict[Names, _Shape | None] = {}

    def request(
        self,
        method: str,
        target: str,
        headers: RawHeaders,
        *,
        host: bytes,
        without: frozenset[bytes] = frozenset(),
        more: RawHeaders = (),
    ) -> tuple[bytes, RequestFields]:
        """Return the head that goes upstream, and what it says of the body.

        `without` is left out, and `more` put in, at the end.

        As `request_fields` and `request_head` together, but that `kept` is empty
        where a pattern was used.
        """
        if headers and not (without or more):
            memo = self._requests.get(host)
            if memo is None:
                memo = self._requests[host] = {}
            names, values = zip(*headers, strict=True)
            shape = memo.get(names) or _learn(memo, names, host)
            if shape is not None and _is_usual(shape, values):
                chosen = shape.pick(values) if shape.pick is not None else values
                line = f"{method} {target} HTTP/1.1\r\n".encode("utf-8", "surrogateescape")
                fields = _WITH_BODY if shape.has_length else _WITHOUT_BODY
                return b"%b%b\r\n" % (line, shape.template % chosen), fields
        fields = request_fields(headers, host=host, without=without)
        return request_head(method, target, (*fields.kept, *more)), fields

    def response(
        self, status: int, reason: str, headers: RawHeaders, *, dechunk: bool = False
    ) -> tuple[bytes, bool]:
        """Return the head that goes to the caller, and whether it announces a length.

        As `response_fields` and `response_head` together, but that the blank
        line at the end is left to whoever adds the last field.
        """
        if headers and not dechunk:
            names, values = zip(*headers, strict=True)
            shape = self._responses.get(names) or _learn(self._responses, names, None)
            if shape is not None and _is_usual(shape, values):
                chosen = shape.pick(values) if shape.pick is not None else values
                line = f"HTTP/1.1 {status} {reason}\r\n".encode("utf-8", "surrogateescape")
                return line + shape.template % chosen, shape.has_length
        kept = response_fields(headers, dechunk=dechunk)
        return response_head(status, reason, kept)[:-2], has_length(kept)


def _is_usual(shape: _Shape, values: tuple[bytes, ...]) -> bool:
    return not shape.connection or all(
        values[at].lower() in PLAIN_CONNECTION for at in shape.connection
    )


def _learn(memo: dict[Names, _Shape | None], names: Names, host: bytes | None) -> _Shape | None:
    """Return the pattern of these names, remembered where that is cheap enough."""
    if names in memo:
        return None
    if len(names) > _MAX_FIELDS or sum(map(len, names)) > _MAX_NAME_BYTES:
        return None
    if len(memo) >= MAX_SHAPES:
        memo.clear()
    shape = memo[names] = _shape(names, host)
    return shape


def _shape(names: Names, host: bytes | None) -> _Shape | None:
    """Work a pattern out; `host` marks a request."""
    dropped = HOP_BY_HOP if host is None else HOP_OF_REQUESTS
    lines: list[bytes] = []
    kept: list[int] = []
    lowered = [name.lower() for name in names]
    if host is not None and not _SAY_OF_REQUESTS.isdisjoint(lowered):
        return None
    if host is not None and b"host" not in lowered:
        lines.append(_literal(b"Host: %b\r\n" % host))
    for at, name in enumerate(lowered):
        if name in dropped or (host is not None and name.startswith(OURS)):
            continue
        if host is not None and name == b"host":
            lines.append(_literal(b"%b: %b\r\n" % (names[at], host)))
        else:
            lines.append(_literal(names[at]) + b": %b\r\n")
            kept.append(at)
    if len(kept) < 2:
        # `itemgetter` returns a tuple only from two items on.
        return None
    return _Shape(
        template=b"".join(lines),
        pick=itemgetter(*kept) if len(kept) < len(names) else None,
        connection=tuple(at for at, name in enumerate(lowered) if name == b"connection"),
        has_length=b"content-length" in lowered,
    )


def _literal(text: bytes) -> bytes:
    """Write bytes into a template; `%` is a letter that names may have."""
    return text.replace(b"%", b"%%")
