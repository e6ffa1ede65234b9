"""The tables, and the refusal of those that a newer version made.

Times are microseconds since 1970, records the JSON of `proxy.stores.codec`, bodies
sealed. `job` in other tables is `jobs.num`: a number, since it stands in many
indexes.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from proxy.core.errors import StoreCorruptError

APPLICATION_ID: Final = 0x0FF8A3B1
"""Marks the file as ours, for `file` and for whoever opens a foreign one."""

# Of SQLite's files (sqlite.org/fileformat2.html, section 1.3).
_HEADER_BYTES: Final = 100
_APPLICATION_ID_AT: Final = 68

SCHEMA: Final = 3

RESULTS: Final = (
    # Stored in the order of arrival, which is not that of the jobs: a page then takes
    # several at once, where a group of ends that wrote to their jobs would write a page for
    # each, most of what it writes. `ending` is what the end changed of the job's record.
    """
    CREATE TABLE results (
        num INTEGER PRIMARY KEY,
        job INTEGER NOT NULL,
        finalized INTEGER NOT NULL,
        ending TEXT NOT NULL,
        status INTEGER NOT NULL,
        content_type TEXT NOT NULL,
        request_id TEXT,
        body BLOB NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX results_of_job ON results (job)",
    "CREATE INDEX results_ended ON results (finalized, job)",
)

