"""Commands as bytes, and calls of a script that serve many at once."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

Argument: TypeAlias = str | bytes | int


class Packed(NamedTuple):
    """Some of a command's arguments, in Redis' protocol."""

    number: int
    content: bytes

    def then(self, other: "Packed") -> "Packed":
        """Return these arguments and behind them the others."""
        return Packed(self.number + other.number, self.content + other.content)


class Part(NamedTuple):
    """What a script is called with; if it serves many at once, for one of them."""

    script: bytes
    """How it is called: a command and what tells the script, packed."""

    slot: int
    keys: Packed
    arguments: Packed

    @property
    def size(self) -> int:
        """About how many bytes it adds to a call."""
        return len(self.keys.content) + len(self.arguments.content)


def pack(arguments: Iterable[Argument]) -> bytes:
    """Return a command in Redis' protocol (RESP, "Sending commands to a Redis server")."""
    return b"*%d\r\n%b" % pack_some(arguments)


def pack_some(arguments: Iterable[Argument]) -> Packed:
    """Return arguments of a command that has others, too."""
    parts: list[bytes] = []
    for argument in arguments:
        if isinstance(argument, bytes):
            part = argument
        else:
            # Callers' texts may hold lone surrogates.
            part = str(argument).encode("utf-8", "surrogatepass")
        size = len(part)
        parts += (_SIZES[size] if size < _SMALL else b"$%d\r\n" % size, part, b"\r\n")
    return Packed(len(parts) // 3, b"".join(parts))


_SMALL: Final = 512
_SIZES: Final = tuple(b"$%d\r\n" % size for size in range(_SMALL))
"""Ready-made: formatting them is half of what packing costs."""


def join(parts: Sequence[Part]) -> bytes:
    """Return one call of the script for all of them: all their keys, then all arguments."""
    keys = sum([part.keys.number for part in parts])
    number = b"%d" % keys
    return b"".join(
        [
            b"*%d\r\n" % (3 + keys + sum([part.arguments.number for part in parts])),
            parts[0].script,
            b"$%d\r\n%b\r\n" % (len(number), number),
            *[part.keys.content for part in parts],
            *[part.arguments.content for part in parts],
        ]
    )
