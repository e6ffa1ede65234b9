"""Commands as bytes, and calls of a script that serve many at once."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

Argument: TypeAlias = str | bytes | int


class Part(NamedTuple):
    """What a script is called with; if it serves many at once, for one of them."""

    script: bytes
    """How it is called: a command and what tells the script, packed."""

    slot: int
    keys: bytes
    """Packed, as many as `key_count` says; as the arguments, of which there are the rest."""

    key_count: int
    arguments: bytes
    argument_count: int

    @property
    def size(self) -> int:
        """About how many bytes it adds to a call."""
        return len(self.keys) + len(self.arguments)


def pack(arguments: Sequence[Argument]) -> bytes:
    """Return a command in Redis' protocol (RESP, "Sending commands to a Redis server")."""
    return b"*%d\r\n%b" % (len(arguments), pack_some(arguments))


def pack_some(arguments: Sequence[Argument]) -> bytes:
    """Return arguments of a command that has others, too."""
    parts = []
    for argument in arguments:
        if isinstance(argument, str):
            # Callers' texts may hold lone surrogates.
            part = argument.encode("utf-8", "surrogatepass")
        else:
            part = argument if isinstance(argument, bytes) else b"%d" % argument
        parts.append(b"$%d\r\n%b\r\n" % (len(part), part))
    return b"".join(parts)


def join(parts: Sequence[Part]) -> bytes:
    """Return one call of the script for all of them: all their keys, then all arguments."""
    keys = sum([part.key_count for part in parts])
    number = b"%d" % keys
    return b"".join(
        [
            b"*%d\r\n" % (3 + keys + sum([part.argument_count for part in parts])),
            parts[0].script,
            b"$%d\r\n%b\r\n" % (len(number), number),
            *[part.keys for part in parts],
            *[part.arguments for part in parts],
        ]
    )
