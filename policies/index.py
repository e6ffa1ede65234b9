"""Which rules are possible for a call, without asking each of them.

Most rules want some header, tag, path or name, and most calls have another. So
each rule is filed under one thing that it wants, and found by what a call has.
Once a body is read the same is done with its fields. Values repeat from call to
call, so what was found for one is remembered.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from policies.conditions import SECRET_HEADERS, Values, When
from policies.globs import Patterns
from policies.matchers import field_at
from policies.model import CallFacts, RawHeaders

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

    def __bool__(self) -> bool:
        return bool(self._wanted)

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

    _always: tuple[int, ...]
    """Rules that want nothing to file them under, in order."""

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
            tuple(always),
            {name.encode(): file for (kind, name), file in files.items() if kind == "headers"},
            {name: file for (kind, name), file in files.items() if kind == "tags"},
            {key: file for key, file in files.items() if key[0] not in {"headers", "tags"}},
        )

    def concerns(
        self, *, headers: RawHeaders, tags: Mapping[str, str], path: str, upstream: str
    ) -> bool:
        """Return whether `possible` could find any rule, before facts are gathered.

        Never asks whose call it is: a rule that needs to know may be possible.
        """
        if self._always:
            return True
        if self._headers:
            for raw_name, value in headers:
                file = self._headers.get(raw_name.lower())
                if file is not None and file.rules(value):
                    return True
        for name, tag in tags.items():
            if name in self._tags and self._tags[name].rules(tag):
                return True
        known = {_PATH: path, _UPSTREAM: upstream}
        return any(key not in known or file.rules(known[key]) for key, file in self._others.items())

    def possible(self, facts: CallFacts) -> Sequence[int]:
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
        return sorted(found.union(self._always)) if found else self._always


class _FieldFile:
    """The rules that want one field of the body, by its value."""

    __slots__ = ("_memo", "_steps", "_wanted")

    def __init__(self, path: str) -> None:
        self._steps = path.split(".")
        self._wanted: list[tuple[int, Values]] = []
        self._memo: dict[tuple[type, object], tuple[int, ...]] = {}

    def add(self, rule: int, values: Values) -> None:
        self._wanted.append((rule, values))

    def rules(self, facts: CallFacts) -> tuple[int, ...]:
        """Return the rules that want the value which this call has there."""
        value = field_at(facts.body(), self._steps)
        if value is None:
            return ()
        if not isinstance(value, str | bool | int | float):
            return self._matching(value)
        # The kind is part of the key: to Python `True` and `1` are one.
        key = (type(value), value)
        found = self._memo.get(key)
        if found is None:
            found = self._matching(value)
            if not isinstance(value, str) or len(value) <= MEMO_LENGTH:
                if len(self._memo) >= MEMO_SIZE:
                    self._memo.clear()
                self._memo[key] = found
        return found

    def _matching(self, value: object) -> tuple[int, ...]:
        return tuple(rule for rule, values in self._wanted if values.match(value))


@dataclass(frozen=True, slots=True)
class ContentIndex:
    """The rules on fields of the body, each filed under one. Made by `ContentIndex.of`."""

    _unfiled: frozenset[int]
    _fields: tuple[_FieldFile, ...]
    _models: _File | None

    @classmethod
    def of(cls, conditions: Sequence[When]) -> "ContentIndex":
        """File rules, in their order, by what they want of the body."""
        unfiled: set[int] = set()
        fields: dict[str, _FieldFile] = {}
        models = _File()
        for rule, when in enumerate(conditions):
            if when.body:
                path, values = when.body[0]
                fields.setdefault(path, _FieldFile(path)).add(rule, values)
            elif when.model is not None:
                models.add(rule, when.model)
            else:
                unfiled.add(rule)
        return cls(frozenset(unfiled), tuple(fields.values()), models or None)

    def possible(self, facts: CallFacts) -> Collection[int]:
        """Return every rule that may match and few that do not; reads the body."""
        found = set(self._unfiled)
        for file in self._fields:
            found.update(file.rules(facts))
        if self._models is not None and (model := facts.model()) is not None:
            found.update(self._models.rules(model))
        return found


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
