"""One SQLite file, its two threads, and what its failures mean.

Writes of many callers are executed by one thread and committed together, each in
a savepoint of its own: the price of a durable write is the `fsync`, and sixty
callers share one. Reads have a connection and a thread of their own, so that a
long list does not hold up a write; in WAL mode neither waits for the other.

A call that is cancelled before its turn is skipped, later it takes effect and
nobody hears of it. Its result goes nowhere else: each has a future of its own.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any, Final, Generic, Self, TypeVar

from proxy.core.errors import StoreCorruptError, StoreError, StoreUnavailableError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

HOLD_S: Final = 0.003
"""How long a group of writes may take before it is committed.

With the commit itself it stays below 5 ms, which is what another process that
shares the file, or the next caller, may have to wait.
"""

BUSY_TIMEOUT_S: Final = 5.0
"""How long to wait for another process's write before the store counts as unavailable."""

# SQLite result codes, primary (sqlite.org/rescode.html).
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNAVAILABLE: Final = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "another process holds it",
    sqlite3.SQLITE_LOCKED: "another process holds it",
    sqlite3.SQLITE_IOERR: "the disk does not answer as it should",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_READONLY: "it cannot be written",
    sqlite3.SQLITE_PERM: "it cannot be written",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
    sqlite3.SQLITE_PROTOCOL: "its locks do not work on this file system",
}


class Database:
    """The file and its threads. Made by `open`, ended by `aclose`, used from one event loop."""

    def __init__(self, path: Path, *, loop: asyncio.AbstractEventLoop) -> None:
        self._writer = _Thread(path, loop=loop, grouped=True)
        self._reader = _Thread(path, loop=loop, grouped=False)

    @classmethod
    async def open(cls, path: Path, prepare: Work[None]) -> Self:
        """Open or create the file and run `prepare` in a transaction of its own.

        Raises:
            StoreError: if the file cannot be made or used.
        """
        await asyncio.to_thread(_create_file, path)
        database = cls(path, loop=asyncio.get_running_loop())
        try:
            await database.write(prepare)
        except BaseException:
            await database.aclose()
            raise
        return database

    async def write(self, work: Work[T]) -> T:
        """Execute `work` in a transaction; return once it is durable.

        It may share the transaction with the work of others. If it raises, none
        of its own changes are kept. It must be short: see `HOLD_S`.
        """
        return await self._writer.submit(work)

    async def read(self, work: Work[T]) -> T:
        """Execute `work`, which only reads, beside the writes.

        It sees every write that returned before. It must be bounded: others wait.
        """
        return await self._reader.submit(work)

    async def aclose(self) -> None:
        """Finish what was submitted and close the file."""
        # The writer last: the last connection to close folds the log into the file.
        await self._reader.aclose()
        await self._writer.aclose()


@dataclass(slots=True)
class _Call(Generic[T]):
    work: Work[T]
    future: asyncio.Future[T]


@dataclass(slots=True)
class _Done:
    """What became of a call, on its way back to the event loop."""

    call: _Call[Any]
    value: Any = None
    error: BaseException | None = None


