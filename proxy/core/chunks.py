"""Cut a sequence into chunks, since no store is asked for too much at once."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def chunked(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield `items` in their order, `size` at a time; the last chunk may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
