"""Where the head of an answer ends, and what it says.

What a head says is decided by aiohttp's C parser (llhttp) alone. It is given
exactly one head at a time and no body, so it can never be led to see a message
within a body. Where a head ends is found here, by the same rule; if the parser
does not agree that these very bytes are one head, the answer is refused.
"""

import asyncio
from typing import Any, Final, cast

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpVersion10, HttpVersion11, RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser

from proxy.ports.upstream import ClientLimits

_BEGINNING: Final = b"HTTP/1."
_VERSIONS: Final = (HttpVersion10, HttpVersion11)


class MalformedHeadError(Exception):
    """What an upstream sent is no head that everybody would read alike."""


def may_be_head(data: bytes) -> bool:
    """Tell whether a head can begin so; else there is no use in waiting for its end."""
    return data.startswith(_BEGINNING) or _BEGINNING.startswith(data)


def head_end(data: bytes) -> int:
    """Return where the first head in `data` ends, or -1 if it is not all there.

    Raises:
        MalformedHeadError: if it ends in bare LF. A recipient need not take that
            for an end (RFC 9112, section 2.2), so not all would see the same one.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0 and (b"\n\n" in data or b"\n\r\n" in data):
        raise MalformedHeadError("a head that ends in bare LF")
    return end + 4 if end >= 0 else -1


class HeadParser:
    """Reads the heads of one connection."""

    __slots__ = ("_parser",)

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: ClientLimits) -> None:
        self._parser: Any = HttpResponseParser(
            # Only a body could call back, and there is none.
            cast("BaseProtocol", None),
            loop,
            1,
            max_line_size=limits.max_line_bytes,
            max_field_size=limits.max_field_bytes,
            max_headers=limits.max_fields,
            response_with_body=False,
            auto_decompress=False,
        )

    def parse(self, head: bytes) -> RawResponseMessage:
        """Return what one whole head says.

        Raises:
            MalformedHeadError: if it is none, or could be read in two ways.
        """
        if not head.startswith(_BEGINNING):
            raise MalformedHeadError("no head")
        try:
            messages, _, rest = self._parser.feed_data(head)
        except HttpProcessingError as exc:
            raise MalformedHeadError(str(exc)) from exc
        if len(messages) != 1 or rest:
            raise MalformedHeadError("not one head")
        message: RawResponseMessage = messages[0][0]
        # A line each for status, fields and end. More of them are folded, which
        # different parsers read differently and a proxy may refuse (RFC 9112,
        # section 5.2), or the parser saw the end before we did.
        # The parser reads over blanks before the first field.
        folded = head[head.find(b"\n") + 1] in b" \t"
        if folded or head.count(b"\n") != len(message.raw_headers) + 2:
            raise MalformedHeadError("folded lines, or an end within")
        if b" :" in head and any(name.endswith(b" ") for name, _ in message.raw_headers):
            # The parser refuses such names except those of framing and persistence, which it obeys;
            # most other readers would not know the field.
            raise MalformedHeadError("a blank before a colon")
        if message.version not in _VERSIONS or message.code < 100 or "\0" in message.reason:
            raise MalformedHeadError("no valid status line")
        return message