class _Thread:
    """A thread with a connection, which executes one call after the other."""

    def __init__(self, path: Path, *, loop: asyncio.AbstractEventLoop, grouped: bool) -> None:
        self._path = path
        self._loop = loop
        self._execute = self._commit_group if grouped else self._read_one
        self._grouped = grouped
        self._waiting: SimpleQueue[_Call[Any] | None] = SimpleQueue()
        self._closing = False
        # A daemon: after a crash of the event loop nobody closes the store, and
        # what is not committed was not acknowledged.
        self._thread = threading.Thread(target=self._run, name=f"store:{path.name}", daemon=True)
        self._thread.start()

    async def submit(self, work: Work[T]) -> T:
        if self._closing:
            raise StoreUnavailableError("the store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.put(_Call(work, future))
        return await future

    async def aclose(self) -> None:
        if not self._closing:
            self._closing = True
            self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            while (call := self._waiting.get()) is not None:
                # Opened at the first call, whose caller then hears why it failed.
                try:
                    connection = connection or _connect(self._path, writes=self._grouped)
                except sqlite3.Error as exc:
                    self._report([_Done(call, error=_translate(exc, self._path))])
                    continue
                self._report(self._execute(connection, call))
        finally:
            if connection is not None:
                connection.close()

    def _read_one(self, connection: sqlite3.Connection, call: _Call[T]) -> list[_Done]:
        if call.future.cancelled():
            return []
        try:
            return [_Done(call, call.work(connection))]
        except sqlite3.DatabaseError as exc:
            return [_Done(call, error=_translate(exc, self._path))]
        except BaseException as exc:  # noqa: BLE001 - raised again where it was asked for
            return [_Done(call, error=exc)]

    def _commit_group(self, connection: sqlite3.Connection, first: _Call[T]) -> list[_Done]:
        """Execute `first` and whatever else waits, for a short while, and commit."""
        done: list[_Done] = []
        call: _Call[Any] | None = first
        try:
            connection.execute("BEGIN IMMEDIATE")
            commit_at = perf_counter() + HOLD_S
            while call is not None:
                if not call.future.cancelled():
                    done.append(_Done(call))
                    self._execute_one(connection, done[-1])
                call = self._next(commit_at)
            connection.execute("COMMIT")
        except BaseException as exc:  # noqa: BLE001 - raised again where it was asked for
            return _undone(connection, done or [_Done(first)], _translate(exc, self._path))
        return done

    def _execute_one(self, connection: sqlite3.Connection, done: _Done) -> None:
        connection.execute("SAVEPOINT one")
        try:
            done.value = done.call.work(connection)
        except BaseException as exc:
            if not connection.in_transaction:
                # SQLite has rolled back everything, e.g. for a full disk: what the
                # others of the group wrote is gone too (sqlite.org/lang_transaction.html).
                raise
            connection.execute("ROLLBACK TO one")
            failed = isinstance(exc, sqlite3.DatabaseError)
            done.error = _translate(exc, self._path) if failed else exc
        connection.execute("RELEASE one")

    def _next(self, commit_at: float) -> _Call[Any] | None:
        if perf_counter() >= commit_at:
            return None
        try:
            call = self._waiting.get_nowait()
        except Empty:
            return None
        if call is None:
            # The end: put back, to be met again after the commit.
            self._waiting.put(None)
        return call

    def _report(self, done: Sequence[_Done]) -> None:
        try:
            self._loop.call_soon_threadsafe(_deliver, done)
        except RuntimeError:
            # The loop is closed: whoever asked is gone with it.
            return


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


def _connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        timeout=BUSY_TIMEOUT_S,
        # Transactions are begun and ended here, by hand.
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    # An acknowledged job survives the machine, not only the process: NORMAL is
    # 13 % faster and loses the last commits when the power does.
    connection.execute("PRAGMA synchronous = FULL")
    # Erased is overwritten, as far as that costs no further writes.
    connection.execute("PRAGMA secure_delete = FAST")
    connection.execute("PRAGMA journal_mode = WAL")
    if not writes:
        connection.execute("PRAGMA query_only = ON")
    return connection


def _create_file(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Before SQLite makes it readable for all; its logs take over the mode.
        path.touch(mode=0o600, exist_ok=True)
    except OSError as exc:
        raise StoreError(
            f"the store {path} cannot be made: {exc.strerror}",
            hint="make the directory writable, or set another `store`",
        ) from exc


def _translate(exc: BaseException, path: Path) -> BaseException:
    """Return our error for one of SQLite's: the only place where those are told apart."""
    code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _UNAVAILABLE:
        error: StoreError = StoreUnavailableError(f"the store {path}: {_UNAVAILABLE[code]}")
    elif code in _CORRUPT:
        error = StoreCorruptError(
            f"the store {path} is damaged or no store", hint="restore it from a backup"
        )
    elif isinstance(exc, sqlite3.OperationalError):
        error = StoreCorruptError(f"the store {path} does not have the tables it should")
    else:
        # A constraint or a wrong use of the library: a bug, and no state of the store.
        return exc
    error.__cause__ = exc
    return error
