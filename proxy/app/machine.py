"""The clock of this machine, and the tasks that run on it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from proxy.core.errors import ProxyError


class SystemClock:
    """The time of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 - this is the clock that others are given

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Own the tasks of the block; a lone error of ours is raised as it is, without a group."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        # By a group of one no command could tell a port in use from a bug.
        if len(group.exceptions) == 1 and isinstance(group.exceptions[0], ProxyError):
            raise group.exceptions[0] from None
        raise
