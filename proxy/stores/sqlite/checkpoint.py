"""Folding the write-ahead log into the file, beside the writes.

Left to itself SQLite does it inside a commit: every few hundred jobs one caller,
and all that wait behind, would wait for megabytes to be copied and synced.
"""

import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from proxy.stores.sqlite.connection import OpenFile, connect

PAUSE_S: Final = 0.5
"""How long writes gather before they are folded: a page that changes often is copied once."""

LONG_PAGES: Final = 2_048
"""Above this many pages (8 MB) a new log is begun, for which the writer has to pause."""

_FOLD: Final = "PRAGMA wal_checkpoint(PASSIVE)"


class Checkpointer:
    """A thread that copies what is committed, as far as nobody has to wait."""

    def __init__(self, path: Path, file: OpenFile) -> None:
        self._path = path
        self._file = file
        self._written = threading.Event()
        self._stopped = threading.Event()
        self._is_long = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store:checkpoint", daemon=True)
        self._thread.start()

    def after_commit(self, connection: sqlite3.Connection) -> None:
        """Note a commit. Called by the writer, outside of a transaction."""
        self._written.set()
        if self._is_long.is_set():
            self._is_long.clear()
            # Nearly all is copied. With the little that came since, the log is complete and the
            # next write begins a new one; without this, the log of a store that is never idle would
            # grow without end.
            with suppress(sqlite3.Error):
                connection.execute(_FOLD)

    def stop(self) -> None:
        """End the thread; what is not folded is when the last connection closes."""
        self._stopped.set()
        self._written.set()
        self._thread.join()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while self._written.wait() and not self._stopped.wait(PAUSE_S):
            self._written.clear()
            if self._stopped.is_set():
                # `stop` may have come between the two lines above: what was cleared
                # was its call to wake up, and nobody would call again.
                break
            if self._file.gone() is not None:
                # Others may have begun a log of their own: beside theirs, this one ruins the file.
                continue
            # A failure, e.g. a full disk, is no loss: the log stays, and the next
            # write tells whoever asked for it.
            with suppress(sqlite3.Error):
                connection = connection or connect(self._path, writes=False)
                _, pages, _ = connection.execute(_FOLD).fetchone()
                if pages >= LONG_PAGES:
                    self._is_long.set()
        if connection is not None:
            connection.close()
