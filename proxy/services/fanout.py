"""Do the same for many things, a few at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import structlog

from proxy.core.errors import ProxyError

log = structlog.get_logger()

T = TypeVar("T")


async def each(things: Iterable[T], work: Callable[[T], Awaitable[bool]], *, limit: int) -> int:
    """Run `work` for every thing, at most `limit` at once; return how many moved.

    An expected failure of one is logged and harms no other; a bug ends all.
    """
    slots = asyncio.Semaphore(limit)

    async def one(thing: T) -> bool:
        async with slots:
            try:
                return await work(thing)
            except ProxyError as exc:
                log.warning("step.failed", subject=str(thing), code=exc.code, error=str(exc))
                return False

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one(thing)) for thing in things]
    return sum(task.result() for task in running)
