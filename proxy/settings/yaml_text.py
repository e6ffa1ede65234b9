"""Read YAML and keep the place of every key and value.

Imported only where there is YAML to read: without it the library is not needed.
"""

from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode
from ruamel.yaml.reader import ReaderError

from proxy.settings.layers import Complaint, KeyPath, Layer, Value, key_text

# A configuration file is written by hand. Aliases can make a small file large,
# and one that holds itself endless.
_DEPTH_MAX: Final = 20
_NODES_MAX: Final = 20_000
_TOO_LARGE: Final = "is nested too deeply, or made too large by aliases"

_KINDS: Final = frozenset({"null", "bool", "int", "float", "str", "timestamp", "seq", "map"})
"""What values are to YAML itself; a time stays the text that it is."""


def read_yaml(text: str, name: str) -> Layer:
    """Return what a YAML document holds; what is wrong with it becomes complaints.

    `name` stands before line and column in each place. Text is kept as it is
    written wherever YAML sees no number, boolean or null.
    """
    layer = Layer()
    root = _root(text, name)
    if isinstance(root, Complaint):
        layer.complaints.append(root)
        return layer
    if root is None:
        return layer
    reader = _Reader(layer, name)
    value = reader.value(root, (), 0)
    if reader.is_full:
        # What was read of it would only be thousands of complaints more.
        return layer
    if isinstance(value, dict):
        layer.values = value
    elif value is not None:
        layer.complaints.append(Complaint(reader.place(root), "", "must be a mapping of keys"))
    return layer


def read_flow(text: str) -> Value:
    """Return the value of one YAML or JSON text, e.g. of a variable.

    Raises:
        ValueError: if it is not one.
    """
    # Inside a mapping every kind of value can be read by the same code.
    layer = read_yaml(f"value:\n  {text.strip()}\n", "")
    if layer.complaints:
        raise ValueError(layer.complaints[0].problem)
    return layer.values["value"]


def _root(text: str, name: str) -> Node | Complaint | None:
    """Return the root of the document, nothing if it is empty, or why it cannot be read."""
    place = name
    try:
        yaml = YAML(typ="rt", pure=True)
        yaml.Composer = _BoundedComposer
        root: Node | None = yaml.compose(text)
    except _TooLargeError as exc:
        return Complaint(f"{name}:{exc.line}:{exc.column}", "", _TOO_LARGE)
    except RecursionError:
        return Complaint(name, "", _TOO_LARGE)
    except ReaderError as exc:
        before = text[: exc.position]
        place = f"{name}:{before.count(chr(10)) + 1}:{exc.position - before.rfind(chr(10))}"
        problem = "a character that YAML does not allow"
    except YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        if mark is not None:
            place = f"{name}:{mark.line + 1}:{mark.column + 1}"
        # Only the problem: the library's own message quotes the lines around it.
        problem = getattr(exc, "problem", None) or "it makes no sense"
    except (ValueError, ArithmeticError):
        # Escapes beyond Unicode, for one, come out of the library as they are.
        problem = "holds an escape of no character"
    else:
        return root
    return Complaint(place, "", f"cannot be read as YAML: {problem}")


class _TooLargeError(Exception):
    """There is more than a configuration has; counted from 1."""

    def __init__(self, line: int, column: int) -> None:
        super().__init__()
        self.line = line
        self.column = column


class _BoundedComposer(Composer):
    """Reads a text as far as the bounds go: 50,000 brackets would take it half a minute."""

    _depth = 0
    _nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._nodes += 1
        if self._depth > _DEPTH_MAX or self._nodes > _NODES_MAX:
            mark = self.parser.peek_event().start_mark
            raise _TooLargeError(mark.line + 1, mark.column + 1)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Reader:
    """Turns nodes into values and notes where each stands."""

    def __init__(self, layer: Layer, name: str) -> None:
        self._layer = layer
        self._name = name
        self._nodes = 0
        self.is_full = False
        """Whether there was too much, and the rest was left out."""

    def place(self, node: Node) -> str:
        return f"{self._name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def value(self, node: Node, path: KeyPath, depth: int) -> Value:
        self._nodes += 1
        if depth > _DEPTH_MAX or self._nodes > _NODES_MAX:
            # Said once: it is true of all that follows.
            if not self.is_full:
                self._complain(node, path, _TOO_LARGE)
            self.is_full = True
            return None
        self._layer.places[path] = self.place(node)
        # `!ENV`, for one, means something to others; in silence it would be a plain text.
        kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if kind not in _KINDS:
            self._complain(node, path, f"the tag {kind!r} is not supported")
            return None
        match node:
            case MappingNode():
                return self._mapping(node, path, depth)
            case SequenceNode():
                items = enumerate(node.value)
                return [self.value(item, (*path, at), depth + 1) for at, item in items]
            case _:
                return self._scalar(kind, str(node.value), node, path)

    def _scalar(self, kind: str, text: str, node: Node, path: KeyPath) -> Value:
        if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
            self._complain(node, path, "holds an escape of no character")
            return None
        return _plain(kind, text)

    def _mapping(self, node: MappingNode, path: KeyPath, depth: int) -> Value:
        values: dict[str, Value] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str):
                self._complain(key_node, path, "a key must be plain text")
                continue
            below = (*path, key)
            if key == "<<":
                problem = "merging is not supported: write the keys, or one alias for them all"
                self._complain(key_node, below, problem)
                continue
            if key in values:
                first = self._layer.key_places[below]
                self._complain(key_node, below, f"stands twice; the first is at {first}")
                continue
            self._layer.key_places[below] = self.place(key_node)
            values[key] = self.value(value_node, below, depth + 1)
        return values

    def _complain(self, node: Node, path: KeyPath, problem: str) -> None:
        self._layer.complaints.append(Complaint(self.place(node), key_text(path), problem))


def _plain(kind: str, text: str) -> Value:
    try:
        match kind:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text.replace("_", ""), 0)
            case "float":
                return float(text.replace("_", ""))
    except ValueError:
        # `0123`, `.inf`: numbers to YAML only. The key's own parser decides.
        return text
    return text
