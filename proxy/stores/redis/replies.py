"""What Redis answers, and how it is read: what is not what it must be is damaged."""

from contextlib import suppress
from datetime import datetime
from typing import TypeAlias

from redis.exceptions import ResponseError

from proxy.core.errors import StoreCorruptError
from proxy.stores.codec import from_micros

Reply: TypeAlias = "bytes | int | list[Reply] | None"
Answer: TypeAlias = "bytes | int | list[Reply] | ResponseError | None"
"""What one command got: a command that Redis refused does not spoil the others."""


def as_bytes(reply: Reply) -> bytes:
    """Return a string that must be one, as it is."""
    if not isinstance(reply, bytes):
        raise StoreCorruptError("Redis answered with something else than text")
    return reply


def as_text(reply: Reply) -> str:
    """Return a string that must be one."""
    try:
        return as_bytes(reply).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise StoreCorruptError("Redis holds something else than text") from None


def as_int(reply: "Reply | str") -> int:
    """Return a number that must be one, or a part of a reply that must."""
    with suppress(ValueError):
        if isinstance(reply, bytes | str):
            return int(reply)
    if not isinstance(reply, int):
        raise StoreCorruptError("Redis answered with something else than a number")
    return reply


def as_time(value: bytes | None) -> datetime | None:
    """Return a moment, if there is one: what `to_micros` made of it."""
    return None if value is None else from_micros(as_int(value))


def as_list(reply: Reply) -> list[Reply]:
    """Return a list that must be one."""
    if not isinstance(reply, list):
        raise StoreCorruptError("Redis answered with something else than a list")
    return reply


def as_map(reply: Reply) -> dict[str, bytes]:
    """Return what `HGETALL` found."""
    flat = as_list(reply)
    return {
        as_text(name): value
        for name, value in zip(flat[::2], flat[1::2], strict=True)
        if isinstance(value, bytes)
    }
