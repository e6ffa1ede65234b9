"""Writing many jobs at one moment.

A group of results is the most that is ever written at once. It takes a handful of
statements, however many jobs there are: see `Insert` for why that counts.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple

from pydantic_core import from_json

from proxy.core.chunks import chunked
from proxy.core.ids import JobId
from proxy.core.job import TERMINAL, Job, JobState
from proxy.core.ledger import Booking
from proxy.ports.jobs import Result
from proxy.stores.codec import decode_job, to_micros, to_micros_or
from proxy.stores.sqlite.ledger import add_bookings
from proxy.stores.sqlite.notices import owe
from proxy.stores.sqlite.queue import dequeue, enqueue
from proxy.stores.sqlite.statements import Insert, Row

CHUNK: Final = 100

_VERSIONS: Final = """
    SELECT json_group_array(json_array(
        jobs.id, jobs.num, jobs.state, jobs.version, items.batch IS NOT NULL
    ))
    FROM json_each(?) AS wanted
    CROSS JOIN jobs ON jobs.id = wanted.value AND jobs.state <> 'erased'
        AND NOT EXISTS (SELECT 1 FROM results WHERE results.job = jobs.num)
    LEFT JOIN items ON items.job = jobs.num AND items.attempt = jobs.attempt + 1
        AND jobs.state = 'queued'
"""
"""Only jobs without a result: those with one are never written again."""

_COLUMNS: Final = 6
_UPDATE: Final = """
    WITH after (num, state, attempt, version, finalized, record) AS (VALUES {rows})
    UPDATE jobs SET state = after.state, attempt = after.attempt, version = after.version,
        finalized = after.finalized, record = coalesce(after.record, jobs.record)
    FROM after WHERE jobs.num = after.num
"""

_RESULTS: Final = Insert("results", columns=8)


class EncodedWrite(NamedTuple):
    """A write with everything encoded, so that the transaction is short."""

    after: Job
    text: str
    """The job's record, or what its end changed of it if it ended with a result."""

    bookings: tuple[Booking, ...] = ()
    result: Result | None = None
    sealed: bytes = b""
    """The result's body."""


class _Stored(NamedTuple):
    """What is stored of a job, less the record, which is long to read."""

    number: int
    state: str
    version: int
    """As `get` reports it."""

    is_claimed: bool


_Accepted = Sequence[tuple[_Stored, EncodedWrite]]
"""Writes that go through, each with what it replaces."""


def replace_many(
    connection: sqlite3.Connection, writes: Sequence[EncodedWrite]
) -> frozenset[JobId]:
    """Write all whose version is next; return the IDs of the others."""
    assert len({write.after.id for write in writes}) == len(writes), "a job is written once"
    stored = _stored(connection, [write.after.id for write in writes])
    accepted = [
        (before, write)
        for write in writes
        if (before := stored.get(write.after.id)) and before.version == write.after.version - 1
    ]
    _take_out(connection, accepted)
    _put_back(connection, accepted)
    _write_records(connection, accepted)
    _write_results(connection, accepted)
    add_bookings(connection, chain.from_iterable(write.bookings for _, write in accepted))
    _note_ends(connection, accepted)
    return frozenset(write.after.id for write in writes) - {write.after.id for _, write in accepted}


def _take_out(connection: sqlite3.Connection, accepted: _Accepted) -> None:
    """Take jobs out of the queue, and drop the payloads and deliveries of cancelled ones."""
    for before, write in accepted:
        if before.state == JobState.QUEUED and not before.is_claimed:
            _dequeue(connection, before.number)
        if write.after.state is JobState.CANCELLED:
            connection.execute("DELETE FROM payloads WHERE job = ?", (before.number,))
            connection.execute("DELETE FROM deliveries WHERE job = ?", (before.number,))


def _put_back(connection: sqlite3.Connection, accepted: _Accepted) -> None:
    """Put jobs into the queue that wait there again."""
    again = [
        (before.number, write.after)
        for before, write in accepted
        if write.after.state is JobState.QUEUED
    ]
    if again:
        enqueue(connection, again)


def _note_ends(connection: sqlite3.Connection, accepted: _Accepted) -> None:
    """Count jobs as pending no more that have ended by this write, and owe their notices."""
    ended = [
        (before.number, write.after)
        for before, write in accepted
        if write.after.state.is_terminal and before.state not in TERMINAL
    ]
    _uncount_pending(connection, [job for _, job in ended])
    for chunk in chunked(ended, CHUNK):
        owe(connection, chunk)


def _stored(connection: sqlite3.Connection, job_ids: Sequence[JobId]) -> dict[str, _Stored]:
    (rows,) = connection.execute(_VERSIONS, (json.dumps(job_ids),)).fetchone()
    return {
        job_id: _Stored(number, state, version + is_claimed, bool(is_claimed))
        for job_id, number, state, version, is_claimed in from_json(rows)
    }


def _dequeue(connection: sqlite3.Connection, number: int) -> None:
    (record,) = connection.execute("SELECT record FROM jobs WHERE num = ?", (number,)).fetchone()
    dequeue(connection, number, decode_job(record))


def _write_records(connection: sqlite3.Connection, accepted: _Accepted) -> None:
    rows: list[Row] = []
    for before, write in accepted:
        after = write.after
        finalized, record = None, None
        if write.result is None:
            record = write.text
            finalized = to_micros_or(after.finalized_at, None)
        elif before.is_claimed and after.state is JobState.COMPLETED:
            # Its result says all, and no index has an entry for it to be moved.
            continue
        rows.append((before.number, after.state, after.attempt, after.version, finalized, record))
    row = f"({', '.join('?' * _COLUMNS)})"
    for chunk in chunked(rows, CHUNK):
        update = _UPDATE.format(rows=", ".join([row] * len(chunk)))
        connection.execute(update, tuple(chain.from_iterable(chunk)))


def _write_results(connection: sqlite3.Connection, accepted: _Accepted) -> None:
    rows: list[Row] = []
    for before, write in accepted:
        if (result := write.result) is not None:
            ended_at = write.after.finalized_at
            assert ended_at is not None, f"job {write.after.id} has a result and did not end"
            whole = (result.status_code, result.content_type, result.request_id, write.sealed)
            rows.append((None, before.number, to_micros(ended_at), write.text, *whole))
    for chunk in chunked(rows, CHUNK):
        _RESULTS.execute(connection, chunk)


def _uncount_pending(connection: sqlite3.Connection, ended: Sequence[Job]) -> None:
    # Once for each owner: the results of a batch are nearly always one owner's.
    for owner, count in Counter(job.owner for job in ended).items():
        size = sum(job.body_bytes for job in ended if job.owner == owner)
        connection.execute(
            "UPDATE owners SET jobs = jobs - ?, bytes = bytes - ? WHERE owner = ?",
            (count, size, owner),
        )
