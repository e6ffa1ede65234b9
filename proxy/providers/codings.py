"""Undoing the compression of an answer that was asked for without any.

Most servers keep to `accept-encoding: identity`; what stands before one may compress all the
same (RFC 9110, section 12.5.3, lets it).
"""

import zlib
from collections.abc import Iterator
from typing import Final

from proxy.providers import _wire

PIECE_BYTES: Final = 256 * 1024
"""The most that comes out at a time, however little went in."""

# Told apart by zlib itself: gzip, and the format that HTTP calls `deflate`.
_EITHER: Final = zlib.MAX_WBITS | 32
_NAMES: Final = frozenset({"gzip", "x-gzip", "deflate"})


class Decoder:
    """Undoes the coding of one answer, which `what` names in errors.

    Raises:
        ProviderUnavailableError: if the coding is another than gzip or deflate, or is broken.
    """

    def __init__(self, what: str, coding: str | None) -> None:
        self._what = what
        name = (coding or "identity").strip().lower()
        if name not in _NAMES | {"identity"}:
            raise _wire.unavailable(what, "the answer is compressed in a way not asked for")
        self._is_coded = name != "identity"
        self._stream = zlib.decompressobj(_EITHER)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` goes on with; nothing that is empty."""
        if not self._is_coded:
            yield data
            return
        while data or not self._stream.eof:
            if self._stream.eof:
                # A gzip file may have several members.
                self._stream = zlib.decompressobj(_EITHER)
            try:
                piece = self._stream.decompress(data, PIECE_BYTES)
            except zlib.error:
                raise _wire.unavailable(self._what, "the answer's compression is broken") from None
            data = self._stream.unconsumed_tail or self._stream.unused_data
            if piece:
                yield piece
            if not data and len(piece) < PIECE_BYTES:
                # Otherwise more may come out though nothing is left to go in.
                return
