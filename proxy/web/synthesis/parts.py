"""What the synthesis of every API shares: events, checked access, text in pieces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeGuard

JsonObject = dict[str, object]

PIECE_MIN_CHARS: Final = 48
PIECES_MAX: Final = 128
"""Bounds the events of one text, whose framing would else be many times its size."""


class UnreadableResultError(ValueError):
    """A result is not what its API answers, so that no stream can be made of it."""


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event; most APIs send theirs without a name."""

    data: JsonObject
    name: str | None = None


def is_object(value: object) -> TypeGuard[JsonObject]:
    """Return whether `value`, out of a JSON parser, is an object."""
    return isinstance(value, dict)


def objects(holder: JsonObject, name: str) -> list[JsonObject]:
    """Return the objects of a list that must be there."""
    value = holder.get(name)
    if not isinstance(value, list) or not all(is_object(entry) for entry in value):
        raise UnreadableResultError(f"the result has no list of objects in `{name}`")
    return value


def maybe_objects(holder: JsonObject, name: str) -> list[JsonObject]:
    """Return the objects of a list that may be null or absent."""
    return objects(holder, name) if holder.get(name) is not None else []


def pieces(text: str) -> Iterator[str]:
    """Yield `text` in a bounded number of pieces; nothing for an empty one."""
    size = max(PIECE_MIN_CHARS, -(-len(text) // PIECES_MAX))
    for start in range(0, len(text), size):
        yield text[start : start + size]


def pieces_with_tokens(
    tokens: Sequence[JsonObject],
) -> Iterator[tuple[str, list[JsonObject]]]:
    """Yield the pieces of the text that `tokens` spell, each with its own tokens."""
    size = -(-len(tokens) // PIECES_MAX)
    for start in range(0, len(tokens), size or 1):
        group = list(tokens[start : start + size])
        yield "".join(str(token["token"]) for token in group), group


def spells(tokens: object, text: str) -> TypeGuard[list[JsonObject]]:
    """Return whether `tokens` are the tokens of exactly `text`.

    They may not be: a character can span several tokens, which then hold
    escaped bytes in its place.
    """
    if not isinstance(tokens, list) or not tokens:
        return False
    spelt = [token.get("token") if is_object(token) else None for token in tokens]
    return all(isinstance(part, str) for part in spelt) and "".join(map(str, spelt)) == text
