"""SQLite files as earlier versions left them."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

_TO_2: Final = """
    ALTER TABLE items RENAME TO new_items;
    DROP INDEX items_of_job;
    CREATE TABLE items (
        batch INTEGER NOT NULL,
        affinity TEXT NOT NULL,
        job INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (batch, affinity, job)
    ) WITHOUT ROWID;
    CREATE INDEX items_of_job ON items (job, attempt);
    INSERT INTO items SELECT batch, affinity, job, attempt, bytes FROM new_items;
    DROP TABLE new_items;
    PRAGMA user_version = 2;
"""

_TO_1: Final = """
    ALTER TABLE jobs ADD COLUMN result INTEGER;
    UPDATE jobs SET result = results.num, finalized = results.finalized, state = 'completed'
        FROM results WHERE results.job = jobs.num;
    DROP INDEX results_of_job;
    DROP INDEX results_ended;
    ALTER TABLE results DROP COLUMN job;
    ALTER TABLE results DROP COLUMN finalized;
    PRAGMA user_version = 1;
"""

_STEPS: Final = {2: _TO_2, 1: _TO_1}


def put_back(path: Path, schema: int) -> None:
    """Make a file of the present version, which nobody has open, one of an earlier schema."""
    with closing(sqlite3.connect(path)) as direct:
        for step in range(schema_of(path) - 1, schema - 1, -1):
            direct.executescript(_STEPS[step])


def schema_of(path: Path) -> int:
    """Return the number of the schema that a file says it has."""
    with closing(sqlite3.connect(path)) as direct:
        (schema,) = direct.execute("PRAGMA user_version").fetchone()
    assert isinstance(schema, int)
    return schema
