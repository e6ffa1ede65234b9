"""Making jobs durable, as many as are accepted at one moment.

Each of them is a row in four tables, and moves the counters of its owner and of its
batch key. Rows are inserted by one statement for each table, and counters are moved
once for each owner and key, however many jobs there are.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from proxy.core.ids import OwnerId
from proxy.core.job import Job
from proxy.core.repeats import Answered
from proxy.ports.jobs import Acceptance, NewJob, Pending
from proxy.stores.codec import to_micros
from proxy.stores.sqlite.erase import as_blob
from proxy.stores.sqlite.queue import enqueue
from proxy.stores.sqlite.records import find_job
from proxy.stores.sqlite.statements import Insert, Row

_REMEMBER: Final = Insert(
    "credentials",
    columns=9,
    # Written only where it changes something: all jobs of a credential meet here.
    on_conflict="(id) DO UPDATE SET unused = 0 WHERE unused <> 0",
)

_JOBS: Final = Insert(
    "jobs (num, id, owner, state, attempt, version, accepted, credential, record)", columns=9
)
_PAYLOADS: Final = Insert("payloads", columns=2)
_DELIVERIES: Final = Insert("deliveries", columns=7)
_OWNERS: Final = Insert(
    "owners",
    columns=3,
    on_conflict="(owner) DO UPDATE SET jobs = jobs + excluded.jobs, bytes = bytes + excluded.bytes",
)

_NOTHING: Final = Pending(0, 0)


@dataclass(frozen=True, slots=True)
class Accepting:
    """A job on its way into the store, with everything encoded."""

    new: NewJob
    record: str
    sealed: bytes
    """The body."""

    credential: Row | None


def remember(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Keep credentials that are new, and say of the others that they are used."""
    _REMEMBER.execute(connection, list({row[0]: row for row in rows}.values()))


def accept_many(connection: sqlite3.Connection, arrivals: Sequence[Accepting]) -> list[Acceptance]:
    """Write all whose idempotency key is new; return what each call is given."""
    credentials = [one.credential for one in arrivals if one.credential is not None]
    if credentials:
        remember(connection, credentials)
    done = []
    fresh: list[Accepting] = []
    keyed: dict[tuple[str, str], Job] = {}
    for one in arrivals:
        known = _known(connection, one.new, keyed)
        if known is None:
            fresh.append(one)
        done.append(Acceptance(known or one.new.job, created=known is None))
    if fresh:
        _insert(connection, fresh)
    return done


def find_keyed(connection: sqlite3.Connection, owner: OwnerId, key: str) -> Job | None:
    """Return the job that an owner's idempotency key stands for, if it is kept."""
    row = connection.execute(
        "SELECT jobs.id FROM idempotency JOIN jobs ON jobs.num = idempotency.job"
        " WHERE idempotency.owner = ? AND idempotency.key = ?",
        (owner, key),
    ).fetchone()
    return find_job(connection, row[0]) if row else None


def _known(
    connection: sqlite3.Connection, new: NewJob, keyed: dict[tuple[str, str], Job]
) -> Job | None:
    """Return the job that the call's key stands for, even one of a call in the same group."""
    if new.idempotency_key is None:
        return None
    place = (new.job.owner, new.idempotency_key)
    found = find_keyed(connection, *place)
    if found is not None:
        return found
    known = keyed.get(place)
    keyed.setdefault(place, new.job)
    return known


def _insert(connection: sqlite3.Connection, fresh: Sequence[Accepting]) -> None:
    # By hand, so that no other table has to ask which number SQLite gave. Nobody else
    # writes while this transaction does.
    (last,) = connection.execute("SELECT coalesce(max(num), 0) FROM jobs").fetchone()
    numbered = list(enumerate(fresh, start=last + 1))
    _JOBS.execute(connection, [_job_row(number, one) for number, one in numbered])
    _PAYLOADS.execute(connection, [(number, one.sealed) for number, one in numbered])
    _DELIVERIES.execute(connection, [_delivery_row(number, one.new) for number, one in numbered])
    enqueue(connection, [(number, one.new.job) for number, one in numbered])
    _count(connection, [one.new.job for one in fresh])
    for number, one in numbered:
        if one.new.idempotency_key is not None or one.new.job.tags:
            _insert_names(connection, number, one.new)


def _job_row(number: int, one: Accepting) -> Row:
    job = one.new.job
    return (
        number,
        job.id,
        job.owner,
        job.state,
        job.attempt,
        job.version,
        to_micros(job.accepted_at),
        job.key.credential,
        one.record,
    )


def _delivery_row(number: int, new: NewJob) -> Row:
    job = new.job
    return (
        number,
        job.owner,
        job.fingerprint,
        Answered.WAITING,
        to_micros(new.waiter_until),
        new.retry_count,
        to_micros(job.accepted_at),
    )


def _count(connection: sqlite3.Connection, jobs: Sequence[Job]) -> None:
    sums: dict[OwnerId, Pending] = {}
    for job in jobs:
        seen = sums.get(job.owner, _NOTHING)
        sums[job.owner] = Pending(seen.jobs + 1, seen.body_bytes + job.body_bytes)
    _OWNERS.execute(
        connection, [(owner, more.jobs, more.body_bytes) for owner, more in sums.items()]
    )


def _insert_names(connection: sqlite3.Connection, number: int, new: NewJob) -> None:
    job = new.job
    if new.idempotency_key is not None:
        connection.execute(
            "INSERT INTO idempotency VALUES (?, ?, ?)", (job.owner, new.idempotency_key, number)
        )
    connection.executemany(
        "INSERT INTO tags VALUES (?, ?, ?, ?, ?)",
        [
            (job.owner, as_blob(name), as_blob(value), to_micros(job.accepted_at), number)
            for name, value in job.tags.items()
        ],
    )
