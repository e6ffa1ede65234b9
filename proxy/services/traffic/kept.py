"""What is kept of an answer that passes by, to read its usage when it is over.

From a plain answer the first and last few kilobytes: usage stands at the end, and in Anthropic's
streams at the beginning, too. A compressed one can only be read whole, so it is kept up to a bound,
beyond which its usage is unknown. Nothing here looks at an answer while it is under way; `usage_in`
is for a thread, after its end.
"""

import json
import re
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import zstandard

from proxy.core.usage import tier_of, usage_of

HEAD_BYTES: Final = 4 << 10
TAIL_BYTES: Final = 16 << 10
COMPRESSED_BYTES: Final = 512 << 10
"""How much of a compressed answer is kept: some megabytes of text."""

PLAIN_BYTES: Final = 8 << 20
"""What is unpacked of a compressed one, at most: its length is the sender's to choose."""

ALL_BYTES: Final = 32 << 20
"""For all answers that are under way together; what would exceed it is not kept."""

_TYPES: Final = ("application/json", "text/event-stream")
_ENCODINGS: Final = frozenset({"", "identity", "gzip", "deflate", "zstd"})


class Room:
    """How much all that is kept may take."""

    def __init__(self, most: int = ALL_BYTES) -> None:
        self._left = most

    def take(self, size: int) -> bool:
        """Take so much, if there is as much."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self._left += size


class Kept:
    """The kept parts of one answer. `add` is called with each piece, as it passes."""

    __slots__ = (
        "_dropped",
        "_head_max",
        "_room",
        "encoding",
        "framed",
        "head",
        "is_whole",
        "tail",
        "taken",
    )

    def __init__(self, *, encoding: str, framed: bool, room: Room) -> None:
        self.encoding = encoding
        self.framed = framed
        self.head = bytearray()
        self.tail = bytearray()
        self.is_whole = True
        """Whether nothing is left out between head and tail."""

        self.taken = 0
        """Bytes of the room that it takes, until `give_back`."""

        self._room = room
        self._dropped = False
        self._head_max = COMPRESSED_BYTES if encoding else HEAD_BYTES

    def add(self, data: bytes) -> None:
        """Keep what is to be kept of the next piece. Never fails."""
        free = self._head_max - len(self.head)
        if self._dropped:
            return
        if free > 0:
            part = data[:free]
            if not self._take(len(part)):
                return
            self.head += part
            data = data[free:]
        if not data:
            return
        if self.encoding:
            self._drop()
        elif self._take(min(len(data), TAIL_BYTES)):
            self.tail += data[-TAIL_BYTES:]
            self.is_whole = self.is_whole and len(data) <= TAIL_BYTES
            if len(self.tail) > 2 * TAIL_BYTES:
                self._give(len(self.tail) - TAIL_BYTES)
                del self.tail[:-TAIL_BYTES]
                self.is_whole = False

    def give_back(self) -> None:
        """Give the room back: from here on the queue counts it."""
        self._give(self.taken)

    def _take(self, size: int) -> bool:
        if self._room.take(size):
            self.taken += size
            return True
        self._drop()
        return False

    def _give(self, size: int) -> None:
        self._room.give(size)
        self.taken -= size

    def _drop(self) -> None:
        """Keep nothing: a part of it would say nothing."""
        self._give(self.taken)
        self.head.clear()
        self.tail.clear()
        self.is_whole = False
        self._dropped = True


@dataclass(frozen=True, slots=True)
class Bought:
    """What an answer says of itself: token counts and the tier."""

    usage: Mapping[str, int] | None = None
    tier: str | None = None


def kept_for(headers: Mapping[str, str], *, framed: bool, room: Room) -> Kept | None:
    """Return where to keep an answer with these fields; nothing if it cannot be read anyway."""
    if not headers.get("content-type", "").lower().startswith(_TYPES):
        return None
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        return None
    return Kept(encoding="" if encoding == "identity" else encoding, framed=framed, room=room)


def usage_in(kept: Kept) -> Bought:
    """Return the usage of an answer, as far as the kept parts tell."""
    head, tail = bytes(kept.head), bytes(kept.tail)
    try:
        if kept.encoding:
            data = _unpacked(_unframed(head) if kept.framed else head, kept.encoding)
        else:
            data = head + tail if kept.is_whole else head + b"\n" + tail
            data = _SEAM.sub(b"", data) if kept.framed else data
    except (ValueError, zlib.error, zstandard.ZstdError):
        return Bought()
    return _bought(data.decode("utf-8", "replace"))


_SEAM: Final = re.compile(rb"(?:^|\r\n)[0-9A-Fa-f]{1,8}\r\n")
"""What stands between two chunks. Neither JSON nor an event has a line of digits alone."""


def _bought(text: str) -> Bought:
    """Merge what all parts of an answer say: of a stream, later ones add to earlier ones."""
    usage: dict[str, Any] = {}
    name = ""
    for name, part in _members(text):  # noqa: B007 - the last name is used below
        # A null says nothing: Anthropic's and others' later events leave out what stands.
        usage |= {key: value for key, value in part.items() if value is not None}
    counts = usage_of({name: usage}) if usage else None
    tiers = deque(_TIER.finditer(text), 1)
    return Bought(counts, tiers[0][1][:32] if tiers else tier_of({name: usage}))


_USAGE: Final = re.compile(r'"(usage|usageMetadata)"\s*:\s*(?=\{)')
# Within a text that a model wrote, quotes are escaped: there it cannot be found.
_TIER: Final = re.compile(r'"service_tier"\s*:\s*"([a-z_]+)"')
_DECODER: Final = json.JSONDecoder()
_ENDS_READ: Final = 50

_USAGE_CHARS: Final = 16 << 10
"""What is read of each: no provider's has a thousand, and what follows may be megabytes."""


def _members(text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # The first and the last are enough; reading thousands that are nested takes long.
    found = _USAGE.finditer(text)
    for one in (*islice(found, _ENDS_READ), *deque(found, _ENDS_READ)):
        begun = text[one.end() : one.end() + _USAGE_CHARS]
        try:
            value, _ = _DECODER.raw_decode(begun)
        except (ValueError, RecursionError):
            continue
        yield one[1], value


def _unpacked(data: bytes, encoding: str) -> bytes:
    """Return what was compressed, up to a bound.

    Raises:
        ValueError, zlib.error, ZstdError: if it is not whole or nothing of the kind.
    """
    match encoding:
        case "zstd":
            reader = zstandard.ZstdDecompressor().stream_reader(data)
            return reader.read(PLAIN_BYTES)
        case "gzip":
            return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, PLAIN_BYTES)
    # RFC 9110, section 8.4.1.2: some send it without the wrapper of zlib.
    try:
        return zlib.decompressobj().decompress(data, PLAIN_BYTES)
    except zlib.error:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, PLAIN_BYTES)


def _unframed(data: bytes) -> bytes:
    """Return what stands in chunks (RFC 9112, section 7.1), less their extensions and trailers.

    Raises:
        ValueError: if a chunk has no size.
    """
    parts, at = [], 0
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:end].partition(b";")[0], 16)
        if size == 0:
            break
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(parts)
