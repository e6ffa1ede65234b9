"""What the embedded store costs: `python -m tests.benchmarks.store [PENDING]`.

Accepts are compared with the least that could be durable, measured in the same
run: one row of one table, written by the same threads. Other numbers are times of
this machine, to be compared with each other and not with another machine's.
"""

import asyncio
import os
import sqlite3
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Final

from proxy.core.job import Job, Outcome, Succeeded, advance
from proxy.ports.batches import ClaimLimits
from proxy.ports.jobs import JobWrite, NewJob, Result
from proxy.stores.sqlite import SqliteStores
from proxy.stores.sqlite.database import Database
from proxy.stores.sqlite.gather import Gatherer
from proxy.stores.sqlite.statements import Insert, Row
from proxy.stores.vault import Vault
from tests.helpers.factories import T0, IdFactory, make_batch, make_job

CALLERS: Final = 64
SAMPLE: Final = 10_000
BATCH: Final = 50_000
BODY: Final = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"%s"}]}' % (
    os.urandom(900).hex().encode()
)
VAULT: Final = Vault(keys=[b"k" * 32], hash_key=b"h" * 32)
_IDS: Final = IdFactory()


def new_jobs(count: int) -> list[NewJob]:
    base = make_job(body_bytes=len(BODY))
    return [
        NewJob(
            job=replace(base, id=_IDS.job(T0), affinity=f"{number % 50:04}"),
            body=BODY,
            retry_count=0,
            waiter_until=T0,
        )
        for number in range(count)
    ]


async def together(work: Callable[[NewJob], Awaitable[object]], news: list[NewJob]) -> float:
    """Do `work` for all, `CALLERS` at a time; return the seconds."""

    async def caller(mine: list[NewJob]) -> None:
        for new in mine:
            await work(new)

    started = perf_counter()
    async with asyncio.TaskGroup() as group:
        for place in range(CALLERS):
            group.create_task(caller(news[place::CALLERS]))
    return perf_counter() - started


async def bare_inserts(folder: Path) -> float:
    """Return the seconds for `SAMPLE` durable rows of the same bytes."""

    def prepare(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE bare (id TEXT PRIMARY KEY, body BLOB)")

    database = await Database.open(folder / "bare.db", prepare)
    insert = Insert("bare", columns=2)

    def work(connection: sqlite3.Connection, rows: Sequence[Row]) -> Sequence[None]:
        insert.execute(connection, rows)
        return [None] * len(rows)

    bare: Gatherer[Row, None] = Gatherer(database, lambda rows: partial(work, rows=rows))
    body = os.urandom(1_000)
    seconds = await together(lambda new: bare.add((new.job.id, body)), new_jobs(SAMPLE))
    await database.aclose()
    return seconds


async def claims(stores: SqliteStores, limits: ClaimLimits) -> None:
    batch = make_batch()
    await stores.batches.add(batch)
    started, longest, complete = perf_counter(), 0.0, False
    while not complete:
        before = perf_counter()
        claimed = await stores.batches.claim(batch.key, batch.id, limits, ready_at=T0)
        longest, complete = max(longest, perf_counter() - before), claimed.complete
    seconds = perf_counter() - started
    print(f"claim of {claimed.count}: {seconds * 1e3:.0f} ms, longest call {longest * 1e3:.1f} ms")

    started = perf_counter()
    names = [
        (line.job_id, line.attempt)
        async for page in stores.batches.lines(batch.id)
        for line in page
    ]
    print(f"lines of {len(names)}: {(perf_counter() - started) * 1e3:.0f} ms")

    started, cpu = perf_counter(), process_time()
    for start in range(0, len(names), 100):
        jobs = await stores.jobs.get_many([job_id for job_id, _ in names[start : start + 100]])
        await stores.jobs.replace_many([finished(job) for job in jobs])
    print(
        f"results of {len(names)}: {perf_counter() - started:.1f} s, "
        f"{(process_time() - cpu) / len(names) * 1e6:.0f} µs of CPU each"
    )


def finished(job: Job) -> JobWrite:
    after = advance(job, Succeeded(job.attempt, T0, Outcome(200, usage={"prompt_tokens": 9})))
    return JobWrite(after, Result(status_code=200, body=BODY))


async def main(pending: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stores = await SqliteStores.open(folder / "offramp.db", VAULT)
        few = await together(stores.jobs.accept, new_jobs(SAMPLE))
        bare = await bare_inserts(folder)
        print(f"accepts: {SAMPLE / few:.0f}/s; a bare durable row takes {bare / few:.2f} of one")

        for _ in range(0, pending, SAMPLE):
            await together(stores.jobs.accept, new_jobs(SAMPLE))
        many = await together(stores.jobs.accept, new_jobs(SAMPLE))
        print(f"accept with {pending} more pending: {many / few:.2f} of one without")

        started = perf_counter()
        (head,) = await stores.batches.heads()
        print(f"heads with {head.count} queued: {(perf_counter() - started) * 1e3:.1f} ms")
        await claims(stores, ClaimLimits(max_requests=BATCH, max_bytes=10**12))
        await stores.aclose()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
