"""One SQLite file and the threads that write and read it.

Writes of many callers are executed by one thread and committed together, each in
a savepoint of its own: the price of a durable write is the `fsync`, and sixty
callers share one; `Gatherer` is for what many do alike. Reads have a connection and
a thread of their own, so that a long list does not hold up a write; in WAL mode
neither waits for the other.

A call that is cancelled before its turn is skipped, later it takes effect and
nobody hears of it. Its result goes nowhere else: each has a future of its own.
"""

import asyncio
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from time import perf_counter
from traceback import clear_frames
from typing import Any, Final, Generic, NoReturn, Self, TypeVar

from proxy.core.errors import StoreUnavailableError
from proxy.stores.sqlite.checkpoint import Checkpointer
from proxy.stores.sqlite.connection import OpenFile, connect, create_file, translate

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

HOLD_S: Final = 0.003
"""How long a group of writes may take before it is committed.

With the commit itself it stays below 5 ms, which is what another process that
shares the file, or the next caller, may have to wait.
"""

RIDE_S: Final = 0.02
"""How long a write that nobody waits for does so for one with which it shares a commit."""


class Database:
    """The file and its threads. Made by `open`, ended by `aclose`, used from one event loop."""

    def __init__(self, path: Path, *, loop: asyncio.AbstractEventLoop) -> None:
        self._writer = _Writer(path, loop)
        self._reader = _Reader(path, loop)

    @classmethod
    async def open(cls, path: Path, prepare: Work[None]) -> Self:
        """Open or create the file and run `prepare` in a transaction of its own.

        Raises:
            StoreError: if the file cannot be made or used.
        """
        await asyncio.to_thread(create_file, path)
        database = cls(path, loop=asyncio.get_running_loop())
        try:
            await database.write(prepare)
        except BaseException:
            await database.aclose()
            raise
        return database

    async def write(self, work: Work[T], *, relaxed: bool = False) -> T:
        """Execute `work` in a transaction; return once it is durable.

        It may share the transaction with the work of others. If it raises, none
        of its own changes are kept. It must be short: see `HOLD_S`.

        What is `relaxed` outlives the process at once, and a loss of power from the
        next durable write on, which makes durable whatever was written before it: for
        steps of which only the last one counts.
        """
        return await self._writer.begin(work, relaxed=relaxed)

    async def write_along(self, work: Work[T]) -> T:
        """Execute `work` relaxed, as a part of the next write that somebody else waits for.

        If none comes, it is written by itself after `RIDE_S`. For steps of microseconds,
        which are not worth a transaction, and for which nobody waits.
        """
        return await self._writer.begin_along(work)

    def begin(self, prepare: Callable[[], Work[T]]) -> asyncio.Future[T]:
        """Begin what `write` does, for more than one to wait for.

        `prepare` returns the work. It is called in the writer's thread before the
        transaction begins, so that what takes long holds up neither the event loop nor
        whoever else writes to the file.

        Raises:
            StoreUnavailableError: if the store is closed.
        """
        return self._writer.begin_prepared(prepare)

    async def read(self, work: Work[T]) -> T:
        """Execute `work`, which only reads, beside the writes.

        It sees every write that returned before. It must be bounded: others wait.
        """
        return await self._reader.begin(work)

    async def aclose(self) -> None:
        """Finish what was submitted and close the file."""
        # The writer last: the last connection to close folds the log into the file.
        await self._reader.aclose()
        await self._writer.aclose()


@dataclass(slots=True)
class _Call(Generic[T]):
    work: Work[T]
    future: asyncio.Future[T]
    is_relaxed: bool = False
    prepare: Callable[[], Work[T]] | None = None
    """What returns the work, if that is not known yet."""

    rides: bool = False
    """Whether it is done with the call before it even if that took long."""


@dataclass(slots=True)
class _Done:
    """What became of a call, on its way back to the event loop."""

    call: _Call[Any]
    value: Any = None
    error: BaseException | None = None


