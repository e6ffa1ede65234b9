"""Rule files: YAML text in, rules out, or every complaint at once with its place.

The text may come from anybody. Its size, its depth and what aliases make of it
are bounded, no tag constructs anything, and no key may stand twice. Reading the
file is the caller's: nothing here touches the disk.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)
from ruamel.yaml.reader import ReaderError

from policies.cases import CALL, CASES, Call, Case
from policies.grammar import RULES
from policies.kinds import Record
from policies.rules import RuleSet
from policies.tree import BadNodeError, Complaint, Mapping, Mark, Node, Scalar, Sequence

MAX_CHARACTERS: Final = 256 * 1024
MAX_DEPTH: Final = 24
MAX_NODES: Final = 20_000
"""In the whole tree, with every alias counted as what it stands for."""

# The scalars of YAML 1.2 (core schema, section 10.3.2), less octal and hex.
_INTEGER: Final = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT: Final = re.compile(
    r"[-+]?(?:\.[0-9]{1,30}|[0-9]{1,30}(?:\.[0-9]{0,30})?)(?:[eE][-+]?[0-9]{1,3})?"
)
_WORDS: Final = {
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    "null": None, "Null": None, "NULL": None, "~": None, "": None,
}  # fmt: skip


class PolicyError(ValueError):
    """A rule file cannot be used; the message has one line per complaint, with its place."""

    def __init__(self, name: str, complaints: tuple[Complaint, ...]) -> None:
        self.name = name
        self.complaints = complaints
        ordered = sorted(complaints, key=lambda complaint: complaint.mark)
        super().__init__(
            "\n".join(f"{name}:{c.mark.line}:{c.mark.column}: {c.message}" for c in ordered)
        )


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """What stands in a rule file."""

    rules: RuleSet
    cases: tuple[Case, ...] = ()


FILE: Final = Record(
    {
        "rules": RULES.noted("In order: the first that matches decides."),
        "tests": CASES.noted("Calls, and what is expected of the rules."),
    },
    lambda values, _: PolicyFile(RuleSet(values.get("rules", ())), values.get("tests", ())),
    least=1,
).kind()


def load_policies(text: str, name: str) -> PolicyFile:
    """Return what a rule file says; `name` is how complaints call it.

    Raises:
        PolicyError: with everything that is wrong with it.
    """
    try:
        return FILE.read(parse_yaml(text))
    except BadNodeError as exc:
        raise PolicyError(name, exc.complaints) from None


def load_call(text: str, name: str) -> Call:
    """Return the call that a JSON or YAML text describes, e.g. to explain its decision.

    Raises:
        PolicyError: with everything that is wrong with it.
    """
    try:
        node = parse_yaml(text)
    except BadNodeError as exc:
        raise PolicyError(name, _not_json(text) or exc.complaints) from None
    try:
        return CALL.read(node)
    except BadNodeError as exc:
        raise PolicyError(name, exc.complaints) from None


def _not_json(text: str) -> tuple[Complaint, ...]:
    """Return what is wrong with a text that begins as JSON, in JSON's own words."""
    if not text.lstrip().startswith("{"):
        return ()
    try:
        json.loads(text)
    except json.JSONDecodeError as exc:
        return (Complaint(Mark(exc.lineno, exc.colno), f"not JSON: {exc.msg}"),)
    except (RecursionError, ValueError):
        # It goes beyond the bounds, which are told of already.
        pass
    return ()


