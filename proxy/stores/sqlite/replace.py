"""Writing many jobs at one moment.

A group of results is the most that is ever written at once. It takes a handful of
statements, however many jobs there are: see `Insert` for why that counts.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple

from proxy.core.ids import JobId
from proxy.core.job import TERMINAL, Job, JobState
from proxy.core.ledger import Booking
from proxy.ports.jobs import Result
from proxy.stores.codec import decode_job, to_micros
from proxy.stores.sqlite.database import Insert, Row, Select
from proxy.stores.sqlite.ledger import add_bookings
from proxy.stores.sqlite.notices import owe
from proxy.stores.sqlite.queue import dequeue, enqueue

CHUNK: Final = 100

_VERSIONS: Final = Select(
    "jobs.id, jobs.num, jobs.state, jobs.version, items.batch IS NOT NULL",
    """
    FROM json_each(?) AS wanted
    CROSS JOIN jobs ON jobs.id = wanted.value AND jobs.state <> 'erased'
    LEFT JOIN items ON items.job = jobs.num AND items.attempt = jobs.attempt + 1
        AND jobs.state = 'queued'
    """,
)

_COLUMNS: Final = 7
_UPDATE: Final = """
    WITH after (num, state, attempt, version, finalized, result, record) AS (VALUES {rows})
    UPDATE jobs SET state = after.state, attempt = after.attempt, version = after.version,
        finalized = after.finalized, result = after.result,
        record = coalesce(after.record, jobs.record)
    FROM after WHERE jobs.num = after.num
"""

_RESULTS: Final = Insert("results", columns=6)


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


def replace_many(
    connection: sqlite3.Connection, writes: Sequence[EncodedWrite]
) -> frozenset[JobId]:
    """Write all whose version is next; return the IDs of the others."""
    stored = _stored(connection, [write.after.id for write in writes])
    assert len({write.after.id for write in writes}) == len(writes), "a job is written once"
    accepted = [
        (stored[write.after.id], write)
        for write in writes
        if write.after.id in stored and stored[write.after.id].version == write.after.version - 1
    ]
    for before, write in accepted:
        if before.state == JobState.QUEUED and not before.is_claimed:
            _dequeue(connection, before.number)
        if write.after.state is JobState.CANCELLED:
            connection.execute("DELETE FROM payloads WHERE job = ?", (before.number,))
            connection.execute("DELETE FROM deliveries WHERE job = ?", (before.number,))
    again = [
        (before.number, write.after)
        for before, write in accepted
        if write.after.state is JobState.QUEUED
    ]
    if again:
        enqueue(connection, again)
    _write_records(connection, accepted, _write_results(connection, accepted))
    add_bookings(connection, chain.from_iterable(write.bookings for _, write in accepted))
    ended = [
        (before.number, write.after)
        for before, write in accepted
        if write.after.state.is_terminal and before.state not in TERMINAL
    ]
    _uncount_pending(connection, [job for _, job in ended])
    for start in range(0, len(ended), CHUNK):
        owe(connection, ended[start : start + CHUNK])
    return frozenset(write.after.id for write in writes) - {write.after.id for _, write in accepted}


def _stored(connection: sqlite3.Connection, job_ids: Sequence[JobId]) -> dict[str, _Stored]:
    return {
        job_id: _Stored(number, state, version + is_claimed, bool(is_claimed))
        for job_id, number, state, version, is_claimed in _VERSIONS.rows(
            connection, json.dumps(job_ids)
        )
    }


def _dequeue(connection: sqlite3.Connection, number: int) -> None:
    (record,) = connection.execute("SELECT record FROM jobs WHERE num = ?", (number,)).fetchone()
    dequeue(connection, number, decode_job(record))


def _write_records(
    connection: sqlite3.Connection,
    accepted: Sequence[tuple[_Stored, EncodedWrite]],
    results: Mapping[JobId, int],
) -> None:
    rows: list[Row] = [
        (
            before.number,
            write.after.state,
            write.after.attempt,
            write.after.version,
            to_micros(write.after.finalized_at) if write.after.finalized_at else None,
            results.get(write.after.id),
            write.text if write.result is None else None,
        )
        for before, write in accepted
    ]
    row = f"({', '.join('?' * _COLUMNS)})"
    for chunk in _chunks(rows):
        update = _UPDATE.format(rows=", ".join([row] * len(chunk)))
        connection.execute(update, tuple(chain.from_iterable(chunk)))


def _write_results(
    connection: sqlite3.Connection, accepted: Sequence[tuple[_Stored, EncodedWrite]]
) -> dict[JobId, int]:
    """Write the results that there are; return the number of each."""
    (last,) = connection.execute("SELECT coalesce(max(num), 0) FROM results").fetchone()
    rows: list[Row] = []
    numbers: dict[JobId, int] = {}
    for _, write in accepted:
        if (result := write.result) is not None:
            numbers[write.after.id] = number = last + 1 + len(rows)
            whole = (result.status_code, result.content_type, result.request_id, write.sealed)
            rows.append((number, write.text, *whole))
    for chunk in _chunks(rows):
        _RESULTS.execute(connection, chunk)
    return numbers


def _chunks(rows: Sequence[Row]) -> Iterable[Sequence[Row]]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def _uncount_pending(connection: sqlite3.Connection, ended: Sequence[Job]) -> None:
    # Once for each owner: the results of a batch are nearly always one owner's.
    for owner, count in Counter(job.owner for job in ended).items():
        size = sum(job.body_bytes for job in ended if job.owner == owner)
        connection.execute(
            "UPDATE owners SET jobs = jobs - ?, bytes = bytes - ? WHERE owner = ?",
            (count, size, owner),
        )
