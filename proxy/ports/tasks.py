"""Who owns work that outlives the pass that began it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol


class TaskOwner(Protocol):
    """Whatever can be asked to run a coroutine to its end; `asyncio.TaskGroup` is one."""

    def create_task(
        self, coro: Coroutine[Any, Any, None], *, name: str | None = None
    ) -> asyncio.Task[None]:
        """Run `coro` and own its task."""
        ...
