"""What can be asked of Redis: plain commands, and scripts known by their hash."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from redis.crc import key_slot

from proxy.stores.redis.wire import Argument, pack

SLOTS: Final = 16_384


@dataclass(frozen=True, slots=True)
class Command:
    """One command, ready to be sent to the node that has `slot`."""

    slot: int
    packed: bytes
    writes: bool = False


class Script:
    """A Lua script. All its keys are declared and share a slot."""

    def __init__(self, source: str, *, writes: bool = True) -> None:
        self.source = source
        self._sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        self._writes = writes

    def call(self, keys: Sequence[str], *arguments: Argument) -> "ScriptCall":
        """Return the command that runs it."""
        return ScriptCall(
            slot=slot_of(keys[0]),
            packed=pack(("EVALSHA", self._sha, len(keys), *keys, *arguments)),
            writes=self._writes,
            script=self,
            keys=keys,
            arguments=arguments,
        )


@dataclass(frozen=True, slots=True)
class ScriptCall(Command):
    """A script with its keys and arguments."""

    script: Script | None = None
    keys: Sequence[str] = field(default=(), repr=False)
    arguments: Sequence[Argument] = field(default=(), repr=False)

    def in_full(self) -> Command:
        """Return the same with the script's source, for a node that does not know it yet."""
        assert self.script is not None
        packed = pack(("EVAL", self.script.source, len(self.keys), *self.keys, *self.arguments))
        return Command(self.slot, packed, self.writes)


def read(name: str, key: str, *arguments: Argument) -> Command:
    """Return a command that only reads `key`."""
    return Command(slot_of(key), pack((name, key, *arguments)))


def write(name: str, key: str, *arguments: Argument) -> Command:
    """Return a command that changes `key`."""
    return Command(slot_of(key), pack((name, key, *arguments)), writes=True)


def slot_of(key: str) -> int:
    """Return the slot of a key: all of ours have their tag in braces."""
    return _slot_of_tag(key[key.index("{") + 1 : key.index("}")])


@lru_cache(maxsize=256)
def _slot_of_tag(tag: str) -> int:
    return int(key_slot(tag.encode()))
