"""The event loops that the service runs on, and their turns."""

import asyncio
from collections.abc import Callable, Mapping

from proxy.runtime import loop_factory

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": loop_factory("uvloop"),
    "asyncio": loop_factory("asyncio"),
}
"""What is on the wire must be the same on each."""


async def settled() -> None:
    """Let everything run that can run without anyone's doing: what waits for nothing but turns."""
    for _ in range(200):
        await asyncio.sleep(0)
