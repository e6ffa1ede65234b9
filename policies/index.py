"""Which rules are possible for a call, without asking each of them.

Most rules want some header, tag, path or name, and most calls have another. So
each rule is filed under one thing that it wants, and found by what a call has.
Values repeat from call to call, so what was found for one is remembered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from policies.conditions import SECRET_HEADERS, When
from policies.globs import Patterns
from policies.model import CallFacts

MEMO_SIZE: Final = 512
"""Values remembered of one key; the memory is dropped whole when it is full."""

MEMO_LENGTH: Final = 256
"""Longer values are not remembered: they rarely repeat, and would take room."""

# Nearly every call has these, and nearly every call has other values of the rest.
_COMMON: Final = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "host"}
    | {"user-agent", "x-stainless-lang"}
)

_Key = tuple[str, str]
"""What a rule is filed under: the name of a condition, and of the header or tag."""

_PATH: Final = ("path", "")
_UPSTREAM: Final = ("upstream", "")
_OWNER: Final = ("owner", "")
_CREDENTIAL: Final = ("credential", "")


class _File:
    """The rules that want one thing, by its value."""

    __slots__ = ("_memo", "_wanted")

    def __init__(self) -> None:
        self._wanted: list[tuple[int, Patterns]] = []
        self._memo: dict[str | bytes, tuple[int, ...]] = {}

    def add(self, rule: int, patterns: Patterns) -> None:
        self._wanted.append((rule, patterns))

    def rules(self, value: str | bytes) -> tuple[int, ...]:
        """Return the rules that may want this value, among others of the same thing."""
        found = self._memo.get(value)
        if found is None:
            text = value if isinstance(value, str) else value.decode("latin-1")
            found = tuple(rule for rule, patterns in self._wanted if patterns.matches(text))
            if len(value) <= MEMO_LENGTH:
                if len(self._memo) >= MEMO_SIZE:
                    self._memo.clear()
                self._memo[value] = found
        return found


@dataclass(frozen=True, slots=True)
class RuleIndex:
    """All rules of a set, each filed once. Made by `RuleIndex.of`."""

    _always: frozenset[int]
    """Rules that want nothing to file them under."""

    _headers: dict[bytes, _File]
    _tags: dict[str, _File]
    _others: dict[_Key, _File]

    @classmethod
    def of(cls, conditions: Sequence[When]) -> "RuleIndex":
        """File rules, in their order, by their conditions."""
        always: list[int] = []
        files: dict[_Key, _File] = {}
        for rule, when in enumerate(conditions):
            if (wanted := _most_telling(when)) is None:
                always.append(rule)
            else:
                key, patterns = wanted
                files.setdefault(key, _File()).add(rule, patterns)
        return cls(
            frozenset(always),
            {name.encode(): file for (kind, name), file in files.items() if kind == "headers"},
            {name: file for (kind, name), file in files.items() if kind == "tags"},
            {key: file for key, file in files.items() if key[0] not in {"headers", "tags"}},
        )

    def possible(self, facts: CallFacts) -> list[int]:
        """Return, in order, every rule that may match and few that do not."""
        found: set[int] = set()
        if self._headers:
            for raw_name, value in facts.headers:
                file = self._headers.get(raw_name.lower())
                if file is not None:
                    found.update(file.rules(value))
        if self._tags and facts.tags:
            for name, tag in facts.tags.items():
                file = self._tags.get(name)
                if file is not None:
                    found.update(file.rules(tag))
        for key, file in self._others.items():
            for text in _values(key, facts):
                found.update(file.rules(text))
        return sorted(found.union(self._always))


def _most_telling(when: When) -> tuple[_Key, Patterns] | None:
    """Return the condition that fewest calls can be expected to meet."""
    # A credential is nothing to remember.
    headers = [header for header in when.headers if header[0] not in SECRET_HEADERS]
    wanted: list[tuple[_Key, Patterns | None]] = [
        *((("headers", name), patterns) for name, patterns in headers if name not in _COMMON),
        *((("tags", name), patterns) for name, patterns in when.tags),
        (_PATH, when.path),
        *((("headers", name), patterns) for name, patterns in headers),
        (_UPSTREAM, when.upstream),
        # Last, since whose call it is costs a keyed hash.
        (_OWNER, when.owner),
        (_CREDENTIAL, when.credential),
    ]
    return next(((key, patterns) for key, patterns in wanted if patterns is not None), None)


def _values(key: _Key, facts: CallFacts) -> Sequence[str] | frozenset[str]:
    if key == _PATH:
        return (facts.path,)
    if key == _UPSTREAM:
        return (facts.upstream,)
    return facts.identity().owner if key == _OWNER else facts.identity().credential
