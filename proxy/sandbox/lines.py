"""What the batches of all dialects do with their lines: order, spoil, and take turns."""

import asyncio
import random
import time
from typing import Final

import pydantic_core

from proxy.sandbox.engine import new_id
from proxy.sandbox.faults import LineFault

SLICE_S: Final = 0.002
"""Longest time that work on lines holds the event loop, so that other calls are answered."""


class Pause:
    """Lets the event loop run whenever a slice of time is used up."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + SLICE_S

    async def breathe(self) -> None:
        """Yield to the loop if the slice is over."""
        if time.perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + SLICE_S


def shuffled(count: int, *, seed: int | None, ordinal: int) -> list[int]:
    """Return the places of `count` lines in the order in which a batch finishes them.

    Reproducible per batch, which is the `ordinal`-th; without a seed the input's order.
    """
    order = list(range(count))
    if seed is not None:
        random.Random(f"{seed}/{ordinal}").shuffle(order)  # noqa: S311 (no secret)
    return order


def spoiled(
    result: bytes, fault: LineFault | None, *, name: tuple[str, ...] = ("custom_id",)
) -> list[bytes]:
    """Return the lines to write instead of one good result line; `name` is where its name is."""
    match fault.outcome if fault else None:
        case "missing":
            return []
        case "unparsable":
            return [result[: len(result) // 2]]
        case "duplicate":
            return [result, result]
        case "foreign":
            line = pydantic_core.from_json(result)
            named = line
            for step in name[:-1]:
                named = named[step]
            named[name[-1]] = new_id("foreign-")
            return [result, pydantic_core.to_json(line)]
    return [result]