class _Thread(ABC):
    """A thread with a connection, which executes one call after the other."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, *, writes: bool) -> None:
        self._path = path
        self._loop = loop
        self._writes = writes
        self._waiting: SimpleQueue[_Call[Any] | None] = SimpleQueue()
        self._closing = False
        # A daemon: after a crash of the event loop nobody closes the store, and
        # what is not committed was not acknowledged.
        self._thread = threading.Thread(target=self._run, name=f"store:{path.name}", daemon=True)
        self._thread.start()

    def begin(self, work: Work[T], *, relaxed: bool = False) -> asyncio.Future[T]:
        return self._put(_Call(work, self._loop.create_future(), relaxed))

    def _put(self, call: _Call[T]) -> asyncio.Future[T]:
        if self._closing:
            raise StoreUnavailableError("the store is closed")
        self._waiting.put(call)
        return call.future

    async def aclose(self) -> None:
        if not self._closing:
            self._closing = True
            self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)

    @abstractmethod
    def _execute(self, connection: sqlite3.Connection, call: _Call[Any]) -> list[_Done]:
        """Execute `call`, and others that wait, and return what became of them."""

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while (call := self._first()) is not None:
            # Opened at the first call, whose caller then hears why it failed.
            try:
                connection = connection or connect(self._path, writes=self._writes)
            except sqlite3.Error as exc:
                self._report([_Done(call, error=translate(exc, self._path))])
                continue
            self._report(self._execute(connection, call))
        if connection is not None:
            connection.close()

    def _first(self) -> _Call[Any] | None:
        """Return the next call, waiting for it; nothing at the end."""
        return self._waiting.get()

    def _report(self, done: Sequence[_Done]) -> None:
        try:
            self._loop.call_soon_threadsafe(_deliver, done)
        except RuntimeError:
            # The loop is closed: whoever asked is gone with it.
            return


class _Reader(_Thread):
    """Executes reads one by one."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(path, loop, writes=False)

    def _execute(self, connection: sqlite3.Connection, call: _Call[Any]) -> list[_Done]:
        if call.future.cancelled():
            return []
        try:
            return [_Done(call, call.work(connection))]
        except BaseException as exc:  # noqa: BLE001 - raised again where it was asked for
            _let_go(exc)
            return [_Done(call, error=translate(exc, self._path))]


