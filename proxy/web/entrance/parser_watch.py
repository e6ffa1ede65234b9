"""What aiohttp's parser makes of what it is given, on one connection, as seen from outside.

It bounds how many fields a head may have and how long one may be, which lets a head grow to
16 MB, and trailers likewise. Whoever reads a body is not told that the parser gave it up. And
it forgets what comes behind a call that asks for a protocol which it does not know.
"""

from enum import Enum, auto
from typing import Final

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

_HEAD_ENDS: Final = b"\r\n\r\n"
_CHUNKS_END: Final = b"\r\n0\r\n\r\n"
"""As mostly written: without extensions, and without trailers."""

Message = tuple[object, StreamReader]
"""A head, or why there is none, and the body that follows."""


class Finding(Enum):
    """What is to be done about the connection."""

    FINE = auto()
    """Nothing."""
    TOO_LONG = auto()
    """End it: a head, or trailers, that are too long already."""
    MALFORMED = auto()
    """Answer what is being served, and nothing else: its body can be read no further."""
    FORGOTTEN = auto()
    """Answer what came, and end it: of what may have come behind that nothing is known."""


class ParserWatch:
    """Follows what goes into the parser, and what comes out."""

    __slots__ = ("_body", "_chunked", "_held", "_latest", "_max_held", "_switches", "_taken")

    def __init__(self, max_held_bytes: int) -> None:
        """`max_held_bytes` bounds what goes in and does not come out, be it as head or body."""
        self._max_held = max_held_bytes
        self._held = 0
        self._body: StreamReader = EMPTY_PAYLOAD
        self._taken = 0
        self._switches = False
        self._chunked = False
        self._latest = b""
        """The last bytes that came with a call that asks for another protocol."""

    def before(self, body: StreamReader | None) -> None:
        """Prepare to give it more; `body` is that of the newest call, if that is served."""
        if body is not None:
            self._body = body
        self._taken = self._body.total_bytes

    def after(self, data: bytes, came: int, newest: Message | None, *, kept: bool) -> Finding:
        """Return what became of `data`; so many calls `came`, of which one is the newest.

        `kept` says that aiohttp itself keeps what follows a call, for another protocol.
        """
        begins = 0
        if came and newest is not None:
            before, self._body = self._body, newest[1]
            self._taken = 0
            if not isinstance(newest[0], RawRequestMessage):
                return self._end(before)
            self._switches, self._chunked = newest[0].upgrade, newest[0].chunked
            begins = data.find(_HEAD_ENDS) + len(_HEAD_ENDS) if came == 1 else -1
        grown = self._body.total_bytes - self._taken
        self._held = 0 if came or grown or kept else self._held + len(data)
        if self._switches:
            self._latest = (self._latest + data)[-len(_CHUNKS_END) :]
        if self._body.is_eof():
            # What is not read yet must not pile up here for a caller that may not be served any
            # more.
            self._body = EMPTY_PAYLOAD
            switches, self._switches = self._switches, False
            ended = self._latest == _CHUNKS_END if self._chunked else begins + grown == len(data)
            if switches and not kept and not ended:
                return Finding.FORGOTTEN
        return Finding.TOO_LONG if self._held > self._max_held else Finding.FINE

    def _end(self, body: StreamReader) -> Finding:
        if body.is_eof():
            return Finding.FINE
        # First: what ends without it is whole.
        body.set_exception(web.RequestPayloadError("it is no valid HTTP"))
        body.feed_eof()
        return Finding.MALFORMED
