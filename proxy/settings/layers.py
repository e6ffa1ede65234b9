"""Where values come from: layers of plain data, each remembering its places.

A layer knows nothing of types. Later layers win value by value; mappings are
merged; lists are not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys and list positions from the root down to a value."""

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing wrong with the configuration, and where."""

    place: str
    """`file:line:column`, the name of a variable or flag, or `default`."""

    key: str
    problem: str
    shown: str | None = None
    """The value, unless it may be a secret."""

    def __str__(self) -> str:
        parts = [self.place, self.key, self.shown, self.problem]
        return ": ".join(part for part in parts if part)


@dataclass(slots=True)
class Layer:
    """The values of one source, with the place of each key and value."""

    values: dict[str, Value] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    """Where every value stands, mappings and lists included."""

    key_places: dict[KeyPath, str] = field(default_factory=dict)
    complaints: list[Complaint] = field(default_factory=list)

    def place_of(self, path: KeyPath) -> str:
        """Return the place of a value, of the nearest thing around it, or of one beside it."""
        for end in range(len(path), 0, -1):
            for places in (self.places, self.key_places):
                if path[:end] in places:
                    return places[path[:end]]
        # A mapping that variables or flags made up one by one has no place of its own.
        for end in range(len(path) - 1, 0, -1):
            for other, place in self.places.items():
                if other[:end] == path[:end]:
                    return place
        return "default"

    def value_at(self, path: KeyPath) -> Value:
        """Return what stands at `path`; nothing if there is nothing."""
        value: Value = self.values
        for step in path:
            if isinstance(value, dict) and isinstance(step, str):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return None
        return value

    def put(self, path: Sequence[str], value: Value, place: str) -> None:
        """Set one value, in place of whatever it was, making mappings on the way."""
        values = self.values
        for key in path[:-1]:
            below = values.get(key)
            if not isinstance(below, dict):
                below = {}
                values[key] = below
            values = below
        values[path[-1]] = value
        self._forget(tuple(path))
        for below_path in _paths(value, tuple(path)):
            self.places[below_path] = place

    def merge(self, above: "Layer") -> None:
        """Let the values of `above` win over the ones that are here."""
        self._merge(self.values, above.values, (), above)
        self.complaints += above.complaints

    def _merge(
        self, below: dict[str, Value], above: Mapping[str, Value], at: KeyPath, layer: "Layer"
    ) -> None:
        for key, value in above.items():
            path = (*at, key)
            known = below.get(key)
            if isinstance(value, dict) and isinstance(known, dict):
                self._take_places(layer, [path])
                self._merge(known, value, path, layer)
            else:
                if key in below:
                    # It looks through all there is, which is too dear for what is new.
                    self._forget(path)
                below[key] = value
                self._take_places(layer, list(_paths(value, path)))

    def _take_places(self, layer: "Layer", paths: list[KeyPath]) -> None:
        for path in paths:
            if path in layer.places:
                self.places[path] = layer.places[path]
            if path in layer.key_places:
                self.key_places[path] = layer.key_places[path]

    def _forget(self, at: KeyPath) -> None:
        for places in (self.places, self.key_places):
            for path in [path for path in places if path[: len(at)] == at]:
                del places[path]


def key_text(path: KeyPath) -> str:
    """Return a path as it is written in messages: `owners.etl[0]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def _paths(value: Value, at: KeyPath) -> Iterator[KeyPath]:
    yield at
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _paths(below, (*at, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _paths(item, (*at, position))
