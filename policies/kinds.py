"""Kinds of values in a rule file: each reads a node, and describes itself to editors.

Reader and JSON Schema are made of the same parts, so they cannot say different
things. A reader raises `BadNodeError` with every complaint there is below it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from policies.tree import BadNodeError, Complaint, Node, Scalar, Sequence, bad, described
from policies.tree import Mapping as MappingNode

T = TypeVar("T")
U = TypeVar("U")

Schema = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A kind of value: how it is read, and what an editor should know of it."""

    read: Callable[[Node], T]
    schema: Schema

    def noted(self, description: str) -> "Kind[T]":
        """Return the same kind with a description for editors."""
        return Kind(self.read, {**self.schema, "description": description})

    def then(self, convert: Callable[[T], U]) -> "Kind[U]":
        """Return the kind whose values are converted; a `ValueError` becomes a complaint."""

        def read(node: Node) -> U:
            value = self.read(node)
            try:
                return convert(value)
            except ValueError as exc:
                raise BadNodeError(
                    [Complaint(node.mark, f"{described(node)} is refused: {exc}")]
                ) from None

        return Kind(read, self.schema)


def scalar(allowed: str, types: type | tuple[type, ...], schema: Schema) -> Kind[object]:
    """Return the kind of single values of these Python types; `bool` is never a number."""
    wanted = types if isinstance(types, tuple) else (types,)

    def read(node: Node) -> object:
        if isinstance(node, Scalar) and type(node.value) in wanted:
            return node.value
        raise bad(node, allowed)

    return Kind(read, schema)


def text(allowed: str = "a text", *, pattern: str | None = None, longest: int = 256) -> Kind[str]:
    """Return the kind of non-empty texts. `pattern` is for editors: the reader is `then`'s."""
    schema: dict[str, object] = {"type": "string", "minLength": 1, "maxLength": longest}
    if pattern is not None:
        schema["pattern"] = f"^(?:{pattern})$"

    def checked(value: object) -> str:
        assert isinstance(value, str)
        if not 1 <= len(value) <= longest:
            raise ValueError(f"it must have 1 to {longest} characters")
        return value

    return scalar(allowed, str, schema).then(checked)


def word(*words: str) -> Kind[str]:
    """Return the kind of a fixed set of words."""
    allowed = ", ".join(words)

    def checked(value: object) -> str:
        if value not in words:
            raise ValueError(f"allowed: {allowed}")
        return str(value)

    return scalar(f"one of {allowed}", str, {"enum": list(words)}).then(checked)


def one_or_many(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    """Return the kind of one value, or a list of at least one."""
    many = list_of(kind, least=1)

    def read(node: Node) -> tuple[T, ...]:
        return many.read(node) if isinstance(node, Sequence) else (kind.read(node),)

    return Kind(read, {"anyOf": [kind.schema, many.schema]})


def list_of(kind: Kind[T], *, least: int = 0) -> Kind[tuple[T, ...]]:
    """Return the kind of lists."""

    def read(node: Node) -> tuple[T, ...]:
        if not isinstance(node, Sequence):
            raise bad(node, "a list")
        if len(node.items) < least:
            raise BadNodeError([Complaint(node.mark, "the list is empty")])
        return tuple(_read_all([(item, kind) for item in node.items]))

    return Kind(read, {"type": "array", "items": kind.schema, "minItems": least})


def dict_of(name: Callable[[str], str], kind: Kind[T], *, allowed: str) -> Kind[dict[str, T]]:
    """Return the kind of mappings with free names, which `name` checks and returns."""

    def read(node: Node) -> dict[str, T]:
        if not isinstance(node, MappingNode):
            raise bad(node, allowed)
        names = _read_all(
            [(key, Kind(lambda key: _name(key, name, allowed), {})) for key, _ in node.entries]
        )
        if len(set(names)) < len(names):
            raise BadNodeError([Complaint(node.mark, "two of these names mean the same")])
        values = _read_all([(value, kind) for _, value in node.entries])
        return dict(zip(names, values, strict=True))

    return Kind(read, {"type": "object", "additionalProperties": kind.schema})


def _name(key: Node, check: Callable[[str], str], allowed: str) -> str:
    assert isinstance(key, Scalar)
    try:
        return check(key.text)
    except ValueError as exc:
        message = f"the name {described(key)} is refused: {exc} (this is {allowed})"
        raise BadNodeError([Complaint(key.mark, message)]) from None


@dataclass(frozen=True, slots=True)
class Record(Generic[T]):
    """A mapping with known keys, and what is made of it."""

    fields: Mapping[str, Kind[Any]]
    build: Callable[[Mapping[str, Any], Node], T]
    required: tuple[str, ...] = ()
    least: int = field(default=0)
    """How many keys there must be."""

    def kind(self) -> Kind[T]:
        """Return the kind of these mappings."""
        schema: dict[str, object] = {
            "type": "object",
            "properties": {name: kind.schema for name, kind in self.fields.items()},
            "additionalProperties": False,
        }
        if self.required:
            schema["required"] = list(self.required)
        if self.least:
            schema["minProperties"] = self.least
        return Kind(self._read, schema)

    def _read(self, node: Node) -> T:
        allowed = ", ".join(self.fields)
        if not isinstance(node, MappingNode):
            raise bad(node, f"a mapping with any of {allowed}")
        complaints = [self._unknown(key) for key, _ in node.entries if key.text not in self.fields]
        known = {key.text: value for key, value in node.entries if key.text in self.fields}
        missing = [name for name in self.required if name not in known]
        complaints += [Complaint(node.mark, f"{name!r} is missing here") for name in missing]
        if not complaints and len(known) < self.least:
            complaints = [Complaint(node.mark, f"at least one is needed here of {allowed}")]
        values: dict[str, object] = {}
        for name, value in known.items():
            try:
                values[name] = self.fields[name].read(value)
            except BadNodeError as exc:
                complaints += exc.complaints
        if complaints:
            raise BadNodeError(complaints)
        return self.build(values, node)

    def _unknown(self, key: Scalar) -> Complaint:
        close = get_close_matches(key.text[:60], self.fields, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        allowed = ", ".join(self.fields)
        return Complaint(key.mark, f"unknown key {described(key)}{hint}; allowed: {allowed}")


def _read_all(pairs: list[tuple[Node, Kind[T]]]) -> list[T]:
    values: list[T] = []
    complaints: list[Complaint] = []
    for node, kind in pairs:
        try:
            values.append(kind.read(node))
        except BadNodeError as exc:
            complaints += exc.complaints
    if complaints:
        raise BadNodeError(complaints)
    return values