def policy_schema() -> dict[str, object]:
    """Return the JSON Schema of rule files, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Offramp policies",
        **FILE.schema,
    }


def parse_yaml(text: str) -> Node:
    """Return the one document that `text` is.

    Raises:
        BadNodeError: if it is not YAML, or more than the bounds allow.
    """
    if len(text) > MAX_CHARACTERS:
        raise _stop(_START, f"the file has more than {MAX_CHARACTERS} characters")
    events = _Events(text)
    try:
        return _Reader(events).document()
    except ReaderError as exc:
        before = text[: exc.position]
        mark = Mark(before.count("\n") + 1, exc.position - before.rfind("\n"))
        raise _stop(mark, "a character that YAML does not allow") from exc
    except MarkedYAMLError as exc:
        at = exc.problem_mark or exc.context_mark
        mark = events.mark if at is None else Mark(at.line + 1, at.column + 1)
        lines = text.splitlines()
        line = lines[mark.line - 1].strip() if mark.line <= len(lines) else ""
        problem = exc.problem or exc.context
        raise _stop(mark, f"not YAML: {problem}, in {line[:60]!r}; {_QUOTE}") from exc
    except (YAMLError, ArithmeticError, ValueError) as exc:
        if isinstance(exc, BadNodeError):
            raise
        # Escapes beyond Unicode, for one, come out of the library as they are.
        raise _stop(events.mark, f"not YAML after this place; {_QUOTE}") from exc


_START: Final = Mark(1, 1)
_NO_MERGING: Final = "merging (<<) is not supported: write the keys, or one alias for them all"
_QUOTE: Final = "texts with special characters such as a leading '*' or '!' must be quoted"


def _stop(mark: Mark, message: str) -> BadNodeError:
    return BadNodeError([Complaint(mark, message)])


class _Events:
    """The events of a text, and the place of the last one."""

    def __init__(self, text: str) -> None:
        # The pure parser is a state machine: depth costs it no stack. Its events
        # are taken as they are, before anything resolves or constructs values.
        self._events: Iterator[Event] = YAML(typ="safe", pure=True).parse(text)
        self.mark = _START

    def next(self) -> Event:
        event = next(self._events)
        self.mark = Mark(event.start_mark.line + 1, event.start_mark.column + 1)
        return event


class _Reader:
    """Builds the tree of one document, within its bounds."""

    def __init__(self, events: _Events) -> None:
        self._events = events
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._nodes = 0
        self._complaints: list[Complaint] = []

    def document(self) -> Node:
        self._events.next()
        if isinstance(self._events.next(), StreamEndEvent):
            raise _stop(_START, "the file is empty; write `rules: []` for no rules")
        root = self._node(self._events.next(), depth=0)
        self._events.next()
        if isinstance(self._events.next(), DocumentStartEvent):
            raise _stop(self._events.mark, "a second document; a file has one")
        if self._complaints:
            raise BadNodeError(self._complaints)
        return root

    def _node(self, event: Event, *, depth: int) -> Node:
        mark = self._events.mark
        if depth > MAX_DEPTH:
            raise _stop(mark, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, AliasEvent):
            return self._alias(event, mark)
        assert isinstance(event, NodeEvent)
        before = self._nodes
        self._count(1, mark)
        # `!foo`, or the `!` of a pattern that nobody quoted.
        if (tag := getattr(event, "tag", None)) is not None:
            self._complain(mark, f"the tag {str(tag)[:60]!r} is not allowed; {_QUOTE}")
        if isinstance(event, ScalarEvent):
            node: Node = _scalar(event, mark)
        elif isinstance(event, MappingStartEvent):
            node = self._mapping(mark, depth)
        else:
            node = self._sequence(mark, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._nodes - before)
        return node

    def _alias(self, event: AliasEvent, mark: Mark) -> Node:
        # Unknown inside of what it names, too: no tree contains itself.
        if event.anchor not in self._anchors:
            shown = f"*{event.anchor}"[:60]
            self._complain(mark, f"the alias {shown!r} names nothing before it; {_QUOTE}")
            return Scalar(None, "", mark)
        node, size = self._anchors[event.anchor]
        self._count(size, mark)
        return node

    def _sequence(self, mark: Mark, depth: int) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := self._events.next(), SequenceEndEvent):
            items.append(self._node(event, depth=depth + 1))
        return Sequence(tuple(items), mark)

    def _mapping(self, mark: Mark, depth: int) -> Mapping:
        entries: list[tuple[Scalar, Node]] = []
        lines: dict[str, int] = {}
        while not isinstance(event := self._events.next(), MappingEndEvent):
            place = self._events.mark
            key = self._node(event, depth=depth + 1)
            value = self._node(self._events.next(), depth=depth + 1)
            if not isinstance(key, Scalar):
                self._complain(place, "a key must be a single text")
            elif key.text == "<<" and isinstance(event, ScalarEvent) and event.implicit[0]:
                self._complain(place, _NO_MERGING)
            elif key.text in lines:
                first = f"the first is in line {lines[key.text]}"
                self._complain(place, f"the key {key.text[:60]!r} stands twice; {first}")
            else:
                lines[key.text] = place.line
                entries.append((key, value))
        return Mapping(tuple(entries), mark)

    def _count(self, nodes: int, mark: Mark) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _stop(mark, f"more than {MAX_NODES} values, aliases counted as what they name")

    def _complain(self, mark: Mark, message: str) -> None:
        self._complaints.append(Complaint(mark, message))


def _scalar(event: ScalarEvent, mark: Mark) -> Scalar:
    text = event.value
    if not text.isascii():
        # JSON writes what lies beyond 16 bits as two halves (RFC 8259, section 7).
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    # Only what is not quoted can be anything but a text.
    if not event.implicit[0]:
        return Scalar(text, text, mark)
    if text in _WORDS:
        return Scalar(_WORDS[text], text, mark)
    if _INTEGER.fullmatch(text):
        return Scalar(int(text), text, mark)
    if _FLOAT.fullmatch(text):
        return Scalar(float(text), text, mark)
    return Scalar(text, text, mark)
