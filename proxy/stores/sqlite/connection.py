"""How the file is made and opened, and what SQLite's failures mean."""

import sqlite3
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from proxy.core.errors import StoreCorruptError, StoreError, StoreUnavailableError

BUSY_TIMEOUT_S: Final = 5.0
"""How long to wait for another process's write before the store counts as unavailable."""

BUSY_PAUSE_S: Final = 0.01
"""How long until the next try, where SQLite refuses a file in use without any wait."""

CACHE_KIB: Final = 8_192
"""Pages that each connection keeps in memory, as they are used. The 2 MB of the default hold too
few of a queue; beyond these the system caches the file itself."""

LOG_PAGES_MAX: Final = 16_384
"""Where a commit folds the log by itself (64 MB), if the checkpointer cannot keep up."""

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


def create_file(path: Path) -> None:
    """Make the file, readable for this user only, if there is none.

    Raises:
        StoreError: if the directory does not allow it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Before SQLite makes it readable for all; its logs take over the mode.
        path.touch(mode=0o600, exist_ok=True)
    except OSError as exc:
        raise StoreError(
            f"the store {path} cannot be made: {exc.strerror}",
            hint="make the directory writable, or set another `store`",
        ) from exc


def connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    """Open the file. The caller begins and ends transactions by hand."""
    # Never makes it: an empty file in place of one that was moved away would be written
    # to, log and all, by the same name.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        _set_up(connection, writes=writes)
    except sqlite3.Error:
        # Its caller tries anew at each call, and an error keeps what it came from.
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection, *, writes: bool) -> None:
    # An acknowledged job survives the machine, not only the process: NORMAL is
    # 13 % faster and loses the last commits when the power does.
    connection.execute("PRAGMA synchronous = FULL")
    # Erased is overwritten, as far as that costs no further writes.
    connection.execute("PRAGMA secure_delete = FAST")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    _keep_a_log(connection)
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES_MAX}")
    if writes:
        # Otherwise what would undo one write of a group would be a file, made and removed for
        # nearly every group. What a new version sorts when it moves rows is kept in memory, too.
        connection.execute("PRAGMA temp_store = MEMORY")
    else:
        connection.execute("PRAGMA query_only = ON")


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """Have what is written go to a log beside the file first, from now on, for all who use it."""
    give_up_at = monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as exc:
            # Whoever turns a file into one with a log has read it before, and of two such SQLite
            # refuses one at once, since they might wait for each other
            # (sqlite.org/c3ref/busy_handler.html).
            if _primary_code(exc) != sqlite3.SQLITE_BUSY or monotonic() >= give_up_at:
                raise
        else:
            return
        sleep(BUSY_PAUSE_S)


class OpenFile:
    """The file that is open, and its log: what their paths led to when this was first asked.

    A removed file can be written to as before, and ends with the process. With a removed log
    all goes that was not folded into the file, though it was said to be durable. And without the
    log's index, processes that share the file do not know of each other, and ruin it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        real = path.resolve()
        self._log = (Path(f"{real}-wal"), Path(f"{real}-shm"))
        self._identities: dict[Path, tuple[int, int]] = {}

    def gone(self) -> StoreError | None:
        """Return our error if a path leads to another file by now, or to none.

        To be asked within a transaction at first, when the log is there and nobody may end it.
        """
        if self._is_another(self._path, absent=True):
            return _gone("file", f"put the file back to {self._path}; {_RESTART}")
        # In a folder where SQLite can keep none, there never was one.
        if any(self._is_another(part, absent=part in self._identities) for part in self._log):
            return _gone("log", f"end it by SIGTERM: {self._path} gets what the log had")
        return None

    def _is_another(self, path: Path, *, absent: bool) -> bool:
        try:
            found = path.stat()
        except FileNotFoundError:
            return absent
        except OSError:
            # A folder that does not answer says nothing of the file; SQLite will.
            return False
        identity = (found.st_dev, found.st_ino)
        return self._identities.setdefault(path, identity) != identity


_RESTART: Final = "a restart takes the one that is there, or a new one"


def _gone(what: str, hint: str) -> StoreError:
    return StoreUnavailableError(
        f"the store is away: its {what} was removed or replaced", hint=hint
    )


def translate(exc: BaseException, path: Path) -> BaseException:
    """Return our error for one of SQLite's: the only place where those are told apart.

    Its message may be told to callers, so only the hint says where the file is.
    """
    code = _primary_code(exc)
    if code in _UNAVAILABLE:
        hint = f"its file is {path}"
        if code == sqlite3.SQLITE_READONLY:
            hint += ", and its folder must be writable too: the log of the file is made there"
        error: StoreError = StoreUnavailableError(
            f"the store is away: {_UNAVAILABLE[code]}", hint=hint
        )
    elif code in _CORRUPT:
        error = StoreCorruptError(
            "the store is damaged or no store",
            hint=f"put {path} back from a backup, with no {path.name}-wal and -shm beside it",
        )
    elif isinstance(exc, sqlite3.OperationalError):
        error = StoreCorruptError(
            "the store does not have the tables it should", hint=f"its file is {path}"
        )
    else:
        # A constraint or a wrong use of the library: a bug, and no state of the store.
        return exc
    error.__cause__ = exc
    return error


def _primary_code(exc: BaseException) -> int:
    code: int = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    return code
