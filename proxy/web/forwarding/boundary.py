"""Where on a connection the next head begins, as long as that is certain. Pure: it only counts.

A parser keeps to itself what it holds of a head that is not whole. Whoever wants to know
whether the next byte begins one must have counted along, by the one framing that leaves
no doubt: bodies with a `Content-Length`, or none.
"""

import re
from typing import Final

from proxy.core.fields import LENGTH_DIGITS_MAX

_FRAMING: Final = re.compile(
    rb"\r\n(?:content-length:[ \t]*([0-9]{1,%d})[ \t]*(?=\r\n)"
    rb"|(?:content-length|transfer-encoding)\b)" % LENGTH_DIGITS_MAX,
    re.IGNORECASE,
)


class Boundary:
    """Follows what a parser is given, on one connection, from its first byte on."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left: int | None = 0
        """Bytes that belong to the call under way; nothing once that is unknown."""

    @property
    def is_plain(self) -> bool:
        """Whether it is certain that the next byte begins a head."""
        return self._left == 0

    def follow(self, data: bytes) -> None:
        """Count what the parser is given. What is not plain once stays so."""
        if self._left == 0 and data:
            self._left = _size_of_call(data)
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                # The head of another call follows, or a part of one.
                self._left = None


def _size_of_call(data: bytes) -> int | None:
    """Return the size of the call that begins here, head and body, if that is plain."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    lengths = _FRAMING.findall(data, 0, end + 2)
    if not lengths:
        return end + 4
    # `Transfer-Encoding`, an odd length or two lengths are for the parser to judge.
    return end + 4 + int(lengths[0]) if len(lengths) == 1 and lengths[0] else None
