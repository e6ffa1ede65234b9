"""Reading jobs, as their records and their claims say together."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from proxy.core.ids import JobId
from proxy.core.job import Job
from proxy.stores.codec import decode_jobs

_JOBS: Final = """
    SELECT '[' || coalesce(group_concat(
        '[' || jobs.record || ',' || json_quote(batches.id)
        || ',' || coalesce(results.ending, 'null') || ']'
    ), '') || ']'
    FROM json_each(?) AS wanted
    CROSS JOIN jobs ON jobs.id = wanted.value AND jobs.state <> 'erased'
    LEFT JOIN items ON items.job = jobs.num AND items.attempt = jobs.attempt + 1
        AND jobs.state = 'queued'
    LEFT JOIN batches ON batches.num = items.batch
    LEFT JOIN results ON results.job = jobs.num
"""
"""All at once (see `statements.py`); and as records are JSON, they are the list's as they are."""


def find_job(connection: sqlite3.Connection, job_id: JobId) -> Job | None:
    """Return the job, if there is one."""
    found = find_jobs(connection, [job_id])
    return found[0] if found else None


def find_jobs(connection: sqlite3.Connection, job_ids: Sequence[JobId]) -> list[Job]:
    """Return those of the jobs that exist, in the order asked for."""
    (text,) = connection.execute(_JOBS, (json.dumps(job_ids),)).fetchone()
    jobs = {job.id: job for job in decode_jobs(text)}
    return [jobs[job_id] for job_id in job_ids if job_id in jobs]
