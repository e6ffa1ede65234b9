"""What can be asked of Redis: plain commands, and scripts known by their hash."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, Final, NamedTuple

from redis.crc import key_slot

from proxy.stores.redis.packing import Argument, Part, join, pack, pack_some
from proxy.stores.redis.replies import Answer

SLOTS: Final = 16_384


class Command(NamedTuple):
    """One command, ready to be sent to the node that has `slot`."""

    slot: int
    content: bytes | Part
    writes: bool = False
    script: "Script | None" = None

    @property
    def packed(self) -> bytes:
        """The command for itself, as it is sent."""
        return join([self.content]) if isinstance(self.content, Part) else self.content

    @property
    def part(self) -> Part | None:
        """What it is of a call that it may share with others."""
        if self.script is None or not self.script.serves_many:
            return None
        assert isinstance(self.content, Part)
        return self.content

    def own(self, answer: Answer) -> Answer:
        """Return what is the command's own of the answer that it got alone."""
        return answer[0] if self.part is not None and isinstance(answer, list) else answer

    def in_full(self) -> "Command":
        """Return the same with the script's source, for a node that does not know it yet."""
        assert self.script is not None
        assert isinstance(self.content, Part)
        script = pack_some(("EVAL", self.script.source))
        return self._replace(content=self.content._replace(script=script))


_CALLS: Final = re.compile(r"redis\.call\('([A-Z]+)'")


class Script:
    """A Lua script. All its keys are declared and share a slot.

    One that `serves_many` may be called for many at once, with the keys of all and the
    arguments of all. It answers nothing if it has nothing to say to any of them, else a
    list, with an error for each that failed: none may fail for what another one did.
    """

    called: ClassVar[set[str]] = set()
    """The commands that any script calls, for which the user of Redis needs the right."""

    def __init__(self, source: str, *, writes: bool = True, serves_many: bool = False) -> None:
        self.source = source
        self.called.update(_CALLS.findall(source))
        self.serves_many = serves_many
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        self._by_hash = pack_some(("EVALSHA", sha))
        self._writes = writes

    def call(self, keys: Sequence[str], *arguments: Argument) -> Command:
        """Return the command that runs it."""
        return self.call_packed(
            slot_of(keys[0]), pack_some(keys), len(keys), pack_some(arguments), len(arguments)
        )

    def call_packed(
        self, slot: int, keys: bytes, key_count: int, arguments: bytes, argument_count: int
    ) -> Command:
        """Return the command that runs it, of what was packed already."""
        part = Part(self._by_hash, slot, keys, key_count, arguments, argument_count)
        return Command(slot, part, self._writes, self)


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
