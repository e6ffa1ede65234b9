"""The list of an owner's jobs, read page by page."""

import sqlite3
from typing import Any, Final

from proxy.core.errors import JobNotFoundError, StoreCorruptError
from proxy.core.ids import JobId, OwnerId
from proxy.core.job import Job, JobState
from proxy.ports.jobs import JobFilter, UnreadJob
from proxy.stores.codec import decode_job
from proxy.stores.sqlite.erase import as_blob
from proxy.stores.unread import Unread

PAGE: Final = 500

_LATEST: Final = (1 << 62, 1 << 62)

# As bytes: as text, one that is no UTF-8 any more fails the whole query.
_COLUMNS: Final = """
    SELECT jobs.accepted, jobs.num, jobs.id, jobs.state, CAST(jobs.record AS BLOB), batches.id,
        CAST(results.ending AS BLOB)
    FROM {source}
    LEFT JOIN items ON items.job = jobs.num AND items.attempt = jobs.attempt + 1
        AND jobs.state = 'queued'
    LEFT JOIN batches ON batches.num = items.batch
    LEFT JOIN results ON results.job = jobs.num
"""

_RARE: Final = frozenset(
    {JobState.ESCALATING, JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED}
)
_BY_RARE_STATE: Final = (
    _COLUMNS.format(source="jobs INDEXED BY jobs_rare")
    + """
    WHERE jobs.owner = ? AND jobs.state = ?
    AND jobs.state IN ('escalating', 'failed', 'expired', 'cancelled')
    AND (jobs.accepted, jobs.num) < (?, ?)
    ORDER BY jobs.accepted DESC, jobs.num DESC LIMIT ?
"""
)

_ALL: Final = (
    _COLUMNS.format(source="jobs INDEXED BY jobs_listed")
    + """
    WHERE jobs.owner = ? AND jobs.state <> 'erased' AND (jobs.accepted, jobs.num) < (?, ?)
    ORDER BY jobs.accepted DESC, jobs.num DESC LIMIT ?
"""
)

_BY_TAG: Final = (
    _COLUMNS.format(source="tags JOIN jobs ON jobs.num = tags.job")
    + """
    WHERE tags.owner = ? AND tags.name = ? AND tags.value = ? AND (tags.accepted, tags.job) < (?, ?)
    ORDER BY tags.accepted DESC, tags.job DESC LIMIT ?
"""
)


class Listing:
    """One call of `list_jobs`, newest first."""

    def __init__(
        self,
        owner: OwnerId,
        where: JobFilter,
        unread: Unread,
        *,
        after: JobId | None,
        limit: int,
    ) -> None:
        self.found: list[Job | UnreadJob] = []
        self._unread = unread
        self.complete = limit <= 0
        self._owner = owner
        self._where = where
        self._after = after
        self._limit = limit
        self._states = frozenset(JobState) if where.states is None else where.states
        self._reached: tuple[int, int] | None = None

    def read_page(self, connection: sqlite3.Connection) -> None:
        """Look at up to `PAGE` further jobs.

        Raises:
            JobNotFoundError: if `after` is no job of this owner.
        """
        position = self._position(connection)
        size = PAGE
        if self._where.tag is None and self._where.states is None:
            size = min(PAGE, self._limit - len(self.found))
        rows = self._rows(connection, position, size)
        for _, _, job_id, state, *stored in rows:
            if _shown(state, *stored[1:]) in self._states and len(self.found) < self._limit:
                job = self._unread.read(job_id, stored, lambda parts: decode_job(*parts))
                self.found.append(
                    UnreadJob(job_id, job) if isinstance(job, StoreCorruptError) else job
                )
        self.complete = len(rows) < size or len(self.found) >= self._limit
        if rows:
            self._reached = rows[-1][:2]

    def _position(self, connection: sqlite3.Connection) -> tuple[int, int]:
        if self._reached is not None:
            return self._reached
        if self._after is None:
            return _LATEST
        row: tuple[int, int] | None = connection.execute(
            "SELECT accepted, num FROM jobs WHERE id = ? AND owner = ? AND state <> 'erased'",
            (self._after, self._owner),
        ).fetchone()
        if row is None:
            raise JobNotFoundError(self._after)
        return row

    def _rows(
        self, connection: sqlite3.Connection, position: tuple[int, int], size: int
    ) -> list[tuple[Any, ...]]:
        if self._where.tag is not None:
            name, value = map(as_blob, self._where.tag)
            return connection.execute(
                _BY_TAG, (self._owner, name, value, *position, size)
            ).fetchall()
        if not self._states <= _RARE:
            return connection.execute(_ALL, (self._owner, *position, size)).fetchall()
        rows = [
            row
            for state in self._states
            for row in connection.execute(_BY_RARE_STATE, (self._owner, state, *position, size))
        ]
        rows.sort(reverse=True)
        return rows[:size]


def _shown(state: str, batch_id: str | None, ending: bytes | None) -> str:
    # The row of a job that is claimed still says `queued`, and so it does once it completes.
    if state != JobState.QUEUED:
        return state
    if ending is not None:
        return JobState.COMPLETED
    return JobState.BATCHED if batch_id is not None else JobState.QUEUED
