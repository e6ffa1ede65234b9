"""What the tree allows at a path, read off the models themselves."""

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr

from proxy.settings.layers import KeyPath
from proxy.settings.tree import Settings


class Kind(Enum):
    """How a value is written."""

    SECTION = "section"
    """A mapping with fixed keys."""

    MAP = "map"
    """A mapping with keys of the operator's choice."""

    LIST = "list"
    SCALAR = "scalar"


@dataclass(frozen=True, slots=True)
class Spot:
    """One place in the tree."""

    kind: Kind
    nullable: bool = False
    is_path: bool = False
    is_secret: bool = False
    keys: tuple[str, ...] = ()
    """The keys of a section."""


# Values that may be secrets even where they are mistyped: a token in place of
# its hash is the mistake that the list of hashes invites.
_SECRET_KEYS = frozenset({"secret", "owners", "clients"})


def spot_at(path: KeyPath) -> Spot | None:
    """Return what is allowed at `path`, or nothing if the tree has no such place."""
    annotation: object = Settings
    for step in path:
        annotation = _below(_bare(annotation)[0], step)
        if annotation is None:
            return None
    bare, nullable = _bare(annotation)
    return Spot(
        kind=_kind(bare),
        nullable=nullable,
        is_path=bare is Path,
        is_secret=bare is SecretStr or bool(_SECRET_KEYS & {*path[:1], *path[2:3], *path[-1:]}),
        keys=tuple(bare.model_fields) if _is_model(bare) else (),
    )


def suggestion(path: KeyPath) -> str:
    """Say what an unknown key at `path` could have been meant to be."""
    around = spot_at(path[:-1])
    known = around.keys if around is not None else ()
    close = get_close_matches(str(path[-1]).replace("-", "_"), known, n=1)
    if close:
        return f"unknown key; did you mean {close[0]!r}?"
    return f"unknown key; known are {', '.join(known)}" if known else "unknown key"


def _is_model(annotation: object) -> typing.TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _bare(annotation: object) -> tuple[object, bool]:
    """Return a type without its constraints, and whether it may be null."""
    nullable = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in {Union, types.UnionType}:
            nullable = True
            annotation = next(arg for arg in get_args(annotation) if arg is not type(None))
        else:
            return annotation, nullable


def _below(annotation: object, step: str | int) -> object:
    if _is_model(annotation):
        field = annotation.model_fields.get(str(step))
        return field.annotation if field is not None else None
    match _kind(annotation):
        case Kind.MAP:
            return get_args(annotation)[1]
        case Kind.LIST:
            return get_args(annotation)[0]
        case _:
            return None


def _kind(annotation: object) -> Kind:
    if _is_model(annotation):
        return Kind.SECTION
    origin = get_origin(annotation)
    if origin is Literal or not isinstance(origin, type):
        return Kind.SCALAR
    if issubclass(origin, Mapping):
        return Kind.MAP
    return Kind.LIST if issubclass(origin, Sequence) else Kind.SCALAR
