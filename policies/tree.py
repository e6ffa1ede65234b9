"""A document as a tree that knows where everything stands, and complaints about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Mark(NamedTuple):
    """A place in a document; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value."""

    value: str | int | float | bool | None
    text: str
    """As it is written, without quotes."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple["Node", ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys and values in the order of the document; no key twice."""

    entries: tuple[tuple[Scalar, "Node"], ...]
    mark: Mark


Node = Scalar | Sequence | Mapping


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong at one place, and what would do."""

    mark: Mark
    message: str


class BadNodeError(ValueError):
    """Parts of a document cannot be read: all complaints about them at once."""

    def __init__(self, complaints: Iterable[Complaint]) -> None:
        self.complaints = tuple(complaints)
        super().__init__("; ".join(complaint.message for complaint in self.complaints))


def bad(node: Node, allowed: str) -> BadNodeError:
    """Return the error that a node is not what is allowed in its place."""
    return BadNodeError([Complaint(node.mark, f"{described(node)} is not {allowed}")])


def described(node: Node) -> str:
    """Return a node in a few words for a complaint."""
    match node:
        case Scalar(value=None):
            return "nothing"
        case Scalar(text=text):
            return repr(text if len(text) <= 60 else f"{text[:60]}…")
        case Sequence():
            return "a list"
    return "a mapping"


def plain(node: Node) -> object:
    """Return the data of a tree, as `json.loads` would."""
    match node:
        case Scalar(value=value):
            return value
        case Sequence(items=items):
            return [plain(item) for item in items]
    return {key.text: plain(value) for key, value in node.entries}
