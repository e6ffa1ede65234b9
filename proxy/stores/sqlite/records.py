"""Reading jobs, as their records and their claims say together."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from proxy.core.ids import JobId
from proxy.core.job import Job
from proxy.stores.codec import decode_job
from proxy.stores.sqlite.database import Select

_JOBS: Final = Select(
    "jobs.id, jobs.record, batches.id, results.ending",
    """
    FROM json_each(?) AS wanted
    CROSS JOIN jobs ON jobs.id = wanted.value AND jobs.state <> 'erased'
    LEFT JOIN items ON items.job = jobs.num AND items.attempt = jobs.attempt + 1
        AND jobs.state = 'queued'
    LEFT JOIN batches ON batches.num = items.batch
    LEFT JOIN results ON results.job = jobs.num
    """,
)


def find_job(connection: sqlite3.Connection, job_id: JobId) -> Job | None:
    """Return the job, if there is one."""
    found = find_jobs(connection, [job_id])
    return found[0] if found else None


def find_jobs(connection: sqlite3.Connection, job_ids: Sequence[JobId]) -> list[Job]:
    """Return those of the jobs that exist, in the order asked for."""
    rows = {job_id: row for job_id, *row in _JOBS.rows(connection, json.dumps(job_ids))}
    return [decode_job(*rows[job_id]) for job_id in job_ids if job_id in rows]