ITEMS: Final = (
    # Stored in the order of claiming. In that of submission, by `affinity`, each row of a
    # chunk would stand on another page: a claim of 50,000 then writes 76 MB instead of 13.
    """
    CREATE TABLE items (
        batch INTEGER NOT NULL,
        job INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        affinity TEXT NOT NULL,
        PRIMARY KEY (batch, job)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX items_of_job ON items (job, attempt)",
)

TABLES: Final = (
    # Checks that the key file is the one that the store was made with.
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # `record` is written when a job is accepted, rerouted, escalated, released or ends
    # without a result. It is not rewritten by a claim, nor by an end with one: see
    # `results`; what completes a claimed job leaves the whole row as it is, `queued`. The
    # state `erased` is a tombstone: all but ID and owner is gone, and items still refer
    # to it.
    """
    CREATE TABLE jobs (
        num INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        version INTEGER NOT NULL,
        accepted INTEGER NOT NULL,
        finalized INTEGER,
        credential TEXT NOT NULL,
        record TEXT NOT NULL
    )
    """,
    # Without the state, which moves no entry then; those that are looked for among many
    # others have their own.
    "CREATE INDEX jobs_listed ON jobs (owner, accepted)",
    """
    CREATE INDEX jobs_rare ON jobs (owner, state, accepted)
        WHERE state IN ('escalating', 'failed', 'expired', 'cancelled')
    """,
    "CREATE INDEX jobs_ended ON jobs (finalized) WHERE finalized IS NOT NULL",
    "CREATE INDEX jobs_escalating ON jobs (credential) WHERE state = 'escalating'",
    # Apart from the records, so that reading those does not read these.
    "CREATE TABLE payloads (job INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    *RESULTS,
    """
    CREATE TABLE tags (
        owner TEXT NOT NULL,
        name BLOB NOT NULL,
        value BLOB NOT NULL,
        accepted INTEGER NOT NULL,
        job INTEGER NOT NULL,
        PRIMARY KEY (owner, name, value, accepted, job)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX tags_of_job ON tags (job)",
    """
    CREATE TABLE idempotency (
        owner TEXT NOT NULL,
        key TEXT NOT NULL,
        job INTEGER NOT NULL,
        PRIMARY KEY (owner, key)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX idempotency_of_job ON idempotency (job)",
    # What is not terminal, counted as it changes: admission asks often.
    """
    CREATE TABLE owners (
        owner TEXT PRIMARY KEY,
        jobs INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    # One row per batch key, counted at accept, claim and replace: a planner that
    # counted the queue would read a million rows.
    """
    CREATE TABLE keys (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        credential TEXT NOT NULL,
        count INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0,
        tokens INTEGER NOT NULL DEFAULT 0,
        held INTEGER NOT NULL DEFAULT 0,
        small INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX keys_of_credential ON keys (credential)",
    # Stored in the order of claiming, so that a claim cuts off one end.
    """
    CREATE TABLE queue (
        key INTEGER NOT NULL,
        ready INTEGER NOT NULL,
        job INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        deadline INTEGER NOT NULL,
        affinity TEXT NOT NULL,
        held INTEGER NOT NULL,
        PRIMARY KEY (key, ready, job)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX queue_deadlines ON queue (key, deadline)",
    # `claimed_…` is what the items add up to; the record says it only once sealed.
    """
    CREATE TABLE batches (
        num INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        version INTEGER NOT NULL,
        created INTEGER NOT NULL,
        settled INTEGER,
        credential TEXT NOT NULL,
        claimed_count INTEGER NOT NULL DEFAULT 0,
        claimed_bytes INTEGER NOT NULL DEFAULT 0,
        claimed_tokens INTEGER NOT NULL DEFAULT 0,
        claimed_deadline INTEGER,
        record TEXT NOT NULL
    )
    """,
    "CREATE INDEX batches_live ON batches (created) WHERE state <> 'settled'",
    "CREATE INDEX batches_recent ON batches (created)",
    "CREATE INDEX batches_settled ON batches (settled) WHERE settled IS NOT NULL",
    *ITEMS,
    # The lease of a broken connection ended at 0.
    """
    CREATE TABLE deliveries (
        job INTEGER PRIMARY KEY,
        owner TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        state TEXT NOT NULL,
        until INTEGER NOT NULL,
        retry_count INTEGER NOT NULL,
        claimed INTEGER NOT NULL
    )
    """,
    # A delivery stands in the one or in the other: those that are out are many, and
    # only the last minutes of them matter.
    """
    CREATE INDEX deliveries_open ON deliveries (owner, fingerprint, job)
        WHERE state <> 'flushed'
    """,
    """
    CREATE INDEX deliveries_flushed ON deliveries (owner, fingerprint, claimed)
        WHERE state = 'flushed'
    """,
    "CREATE INDEX deliveries_waiting ON deliveries (until, owner) WHERE state <> 'flushed'",
    # `unused` is set by a pass that found it so; the next pass may erase it.
    """
    CREATE TABLE credentials (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        upstream TEXT NOT NULL,
        headers BLOB NOT NULL,
        succeeded INTEGER,
        paused INTEGER,
        pause_status INTEGER,
        pause_body BLOB,
        unused INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID
    """,
    "CREATE INDEX credentials_of_owner ON credentials (owner, upstream)",
    """
    CREATE TABLE unbatchable (
        credential TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        model BLOB NOT NULL,
        until INTEGER NOT NULL,
        PRIMARY KEY (credential, endpoint, model)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE leases (
        name TEXT PRIMARY KEY,
        holder TEXT NOT NULL,
        until INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
)


_TO_2: Final = (
    # A result was found by the number that its job kept, and the job kept the end, too.
    "ALTER TABLE results RENAME TO old_results",
    *RESULTS,
    """
    INSERT INTO results
    SELECT old_results.num, jobs.num, finalized, ending, status, content_type, request_id, body
    FROM jobs JOIN old_results ON old_results.num = jobs.result
    """,
    "DROP TABLE old_results",
    "UPDATE jobs SET finalized = NULL WHERE result IS NOT NULL",
    "ALTER TABLE jobs DROP COLUMN result",
)

_TO_3: Final = (
    # Items stood in the order of submission.
    "ALTER TABLE items RENAME TO old_items",
    "DROP INDEX items_of_job",
    *ITEMS,
    "INSERT INTO items SELECT batch, job, attempt, bytes, affinity FROM old_items ORDER BY 1, 2",
    "DROP TABLE old_items",
)

_STEPS: Final = {2: _TO_2, 3: _TO_3}
"""What brings a file to a schema from the one before it."""


def prepare(connection: sqlite3.Connection) -> None:
    """Create the tables in an empty file, or check that they are ours and bring them up to date.

    Raises:
        StoreCorruptError: if the file is another program's or a newer version's.
    """
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        _execute(connection, TABLES)
        return
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id != APPLICATION_ID:
        raise StoreCorruptError("the store's file is another program's database")
    if schema > SCHEMA:
        raise StoreCorruptError(
            f"the store was written by a newer version (schema {schema}, this one knows {SCHEMA})",
            hint="start the newer version again, or restore a backup from before it",
        )
    for step in range(schema + 1, SCHEMA + 1):
        _execute(connection, _STEPS[step])
        connection.execute(f"PRAGMA user_version = {step}")


def is_ours(path: Path) -> bool:
    """Return whether a store of ours is in the file, as far as can be seen without its keys."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError:
        # What is wrong with it is said where it is opened.
        return False
    return header[_APPLICATION_ID_AT:].startswith(APPLICATION_ID.to_bytes(4))


def _execute(connection: sqlite3.Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.execute(statement)
