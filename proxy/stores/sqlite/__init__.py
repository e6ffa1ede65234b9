"""The embedded store: one SQLite file, which several processes of one machine may share.

the ports    jobs, queue (with claim), batches, credentials, deliveries, leases, ledger, notes,
             notices, runs, wakeups
of jobs      accepting, replace, records, listing, erase
the file     database (its threads), connection, schema, checkpoint, gather, statements
"""

import sqlite3
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, Self

from proxy.core.errors import StoreCorruptError
from proxy.stores.sqlite import credentials, ledger, notes, notices, runs, schema
from proxy.stores.sqlite.batches import SqliteBatchStore
from proxy.stores.sqlite.credentials import SqliteCredentialStore
from proxy.stores.sqlite.database import Database
from proxy.stores.sqlite.deliveries import SqliteDeliveryStore
from proxy.stores.sqlite.jobs import SqliteJobStore
from proxy.stores.sqlite.leases import SqliteLeaseStore, SqliteUnbatchableStore
from proxy.stores.sqlite.ledger import SqliteLedgerStore
from proxy.stores.sqlite.notes import SqliteNoteStore
from proxy.stores.sqlite.notices import SqliteNoticeStore
from proxy.stores.sqlite.queue import SqliteQueueStore
from proxy.stores.sqlite.runs import SqliteRunStore
from proxy.stores.sqlite.wakeups import SqliteWakeups
from proxy.stores.vault import Vault


class SqliteStores:
    """All stores over one file."""

    setback: Final = timedelta()
    """None: a commit is on the disk."""

    def __init__(self, database: Database, path: Path, vault: Vault) -> None:
        self._database = database
        self.jobs = SqliteJobStore(database, vault)
        self.queue = SqliteQueueStore(database)
        self.deliveries = SqliteDeliveryStore(database)
        self.credentials = SqliteCredentialStore(database, vault)
        self.batches = SqliteBatchStore(database, vault)
        self.unbatchable = SqliteUnbatchableStore(database)
        self.leases = SqliteLeaseStore(database)
        self.ledger = SqliteLedgerStore(database)
        self.wakeups = SqliteWakeups(path)
        self.runs = SqliteRunStore(database)
        self.notes = SqliteNoteStore(database)
        self.notices = SqliteNoticeStore(database)

    @classmethod
    async def open(cls, path: Path, vault: Vault) -> Self:
        """Open the file, or make it if there is none, readable for this user only.

        Raises:
            StoreError: if it cannot be made.
            StoreUnavailableError: if it cannot be used now.
            StoreCorruptError: if it is damaged, another program's, a newer version's,
                was made with another key file, or
                needs a key that the file does not hold any more.
        """
        return cls(
            await Database.open(path, partial(_prepare, path=path, vault=vault)), path, vault
        )

    async def aclose(self) -> None:
        """Finish what was begun, and close the file."""
        self.wakeups.close()
        await self._database.aclose()


def _prepare(connection: sqlite3.Connection, *, path: Path, vault: Vault) -> None:
    schema.prepare(connection)
    runs.prepare(connection)
    notes.prepare(connection)
    ledger.prepare(connection)
    notices.prepare(connection)
    # With another hash key every owner would be a stranger to their own jobs.
    mark = vault.digest("offramp", "store")
    connection.execute("INSERT OR IGNORE INTO meta VALUES ('hash_key', ?)", (mark,))
    (known,) = connection.execute("SELECT value FROM meta WHERE name = 'hash_key'").fetchone()
    if known != mark:
        raise StoreCorruptError(
            f"the store {path} was made with another key file than {vault.source}",
            hint="set secret_key_file to the one that was there first",
        )
    credentials.prepare(connection, vault)
