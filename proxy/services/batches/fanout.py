"""Do the same for many things, a few at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Generic, TypeVar

import structlog

from proxy.core.errors import ProxyError, StoreCorruptError

log = structlog.get_logger()

T = TypeVar("T", bound=Hashable)


class Fanout(Generic[T]):
    """Does the same for many things: a few of each group at once, and none twice at once.

    So one that is slow holds up its own group alone, e.g. a provider that hangs its own
    batches, as long as nobody waits for a round to end before the next one begins.
    """

    def __init__(self, *, limit: int) -> None:
        """`limit` is how many of one group are done at once."""
        self._limit = limit
        self._under_way: set[T] = set()
        self._unreadable: set[T] = set()
        self._slots: dict[str, asyncio.Semaphore] = {}

    async def each(
        self, things: Iterable[tuple[T, str]], work: Callable[[T], Awaitable[bool]]
    ) -> int:
        """Run `work` for every thing that is not under way already; return how many moved.

        Each comes with the name of its group. An expected failure of one is logged and
        harms no other; a bug ends all.
        """
        fresh = {thing: group for thing, group in things if thing not in self._under_way}
        self._under_way |= fresh.keys()
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._one(thing, group, work)) for thing, group in fresh.items()
            ]
        return sum(task.result() for task in running)

    async def _one(self, thing: T, group: str, work: Callable[[T], Awaitable[bool]]) -> bool:
        slots = self._slots.get(group)
        if slots is None:
            slots = self._slots[group] = asyncio.Semaphore(self._limit)
        try:
            async with slots:
                moved = await work(thing)
        except StoreCorruptError as exc:
            # Damaged, or sealed with a key that is not here. It is tried each time, and said once.
            if thing not in self._unreadable:
                self._unreadable.add(thing)
                log.warning(
                    "step.failed", subject=str(thing), code=exc.code, error=str(exc), hint=exc.hint
                )
            return False
        except ProxyError as exc:
            log.warning("step.failed", subject=str(thing), code=exc.code, error=str(exc))
            return False
        else:
            self._unreadable.discard(thing)
            return moved
        finally:
            self._under_way.discard(thing)
