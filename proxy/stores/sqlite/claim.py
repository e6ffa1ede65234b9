"""Moving queue rows into a batch."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from time import thread_time
from typing import Final

from proxy.core.batch import BatchState
from proxy.core.ids import BatchId
from proxy.core.lanes import BatchKey
from proxy.ports.batches import Claimed, ClaimLimits
from proxy.stores.codec import encode_key, from_micros, to_micros
from proxy.stores.sqlite.database import HOLD_S
from proxy.stores.sqlite.queue import uncount

_Row = tuple[int, int, int, int, int, int]

_READY: Final = """
    FROM queue WHERE key = (SELECT id FROM keys WHERE key = ?) AND (ready, job) <= (?, ?)
"""
_ANY_JOB: Final = 1 << 62
"""Beside a time: whatever is ready by then."""


_CHUNK_S: Final = HOLD_S / 3
"""How long moving one chunk may take. Whoever writes beside a claim waits for one chunk and for the
commit of both: chunks of `HOLD_S` made that twice as long, and the claim a tenth shorter."""


class ChunkSize:
    """How many rows are moved in one transaction: as many as `_CHUNK_S` has room for.

    Each transaction writes the same few dozen pages again, so that short ones cost more in
    all; and how long a row takes differs by a factor of ten between machines.
    """

    LEAST: Final = 200
    MOST: Final = 2_000

    def __init__(self) -> None:
        self.rows = 500

    def note(self, seconds: float) -> None:
        """Note how much time of the processor it took to move so many rows.

        Not what passed meanwhile: while others have the processor, few rows take as long
        as many.
        """
        # A stroke of luck or of bad luck changes little: it is measured again at once.
        change = min(max(_CHUNK_S / max(seconds, 1e-9), 0.5), 1.5)
        self.rows = min(max(int(self.rows * change), self.LEAST), self.MOST)


@dataclass(frozen=True, slots=True)
class _Taken:
    """The front of the queue, as far as it fits: one sum, and the last row taken."""

    rows: int = 0
    body_bytes: int = 0
    tokens: int = 0
    held: int = 0
    deadline: int | None = None
    last: tuple[int, int] = (0, 0)


def claim_chunk(
    connection: sqlite3.Connection,
    *,
    key: BatchKey,
    batch_id: BatchId,
    limits: ClaimLimits,
    ready_at: datetime,
    size: ChunkSize,
) -> Claimed:
    """Move a chunk of jobs, if there are so many; return what the batch holds then."""
    started = thread_time()
    row = connection.execute(
        "SELECT num, state, claimed_count, claimed_bytes, claimed_tokens, claimed_deadline"
        " FROM batches WHERE id = ?",
        (batch_id,),
    ).fetchone()
    if row is None:
        return _claimed(_Taken(), complete=True)
    batch, state, *sums = row
    held = _Taken(sums[0], sums[1], sums[2], 0, sums[3])
    if state != BatchState.FILLING:
        return _claimed(held, complete=True)
    taken, complete = _front(connection, encode_key(key), to_micros(ready_at), size.rows)
    if not _fits(_sum(held, taken), limits):
        taken, complete = _fitting(_rows(connection, encode_key(key), taken), held, limits), True
    if taken.rows:
        _move(connection, encode_key(key), batch, held, taken)
    if not complete:
        size.note(thread_time() - started)
    return _claimed(_sum(held, taken), complete=complete)


def _front(
    connection: sqlite3.Connection, key: str, ready_at: int, chunk: int
) -> tuple[_Taken, bool]:
    """Return the first `chunk` that are ready, and whether these are all.

    Added up by SQLite: a batch is full once, and all chunks before that fit.
    """
    edge = connection.execute(
        f"SELECT ready, job {_READY} ORDER BY ready, job LIMIT 2 OFFSET ?",
        (key, ready_at, _ANY_JOB, chunk - 1),
    ).fetchall()
    last = edge[0] if edge else (ready_at, _ANY_JOB)
    rows, body_bytes, tokens, callers, nearest = connection.execute(
        "SELECT count(*), coalesce(sum(bytes), 0), coalesce(sum(tokens), 0),"
        f" coalesce(sum(held), 0), min(deadline) {_READY}",
        (key, *last),
    ).fetchone()
    return _Taken(rows, body_bytes, tokens, callers, nearest, last), len(edge) < 2


def _rows(connection: sqlite3.Connection, key: str, front: _Taken) -> Iterable[_Row]:
    return connection.execute(
        f"SELECT ready, job, bytes, tokens, deadline, held {_READY} ORDER BY ready, job",
        (key, *front.last),
    ).fetchall()


def _fits(sums: _Taken, limits: ClaimLimits) -> bool:
    return (
        sums.rows <= limits.max_requests
        and sums.body_bytes <= limits.max_bytes
        and (limits.max_tokens is None or sums.tokens <= limits.max_tokens)
    )


def _fitting(waiting: Iterable[_Row], held: _Taken, limits: ClaimLimits) -> _Taken:
    """Return what fits of `waiting`; an empty batch takes the first, whatever it is."""
    rows, body_bytes, tokens, callers, nearest = 0, 0, 0, 0, None
    last = (0, 0)
    for ready, job, size, cost, deadline, is_held in waiting:
        count = held.rows + rows
        so_far = _Taken(count + 1, held.body_bytes + body_bytes + size, held.tokens + tokens + cost)
        if count and not _fits(so_far, limits):
            break
        rows += 1
        body_bytes += size
        tokens += cost
        callers += is_held
        nearest = deadline if nearest is None or deadline < nearest else nearest
        last = (ready, job)
    return _Taken(rows, body_bytes, tokens, callers, nearest, last)


def _move(
    connection: sqlite3.Connection, key: str, batch: int, held: _Taken, taken: _Taken
) -> None:
    key_id = uncount(connection, key, (taken.rows, taken.body_bytes, taken.tokens, taken.held))
    # What is taken is the front of the queue, up to and including its last row.
    connection.execute(
        "INSERT INTO items (batch, job, attempt, bytes, affinity)"
        " SELECT ?, job, attempt + 1, bytes, affinity"
        " FROM queue WHERE key = ? AND (ready, job) <= (?, ?)",
        (batch, key_id, *taken.last),
    )
    gone = connection.execute(
        "DELETE FROM queue WHERE key = ? AND (ready, job) <= (?, ?)", (key_id, *taken.last)
    )
    assert gone.rowcount == taken.rows
    total = _sum(held, taken)
    connection.execute(
        "UPDATE batches SET claimed_count = ?, claimed_bytes = ?, claimed_tokens = ?,"
        " claimed_deadline = ? WHERE num = ?",
        (total.rows, total.body_bytes, total.tokens, total.deadline, batch),
    )


def _sum(held: _Taken, taken: _Taken) -> _Taken:
    deadlines = [one for one in (held.deadline, taken.deadline) if one is not None]
    return replace(
        taken,
        rows=held.rows + taken.rows,
        body_bytes=held.body_bytes + taken.body_bytes,
        tokens=held.tokens + taken.tokens,
        deadline=min(deadlines, default=None),
    )


def _claimed(held: _Taken, *, complete: bool) -> Claimed:
    return Claimed(
        count=held.rows,
        body_bytes=held.body_bytes,
        tokens=held.tokens,
        nearest_deadline=None if held.deadline is None else from_micros(held.deadline),
        complete=complete,
    )