class _Writer(_Thread):
    """Executes writes in groups, each group in one transaction."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._file = OpenFile(path)
        self._checkpointer = Checkpointer(path, self._file)
        self._held_back: _Call[Any] | None = None
        self._is_relaxed = False
        """Whether commits of the connection are, at the moment."""

        self._riding: list[_Call[Any]] = []
        """What is put behind the next call, or after a while by itself."""

        self._departure: asyncio.TimerHandle | None = None
        super().__init__(path, loop, writes=True)

    def begin_prepared(self, prepare: Callable[[], Work[T]]) -> asyncio.Future[T]:
        return self._put(_Call(_unprepared, self._loop.create_future(), prepare=prepare))

    def begin_along(self, work: Work[T]) -> asyncio.Future[T]:
        call = _Call(work, self._loop.create_future(), is_relaxed=True, rides=True)
        if self._closing:
            return self._put(call)
        self._riding.append(call)
        if self._departure is None:
            self._departure = self._loop.call_later(RIDE_S, self._depart)
        return call.future

    def _put(self, call: _Call[T]) -> asyncio.Future[T]:
        future = super()._put(call)
        self._depart()
        return future

    def _depart(self) -> None:
        if self._departure is not None:
            self._departure.cancel()
            self._departure = None
        for call in self._riding:
            self._waiting.put(call)
        self._riding.clear()

    async def aclose(self) -> None:
        await asyncio.to_thread(self._checkpointer.stop)
        self._depart()
        await super().aclose()

    def _execute(self, connection: sqlite3.Connection, call: _Call[Any]) -> list[_Done]:
        """Execute `call` and whatever else waits, for a short while, and commit."""
        if call.prepare is not None:
            try:
                call.work = call.prepare()
            except BaseException as exc:  # noqa: BLE001 - raised again where it was asked for
                return [_Done(call, error=exc)]
        try:
            self._relax(connection, call.is_relaxed)
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as exc:
            return self._refused(call, translate(exc, self._path))
        if (gone := self._file.gone()) is not None:
            connection.execute("ROLLBACK")
            return self._refused(call, gone)
        done: list[_Done] = []
        following: _Call[Any] | None = call
        try:
            commit_at = perf_counter() + HOLD_S
            while following is not None:
                if not following.future.cancelled():
                    done.append(_Done(following))
                    self._execute_one(connection, done[-1])
                following = self._next(commit_at)
            connection.execute("COMMIT")
        except BaseException as exc:  # noqa: BLE001 - raised again where it was asked for
            return _undone(connection, done or [_Done(call)], translate(exc, self._path))
        self._checkpointer.after_commit(connection)
        return done

    def _refused(self, call: _Call[Any], error: BaseException) -> list[_Done]:
        # Those behind it have waited too; one after the other, each for the whole timeout, they
        # would wait for minutes before they heard of it.
        return [_Done(each, error=error) for each in (call, *self._all_waiting())]

    def _execute_one(self, connection: sqlite3.Connection, done: _Done) -> None:
        connection.execute("SAVEPOINT one")
        try:
            done.value = done.call.work(connection)
        except BaseException as exc:
            _let_go(exc)
            if not connection.in_transaction:
                # SQLite has rolled back everything, e.g. for a full disk: what the
                # others of the group wrote is gone too (sqlite.org/lang_transaction.html).
                raise
            connection.execute("ROLLBACK TO one")
            done.error = translate(exc, self._path)
        connection.execute("RELEASE one")

    def _first(self) -> _Call[Any] | None:
        call, self._held_back = self._held_back, None
        return call or super()._first()

    def _relax(self, connection: sqlite3.Connection, relaxed: bool) -> None:
        """Let commits sync the log or not; in a transaction SQLite ignores that."""
        if relaxed is not self._is_relaxed:
            connection.execute(f"PRAGMA synchronous = {'NORMAL' if relaxed else 'FULL'}")
            self._is_relaxed = relaxed

    def _next(self, commit_at: float) -> _Call[Any] | None:
        """Return what else belongs into this transaction."""
        try:
            call = self._waiting.get_nowait()
        except Empty:
            return None
        if call is None:
            # The end: put back, to be met again after the commit.
            self._waiting.put(None)
            return None
        if call.rides:
            return call
        needs_sync = self._is_relaxed and not call.is_relaxed
        if call.prepare is not None or needs_sync or perf_counter() >= commit_at:
            self._held_back = call
            return None
        return call

    def _all_waiting(self) -> list[_Call[Any]]:
        calls = [] if self._held_back is None else [self._held_back]
        self._held_back = None
        for _ in range(self._waiting.qsize()):
            call = self._waiting.get()
            if call is None:
                self._waiting.put(None)
            else:
                calls.append(call)
        return calls


def _let_go(exc: BaseException) -> None:
    """Close the cursors that a failed work has left open, which its error leads to.

    With an open one, a connection sees nothing that is written later, and may not write once
    another process has; and the log cannot be folded into the file.
    """
    clear_frames(exc.__traceback__)


def _unprepared(_connection: sqlite3.Connection) -> NoReturn:
    raise AssertionError("this work was to be prepared first")


def _deliver(done: Sequence[_Done]) -> None:
    for one in done:
        future = one.call.future
        if future.done():
            continue
        if one.error is not None:
            future.set_exception(one.error)
        else:
            future.set_result(one.value)


def _undone(
    connection: sqlite3.Connection, done: Sequence[_Done], error: BaseException
) -> list[_Done]:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    return [_Done(one.call, error=error) for one in done]
