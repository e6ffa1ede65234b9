"""Where the body of an answer ends. Pure: bytes in, bytes out, no connection.

A body is handed on as it comes. What is not yet known to be valid framing is
held, a line at most, so that whatever went on is a valid beginning; and a body
that was not framed validly to its end is never `done`.
"""

import re
from typing import Final, Protocol

from aiohttp.hdrs import CONTENT_LENGTH, TRANSFER_ENCODING
from aiohttp.http import RawResponseMessage

from proxy.core.fields import RawHeaders
from proxy.upstreams.head import MalformedHeadError

_LINE_LIMIT: Final = 4096
"""Bytes of a chunk's size with its extensions; nobody needs more than a dozen."""

# No sign, no `0x`, no underscores, unlike `int`. Blanks after the size are
# tolerated: some servers pad it, and llhttp takes them too.
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)\r\n"
)

_BODILESS: Final = frozenset({204, 304})


class BodyFraming(Protocol):
    """The state of one body on its way in."""

    done: bool
    """The end was seen, and all before it was valid."""
    broken: bool
    """The framing is not valid; nothing more is handed out."""
    surplus: bool
    """Something came after the end."""
    body_bytes: int
    """Body bytes handed out so far, without framing."""
    trailers: RawHeaders

    def feed(self, data: bytes) -> bytes:
        """Return what of `data`, and of what was held before, may be handed on."""
        ...

    def end(self) -> bool:
        """Tell whether the body may end here, with its connection."""
        ...


class LengthFraming:
    """A body whose length was announced."""

    __slots__ = ("_left", "body_bytes", "broken", "done", "surplus", "trailers")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.broken = False
        self.surplus = False
        self.body_bytes = 0
        self.trailers: RawHeaders = ()

    def feed(self, data: bytes) -> bytes:
        size = len(data)
        if size >= self._left:
            self.done = True
            if size > self._left:
                self.surplus = True
                data = data[: self._left]
                size = self._left
        self._left -= size
        self.body_bytes += size
        return data

    def end(self) -> bool:
        return self.done


class CloseFraming:
    """A body that ends with its connection."""

    __slots__ = ("body_bytes", "broken", "done", "surplus", "trailers")

    def __init__(self) -> None:
        self.done = False
        self.broken = False
        self.surplus = False
        self.body_bytes = 0
        self.trailers: RawHeaders = ()

    def feed(self, data: bytes) -> bytes:
        self.body_bytes += len(data)
        return data

    def end(self) -> bool:
        self.done = True
        return True


class ChunkFraming:
    """A body in chunks; handed out as it is framed, or taken out of its frames.

    `max_trailer_bytes` bounds the trailer section.
    """

    __slots__ = (
        "_found",
        "_held",
        "_in_trailers",
        "_keep",
        "_left",
        "_trailer_room",
        "body_bytes",
        "broken",
        "done",
        "surplus",
        "trailers",
    )

    def __init__(self, *, keep: bool, max_trailer_bytes: int) -> None:
        self._keep = keep
        self._found: list[tuple[bytes, bytes]] = []
        self._held = b""
        self._left = 0
        """Bytes of the chunk under way, with the CRLF after it."""
        self._in_trailers = False
        self._trailer_room = max_trailer_bytes
        self.done = False
        self.broken = False
        self.surplus = False
        self.body_bytes = 0
        self.trailers: RawHeaders = ()

    def feed(self, data: bytes) -> bytes:
        if self._keep and self._is_one_chunk(data):
            return data
        if self.broken:
            return b""
        if self._held:
            data = self._held + data
            self._held = b""
        content: list[bytes] = []
        at, size = 0, len(data)
        while at < size and not self.done:
            came = self._step(data, at, content)
            if came == at:
                if not self.broken:
                    self._held = data[at:]
                break
            at = came
        if self.done and at < size:
            self.surplus = True
        if not self._keep:
            return b"".join(content)
        return data if at == size else data[:at]

    def end(self) -> bool:
        return self.done

    def _is_one_chunk(self, data: bytes) -> bool:
        """Count what is one whole chunk, as the pieces of a stream mostly are; else do nothing."""
        if self._left or self._held or self._in_trailers or self.broken:
            return False
        if data[-2:] != b"\r\n":
            return False
        found = _SIZE.match(data)
        if found is None:
            return False
        length = int(found[1], 16)
        begins = found.end()
        if not length or begins + length + 2 != len(data) or begins > _LINE_LIMIT:
            return False
        self.body_bytes += length
        return True

    def _step(self, data: bytes, at: int, content: list[bytes]) -> int:
        """Return where the next thing ends; `at` itself if it is not all there, or broken."""
        if self._left:
            return self._take(data, at, content)
        if self._in_trailers:
            return self._trailer(data, at)
        found = _SIZE.match(data, at)
        if found is None:
            self._await_line(data, at, _LINE_LIMIT)
            return at
        if found.end() - at > _LINE_LIMIT:
            self.broken = True
            return at
        length = int(found[1], 16)
        if length:
            self._left = length + 2
        else:
            self._in_trailers = True
        return found.end()

    def _take(self, data: bytes, at: int, content: list[bytes]) -> int:
        left = self._left
        here = min(len(data) - at, left)
        body = min(here, left - 2)
        self.body_bytes += body
        if not self._keep:
            content.append(data[at : at + body])
        self._left -= body
        if here < left:
            # A CR alone is held, until it is known to be half of a CRLF.
            return at + body
        if data[at + left - 2 : at + left] != b"\r\n":
            self.broken = True
            return at + body
        self._left = 0
        return at + left

    def _trailer(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self.trailers = tuple(self._found)
            self.done = True
            return at + 2
        found = _TRAILER.match(data, at)
        if found is None:
            self._await_line(data, at, self._trailer_room)
            return at
        self._trailer_room -= found.end() - at
        if self._trailer_room < 0:
            self.broken = True
            return at
        if not self._keep:
            self._found.append((found[1], found[2].rstrip(b" \t")))
        return found.end()

    def _await_line(self, data: bytes, at: int, limit: int) -> None:
        """Wait for the end of a line, unless it is there, or too far."""
        self.broken = data.find(b"\n", at) >= 0 or len(data) - at > limit


def framing_of(
    message: RawResponseMessage, *, method: str, keep_chunks: bool, max_trailer_bytes: int
) -> BodyFraming:
    """Return how the body after a final head is framed (RFC 9112, section 6.3).

    Raises:
        MalformedHeadError: if different readers would find different ends.
    """
    if method == "HEAD" or message.code in _BODILESS:
        return LengthFraming(0)
    headers = message.headers
    if TRANSFER_ENCODING in headers:
        # The parser has refused messages with both framings. Any other coding is overlooked by some
        # readers.
        if [value.strip().lower() for value in headers.getall(TRANSFER_ENCODING)] != ["chunked"]:
            raise MalformedHeadError("a transfer coding other than `chunked`")
        return ChunkFraming(keep=keep_chunks, max_trailer_bytes=max_trailer_bytes)
    # One at most, and digits only: the parser saw to that.
    length = headers.get(CONTENT_LENGTH)
    return CloseFraming() if length is None else LengthFraming(int(length))
