"""Small shared records."""

import sqlite3
from functools import partial

from proxy.ports.notes import Note
from proxy.stores.sqlite.database import Database


class SqliteNoteStore:
    """Notes of the processes that share the file."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, name: str) -> Note | None:
        return await self._database.read(partial(_read, name=name))

    async def write(self, name: str, note: Note) -> bool:
        return await self._database.write(partial(_write, name=name, note=note))


def prepare(connection: sqlite3.Connection) -> None:
    """Make what is missing."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, version INTEGER NOT NULL,"
        " text TEXT NOT NULL) WITHOUT ROWID"
    )


def _read(connection: sqlite3.Connection, name: str) -> Note | None:
    # As bytes: whoever reads a note takes a damaged one for none, and writes it anew.
    query = "SELECT CAST(text AS BLOB), version FROM notes WHERE name = ?"
    row = connection.execute(query, (name,)).fetchone()
    return None if row is None else Note(row[0].decode(errors="replace"), row[1])


def _write(connection: sqlite3.Connection, name: str, note: Note) -> bool:
    if note.version == 1:
        written = connection.execute(
            "INSERT OR IGNORE INTO notes VALUES (?, 1, ?)", (name, note.text)
        )
    else:
        written = connection.execute(
            "UPDATE notes SET version = ?, text = ? WHERE name = ? AND version = ?",
            (note.version, note.text, name, note.version - 1),
        )
    return written.rowcount == 1
