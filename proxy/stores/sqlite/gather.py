"""Work of many callers, done by one piece of work on the writer's thread.

The price of a write is not its row. It is the way to the writer's thread and back,
the statements, each of which hands the interpreter's lock over, and the `fsync`.
Callers that come while a group is written make the next group, so all of that is
paid once for each group, however many there are. And what is done for many, one after
the other, takes half as long as for each alone: code and tables are at hand.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Generic, TypeVar

from proxy.core.errors import StoreCorruptError, StoreError
from proxy.stores.sqlite.database import Database, Work

Item = TypeVar("Item")
Value = TypeVar("Value")

GROUP_MAX: Final = 64
"""Items of one group: with its commit it holds the store for less than 5 ms."""

Group = Sequence[tuple[Item, asyncio.Future[Value]]]


class Gatherer(Generic[Item, Value]):
    """Gathers items and has them written together. Used from one event loop."""

    def __init__(
        self,
        database: Database,
        prepare: Callable[[Sequence[Item]], Work[Sequence[Value]]],
    ) -> None:
        """`prepare` is given items and returns what writes them and returns one value for
        each, in their order. It is called in the writer's thread, before the transaction.
        """
        self._database = database
        self._prepare = prepare
        self._waiting: list[tuple[Item, asyncio.Future[Value]]] = []
        self._under_way = 0
        """Groups that are being written or about to begin: one, or a group's parts."""

    def add(self, item: Item) -> asyncio.Future[Value]:
        """Have the item written; the future is done once that is durable.

        An item whose future is cancelled before its turn is left out; one that is at
        fault fails alone.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Value] = loop.create_future()
        self._waiting.append((item, future))
        if not self._under_way:
            self._under_way = 1
            # Not at once: whoever is ready in the same turn of the loop comes along.
            loop.call_soon(self._next)
        return future

    def _next(self) -> None:
        """Begin the next group, in the place of one that is over."""
        self._under_way -= 1
        while self._waiting and not self._under_way:
            group = [one for one in self._waiting[:GROUP_MAX] if not one[1].cancelled()]
            del self._waiting[:GROUP_MAX]
            if group:
                self._write(group)

    def _write(self, group: Group[Item, Value]) -> None:
        items = [item for item, _ in group]
        try:
            writing = self._database.begin(lambda: self._prepare(items))
        except StoreError as exc:
            _fail(group, exc)
        else:
            self._under_way += 1
            writing.add_done_callback(partial(self._written, group))

    def _written(self, group: Group[Item, Value], writing: asyncio.Future[Sequence[Value]]) -> None:
        error = writing.exception()
        if error is None:
            for (_, future), value in zip(group, writing.result(), strict=True):
                if not future.done():
                    future.set_result(value)
        elif len(group) == 1 or _is_of_all(error):
            _fail(group, error)
        else:
            # One by one, to find out whose fault it is.
            for one in group:
                self._write([one])
        self._next()


def _is_of_all(error: BaseException) -> bool:
    """Return whether the store failed, and not what one of a group had stored there before."""
    return isinstance(error, StoreError) and not isinstance(error, StoreCorruptError)


def _fail(group: Group[Item, Value], error: BaseException) -> None:
    for _, future in group:
        if not future.done():
            future.set_exception(error)
