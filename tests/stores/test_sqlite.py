"""What is SQLite's own: crashes, several processes, groups of writes, what lies on the disk."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import structlog

from proxy.app.adapters import open_stores as open_stores_of
from proxy.app.adapters import open_vault
from proxy.core.batch import BatchState
from proxy.core.errors import StoreError, StoreUnavailableError
from proxy.core.ids import JobId
from proxy.core.job import CancelRequested, Outcome, Succeeded, advance
from proxy.ports.batches import ClaimLimits
from proxy.ports.jobs import DeliveryNote, JobWrite, Result
from proxy.settings import Settings
from proxy.stores.sqlite import SqliteStores, checkpoint, claim, connection, database
from tests.helpers.factories import BODY, OWNER, T0, make_batch, make_credential, make_job, new_job
from tests.helpers.fakes import FakeClock
from tests.helpers.sqlite_file import opened

PLENTY = ClaimLimits(max_requests=10_000, max_bytes=10**9)
CANARY = b"canary-7f3a"


async def accepted(stores: SqliteStores, **changes: Any) -> JobId:
    return (await stores.jobs.accept(new_job(**changes))).job.id


async def wait_until(predicate: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not predicate():
            await asyncio.sleep(0.01)


# Crashes

ACCEPTING = """
import asyncio, sys
from pathlib import Path
from typing import Any
from proxy.stores.sqlite import SqliteStores
from proxy.stores.vault import Vault
from tests.helpers.factories import IdFactory, T0, make_job, new_job

async def main():
    stores = await SqliteStores.open(
        Path(sys.argv[1]), Vault(keys=[b"k" * 32], hash_key=b"h" * 32)
    )
    ids = IdFactory()

    async def accept(caller):
        for number in range(100_000):
            job = make_job(id=ids.job(T0), tags={"caller": str(caller)} if number % 2 else {})
            await stores.jobs.accept(new_job(job))
            print(job.id, flush=True)

    await asyncio.gather(*map(accept, range(8)))

asyncio.run(main())
"""


async def test_a_kill_in_the_middle_of_accepts_loses_no_acknowledged_job(open_stores, path):
    process = subprocess.Popen(
        [sys.executable, "-c", ACCEPTING, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL

    async with open_stores() as stores:
        jobs = await stores.jobs.get_many([JobId(one) for one in acknowledged])
        bodies = [await stores.jobs.body(job.id) for job in jobs]
        (head,) = await stores.batches.heads()
        (pending,) = (await stores.jobs.pending()).values()

    assert len(jobs) == len(acknowledged) >= 300
    assert set(bodies) == {BODY}
    # Not acknowledged is whole or not there: all counters tell the same number.
    assert head.count == pending.jobs >= len(jobs)
    with opened(path) as direct:
        assert direct.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert direct.execute("SELECT count(*) FROM jobs").fetchone() == (head.count,)


async def test_a_model_that_may_be_batched_again_leaves_nothing(open_stores, path):
    async with open_stores() as stores:
        for hours in (1, 2):
            until = T0 + hours * timedelta(hours=1)
            await stores.unbatchable.note(make_credential().id, "/v1/x", str(hours), until=until)

        assert len(await stores.unbatchable.known(now=T0 + timedelta(hours=1))) == 1

    with opened(path) as direct:
        assert direct.execute("SELECT model FROM unbatchable").fetchall() == [(b"2",)]


async def test_a_claim_goes_on_where_it_stopped_after_a_restart(open_stores):
    async with open_stores() as stores:
        ids = {await accepted(stores) for _ in range(3)}
        batch = make_batch()
        await stores.batches.add(batch)
        limits = ClaimLimits(max_requests=2, max_bytes=10**9)
        first = await stores.batches.claim(batch.key, batch.id, limits, ready_at=T0)

    async with open_stores() as stores:
        again = await stores.batches.claim(batch.key, batch.id, limits, ready_at=T0)
        rest = await stores.batches.claim(batch.key, batch.id, PLENTY, ready_at=T0)
        items = [one async for page in stores.batches.items(batch.id) for one in page]

    assert again == first
    assert rest.count == 3
    assert {item.job_id for item in items} == ids


def test_a_claim_moves_less_at_once_where_it_holds_the_store_too_long():
    size = claim.ChunkSize()
    changes = []

    for seconds in (0.0006, 0.0004, 0.001, 0.002, 0.5, 0.0):
        before = size.rows
        size.note(seconds)
        changes.append(size.rows / before)

    assert changes == pytest.approx([1.5, 1.5, 1, 0.5, 0.5, 1.5], abs=0.01)


def test_the_rows_of_a_claim_are_bounded_however_long_they_take():
    slow, fast = claim.ChunkSize(), claim.ChunkSize()
    for _ in range(20):
        slow.note(9.0)
        fast.note(0.0)

    assert (slow.rows, fast.rows) == (claim.ChunkSize.LEAST, claim.ChunkSize.MOST)


# Several processes


async def test_processes_that_share_the_file_see_each_others_jobs(open_stores):
    async with open_stores() as one, open_stores() as two:
        ids = await asyncio.gather(*(accepted(stores) for _ in range(30) for stores in (one, two)))

        assert len(await one.jobs.get_many(ids)) == len(await two.jobs.get_many(ids)) == 60
        (head,) = await two.batches.heads()
        assert head.count == 60


async def test_processes_that_claim_at_once_share_no_job(open_stores):
    async with open_stores() as one, open_stores() as two:
        ids = [await accepted(one) for _ in range(100)]
        batches = [make_batch(), make_batch()]
        limits = ClaimLimits(max_requests=60, max_bytes=10**9)

        for stores, batch in zip((one, two), batches, strict=True):
            await stores.batches.add(batch)
        claims = await asyncio.gather(
            one.batches.claim(batches[0].key, batches[0].id, limits, ready_at=T0),
            two.batches.claim(batches[1].key, batches[1].id, limits, ready_at=T0),
        )
        items = [
            item.job_id
            for batch in batches
            async for page in one.batches.items(batch.id)
            for item in page
        ]

    assert sorted(claim.count for claim in claims) == [40, 60]
    assert sorted(items) == sorted(ids)


OPENING = """
import asyncio, sys
from pathlib import Path
from typing import Any
from proxy.stores.sqlite import SqliteStores
from proxy.stores.vault import Vault

async def main():
    folder = Path(sys.argv[1])
    sys.stdin.readline()
    stores = await SqliteStores.open(folder / "db", Vault.load_or_create(folder / "key"))
    await stores.aclose()

asyncio.run(main())
"""


def test_processes_that_start_at_once_make_one_store(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPENING, str(tmp_path)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    for process in processes:
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0


async def test_a_file_without_a_log_that_is_written_to_just_now_is_waited_for(
    open_stores, path, monkeypatch
):
    path.touch()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        other.execute("ROLLBACK")

    with closing(other):
        # SQLite does not wait by itself: it refuses the change to a file with a log at once.
        monkeypatch.setattr(connection, "sleep", pause)
        async with open_stores() as stores:
            kept = await accepted(stores)
            assert (await stores.jobs.get(kept)).id == kept

    assert len(pauses) == 1


async def test_a_file_that_another_process_holds_is_unavailable(open_stores, path, monkeypatch):
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.05)
    async with open_stores() as stores:
        kept = await accepted(stores)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="another process") as refused:
            await accepted(stores)
        # The message is told to callers, the hint to operators.
        assert str(path) not in refused.value.message
        assert str(path) in (refused.value.hint or "")

        # Readers do not wait for writers, whoever they are.
        assert (await stores.jobs.get(kept)).id == kept

        other.execute("ROLLBACK")
        other.close()
        assert await accepted(stores)


async def test_all_who_wait_for_a_held_file_hear_of_it_together(open_stores, path, monkeypatch):
    """One after the other, each for the whole timeout, a caller would wait for minutes."""
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.05)
    begun: list[str] = []
    async with open_stores() as stores:
        await stores._database.write(lambda direct: direct.set_trace_callback(begun.append))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        begun.clear()
        told = await asyncio.gather(*(accepted(stores) for _ in range(20)), return_exceptions=True)
        other.execute("ROLLBACK")
        other.close()

        assert {type(one) for one in told} == {StoreUnavailableError}
        assert sum(statement.startswith("BEGIN") for statement in begun) <= 3
        assert await accepted(stores)


# Grouped writes


async def held_writer(
    stores: SqliteStores, *, relaxed: bool = False
) -> tuple[threading.Event, asyncio.Task[None]]:
    """Stop the writing thread, so that what comes now waits together."""
    entered, release = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        entered.set()
        release.wait(30)

    task = asyncio.get_running_loop().create_task(stores._database.write(hold, relaxed=relaxed))
    await wait_until(entered.is_set)
    return release, task


async def traced(stores: SqliteStores) -> list[str]:
    """Return what the writing thread executes from now on."""
    statements: list[str] = []
    await stores._database.write(lambda direct: direct.set_trace_callback(statements.append))
    statements.clear()
    return statements


async def test_a_durable_write_never_shares_the_transaction_of_a_relaxed_one(stores):
    statements = await traced(stores)
    # What waits first shares its transaction, if that has taken no time yet.
    release, held = await held_writer(stores, relaxed=True)
    note = "INSERT INTO meta VALUES ('{}', '')"

    def write(name: str, *, relaxed: bool) -> Any:
        work: Any = lambda direct: direct.execute(note.format(name)) and None  # noqa: E731
        return stores._database.write(work, relaxed=relaxed)

    names = ("relaxed 1", "relaxed 2", "durable 1", "relaxed 3")
    writes = asyncio.gather(*(write(one, relaxed=one[0] == "r") for one in names))
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(held, writes)
    await write("relaxed 4", relaxed=True)
    await write("durable 2", relaxed=False)

    mode, is_open, modes = "FULL", False, {}
    for one in statements:
        if one.startswith("PRAGMA synchronous"):
            assert not is_open, "SQLite ignores it there"
            mode = one.rpartition(" ")[2]
        elif one.startswith("INSERT INTO meta"):
            modes[one.split("'")[1]] = mode
        is_open = one.startswith("BEGIN") or (is_open and one != "COMMIT")
    assert (modes["durable 1"], modes["durable 2"]) == ("FULL", "FULL")
    assert (modes["relaxed 1"], modes["relaxed 4"]) == ("NORMAL", "NORMAL")


async def test_what_would_undo_one_write_of_a_group_is_no_file(stores):
    kept = await stores._database.write(
        lambda direct: direct.execute("PRAGMA temp_store").fetchone()
    )

    assert kept == (2,)  # MEMORY


def remembering(direct: sqlite3.Connection) -> None:
    """A small write whose trace is a row of its own."""
    direct.execute("INSERT OR IGNORE INTO meta VALUES ('rider', '')")


async def test_a_write_that_nobody_waits_for_shares_the_next_commit(stores, monkeypatch):
    monkeypatch.setattr(database, "RIDE_S", 3_600)
    monkeypatch.setattr(database, "HOLD_S", 0)  # Not even a long group leaves it behind.
    statements = await traced(stores)
    riding = asyncio.get_running_loop().create_task(stores._database.write_along(remembering))
    await asyncio.sleep(0)
    assert not any(one.startswith("BEGIN") for one in statements)

    await asyncio.gather(accepted(stores), riding)

    assert statements.count("COMMIT") == 1
    assert not any(one.startswith("PRAGMA") for one in statements)


async def test_a_write_that_nobody_waits_for_goes_alone_when_nothing_else_comes(stores):
    statements = await traced(stores)

    await stores._database.write_along(remembering)

    assert "PRAGMA synchronous = NORMAL" in statements
    assert statements.count("COMMIT") == 1


async def test_a_write_that_nobody_waits_for_is_done_though_the_one_before_it_fails(
    stores, monkeypatch
):
    monkeypatch.setattr(database, "RIDE_S", 3_600)
    riding = asyncio.get_running_loop().create_task(stores._database.write_along(remembering))
    await asyncio.sleep(0)

    with pytest.raises(StoreError):
        await stores._database.write(lambda direct: direct.execute("no statement"))
    await riding


async def test_writes_that_wait_together_are_committed_together(stores):
    statements = await traced(stores)
    release, held = await held_writer(stores)

    accepts = asyncio.gather(*(accepted(stores, body=b"1") for _ in range(50)))
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(held, accepts)

    assert sum(statement == "COMMIT" for statement in statements) <= 3
    # Nor is each of them a statement of its own.
    assert len([one for one in statements if one.startswith("INSERT INTO jobs")]) <= 3


async def test_unlike_writes_that_wait_together_make_one_statement_of_each_kind(stores):
    known = [await accepted(stores) for _ in range(10)]
    statements = await traced(stores)
    release, held = await held_writer(stores)

    notes = [DeliveryNote(job, flushed=False, retry_count=0) for job in known]
    work = asyncio.gather(stores.deliveries.finish(notes), *(accepted(stores) for _ in range(10)))
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(held, work)

    for kind in ("INSERT INTO jobs", "INSERT INTO queue", "\n    UPDATE deliveries"):
        assert len([one for one in statements if one.startswith(kind)]) == 1
    assert await stores.deliveries.claimable_owners(now=T0) == {OWNER}


async def test_the_credential_of_jobs_that_wait_together_is_written_once(stores):
    statements = await traced(stores)
    news = [replace(new_job(), credential=make_credential()) for _ in range(20)]

    await asyncio.gather(*map(stores.jobs.accept, news))

    assert sum(one.startswith("INSERT INTO credentials") for one in statements) == 1
    assert await stores.credentials.get(make_credential().id) == make_credential()


async def test_accepts_that_leave_before_their_turn_are_left_out_of_their_group(stores):
    release, held = await held_writer(stores)
    loop = asyncio.get_running_loop()
    first = loop.create_task(accepted(stores))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # Its group is begun: the others make the next one.
    others = [loop.create_task(accepted(stores)) for _ in range(5)]
    await asyncio.sleep(0)

    for one in others[1:4]:
        one.cancel()
    await asyncio.sleep(0)
    release.set()
    await held

    there = {await first, await others[0], await others[4]}
    (head,) = await stores.batches.heads()
    assert head.count == len(there) == 3


@pytest.mark.parametrize("tags", [{}, {"team": "etl"}])
async def test_one_write_that_fails_harms_none_of_its_group(stores, tags):
    there = make_job()
    await stores.jobs.accept(new_job(there))
    release, held = await held_writer(stores)

    news = [new_job(make_job(tags=tags)) for _ in range(6)]
    news.insert(3, new_job(there))
    accepts = asyncio.gather(*map(stores.jobs.accept, news), return_exceptions=True)
    await asyncio.sleep(0)
    release.set()
    await held
    outcomes = await accepts

    failed = [number for number, one in enumerate(outcomes) if isinstance(one, BaseException)]
    assert failed == [3]
    assert len(await stores.jobs.get_many([new.job.id for new in news])) == 7
    (head,) = await stores.batches.heads()
    assert head.count == 7


async def test_what_is_prepared_is_prepared_outside_of_any_transaction(stores, path):
    def prepare() -> Any:
        # Another who shares the file can write meanwhile.
        with opened(path, timeout=0) as other:
            other.execute("INSERT INTO meta VALUES ('other', '')")
        return lambda direct: direct.execute("INSERT INTO meta VALUES ('ours', '')") and None

    def fail() -> Any:
        raise ZeroDivisionError

    release, held = await held_writer(stores)
    plain = asyncio.get_running_loop().create_task(
        stores._database.write(lambda direct: direct.execute("DELETE FROM meta") and None)
    )
    await asyncio.sleep(0)
    writes = asyncio.gather(
        plain,
        stores._database.begin(prepare),
        stores._database.begin(fail),
        return_exceptions=True,
    )
    await asyncio.sleep(0)
    release.set()
    await held

    told = await writes
    assert [type(one) for one in told] == [type(None), type(None), ZeroDivisionError]
    names = await stores._database.read(
        lambda direct: direct.execute("SELECT name FROM meta").fetchall()
    )
    assert names == [("other",), ("ours",)]


async def test_a_write_that_fails_half_way_leaves_nothing_of_itself(stores):
    def half(direct: sqlite3.Connection) -> None:
        direct.execute("INSERT INTO leases VALUES ('half', 'a', ?)", (2**60,))
        raise ZeroDivisionError

    release, held = await held_writer(stores)
    writes = asyncio.gather(
        accepted(stores, tags={"a": "b"}),
        stores._database.write(half),
        accepted(stores),
        return_exceptions=True,
    )
    await asyncio.sleep(0)
    release.set()
    await held
    before, failed, after = await writes

    assert isinstance(failed, ZeroDivisionError)
    assert len(await stores.jobs.get_many([before, after])) == 2
    assert await stores.leases.holders("half", now=T0) == frozenset()


async def test_when_a_whole_group_is_rolled_back_each_of_it_hears_of_it(stores):
    # As SQLite does by itself for some failures of the disk.
    release, held = await held_writer(stores)
    news = [new_job(tags={"a": "b"}) for _ in range(3)]
    accepts = asyncio.gather(*map(stores.jobs.accept, news), return_exceptions=True)
    await asyncio.sleep(0)
    rolled_back = asyncio.get_running_loop().create_task(
        stores._database.write(lambda direct: direct.execute("ROLLBACK").fetchall())
    )
    await asyncio.sleep(0)
    release.set()
    outcomes: list[object] = list(await asyncio.gather(held, rolled_back, return_exceptions=True))
    outcomes += await accepts

    there = await stores.jobs.get_many([new.job.id for new in news])
    assert isinstance(outcomes[1], StoreError)
    assert sum(not isinstance(one, BaseException) for one in outcomes[2:]) == len(there)
    assert await accepted(stores)


async def test_a_write_that_is_cancelled_while_it_waits_is_not_done(stores):
    release, held = await held_writer(stores)
    news = [new_job() for _ in range(3)]
    tasks = [asyncio.get_running_loop().create_task(stores.jobs.accept(new)) for new in news]
    await asyncio.sleep(0)

    tasks[1].cancel()
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(held, *tasks, return_exceptions=True)

    found = await stores.jobs.get_many([new.job.id for new in news])
    assert [job.id for job in found] == [news[0].job.id, news[2].job.id]


async def test_closing_finishes_what_was_submitted(open_stores):
    async with open_stores() as stores:
        release, held = await held_writer(stores)
        accepts = asyncio.gather(*(accepted(stores) for _ in range(20)))
        await asyncio.sleep(0)
        closing = asyncio.get_running_loop().create_task(stores.aclose())
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(held, closing)
        ids = await accepts

    async with open_stores() as stores:
        assert len(await stores.jobs.get_many(ids)) == 20


async def test_closing_waits_for_no_write_that_could_share_a_commit(open_stores, path, monkeypatch):
    monkeypatch.setattr(database, "RIDE_S", 3_600)
    async with open_stores() as stores:
        riding = asyncio.get_running_loop().create_task(stores._database.write_along(remembering))
        await asyncio.sleep(0)
        await stores.aclose()
        await riding

        with pytest.raises(StoreUnavailableError, match="closed"):
            await stores._database.write_along(remembering)
    with opened(path) as direct:
        assert direct.execute("SELECT count(*) FROM meta WHERE name = 'rider'").fetchone() == (1,)


async def test_no_write_is_left_behind_while_a_store_closes(open_stores, monkeypatch):
    monkeypatch.setattr(database, "RIDE_S", 3_600)
    loop, riding = asyncio.get_running_loop(), []
    async with open_stores() as stores:
        closing = loop.create_task(stores.aclose())
        while not closing.done():
            riding.append(loop.create_task(stores._database.write_along(remembering)))
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            ended = await asyncio.gather(*riding, return_exceptions=True)

    assert {type(one) for one in ended} <= {type(None), StoreUnavailableError}


async def test_a_closed_store_is_unavailable(open_stores):
    async with open_stores() as stores:
        await stores.aclose()

        with pytest.raises(StoreUnavailableError, match="closed"):
            await stores.batches.heads()
        with pytest.raises(StoreUnavailableError, match="closed"):
            await accepted(stores)


async def test_a_long_write_does_not_hold_up_reads(stores):
    job_id = await accepted(stores)
    release, held = await held_writer(stores)

    assert (await stores.jobs.get(job_id)).id == job_id

    release.set()
    await held


# The log


async def test_the_log_is_folded_into_the_file_beside_the_writes(open_stores, path, monkeypatch):
    monkeypatch.setattr(checkpoint, "PAUSE_S", 0.01)
    async with open_stores() as stores:
        await accepted(stores, body=os.urandom(500_000))

        await wait_until(lambda: path.stat().st_size > 500_000)


async def test_a_store_that_is_never_idle_begins_its_log_anew(open_stores, path, monkeypatch):
    monkeypatch.setattr(checkpoint, "PAUSE_S", 0.01)
    monkeypatch.setattr(checkpoint, "LONG_PAGES", 64)
    log = path.with_name(f"{path.name}-wal")
    async with open_stores() as stores:
        for _ in range(200):
            await accepted(stores, body=os.urandom(50_000))

        assert log.stat().st_size < path.stat().st_size


# What lies on the disk


async def test_no_secret_lies_on_the_disk_in_clear(stores, path):
    secret = CANARY.decode()
    await stores.credentials.remember(
        make_credential(headers=(("authorization", f"Bearer {secret}"),))
    )
    await stores.credentials.pause(
        make_credential().id, at=T0, status=401, body=b"Incorrect API key: " + CANARY
    )
    job = (await stores.jobs.accept(new_job(body=b'{"prompt":"%s"}' % CANARY))).job
    answer = Result(status_code=200, body=b'{"answer":"%s"}' % CANARY)
    after = advance(job, Succeeded(0, T0, Outcome(200)))
    await stores.jobs.replace_many([JobWrite(after, answer)])
    assert await stores.jobs.result(job.id) == answer

    files = list(path.parent.glob("offramp.db*"))

    assert len(files) == 3
    assert not [file.name for file in files if CANARY in file.read_bytes()]
    # The search itself works: what is not secret is found.
    assert any(job.id.encode() in file.read_bytes() for file in files)


async def test_the_files_are_for_this_user_only(stores, path):
    await accepted(stores)

    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.glob("offramp.db*")}

    assert modes == dict.fromkeys(("offramp.db", "offramp.db-shm", "offramp.db-wal"), 0o600)


async def test_nothing_of_a_job_is_left_once_its_batch_is_settled(stores, path):
    job = (await stores.jobs.accept(new_job(tags={"a": "b"}, idempotency_key="k"))).job
    batch = make_batch()
    await stores.batches.add(batch)
    await stores.batches.claim(batch.key, batch.id, PLENTY, ready_at=T0)
    cancelled = advance(await stores.jobs.get(job.id), CancelRequested(T0))
    assert not await stores.jobs.replace_many([JobWrite(cancelled)])
    await stores.jobs.erase(job.id)
    await stores.batches.drop_items(batch.id)

    with opened(path) as direct:
        left = {
            table: direct.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for (table,) in direct.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }

    assert {table for table, count in left.items() if count} == {
        "meta",
        "owners",
        "keys",
        "batches",
    }


async def test_nothing_of_an_answer_is_left_once_its_job_is_erased(stores, path):
    job = (await stores.jobs.accept(new_job())).job
    batch = make_batch()
    await stores.batches.add(batch)
    await stores.batches.claim(batch.key, batch.id, PLENTY, ready_at=T0)
    ended = advance(await stores.jobs.get(job.id), Succeeded(1, T0, Outcome(200)))
    await stores.jobs.replace_many([JobWrite(ended, Result(status_code=200, body=b"{}"))])

    await stores.jobs.erase(job.id)

    with opened(path) as direct:
        assert direct.execute("SELECT count(*) FROM results").fetchone() == (0,)
        assert direct.execute("SELECT state, record FROM jobs").fetchall() == [("erased", "")]


async def test_an_answer_out_of_a_batch_writes_nothing_to_the_row_of_its_job(stores, path):
    """A group of answers writes a page of `results` for several, and none of `jobs` for each."""
    job = (await stores.jobs.accept(new_job())).job
    batch = make_batch()
    await stores.batches.add(batch)
    await stores.batches.claim(batch.key, batch.id, PLENTY, ready_at=T0)
    ended = advance(await stores.jobs.get(job.id), Succeeded(1, T0, Outcome(200)))
    with opened(path) as direct:
        before = direct.execute("SELECT * FROM jobs").fetchall()

    await stores.jobs.replace_many([JobWrite(ended, Result(status_code=200, body=b"{}"))])

    with opened(path) as direct:
        assert direct.execute("SELECT * FROM jobs").fetchall() == before
    assert await stores.jobs.get(job.id) == ended


async def test_pruning_leaves_nothing_of_jobs_batches_and_idle_owners(stores, path):
    job = (await stores.jobs.accept(new_job())).job
    await stores.jobs.replace_many([JobWrite(advance(job, CancelRequested(T0)))])
    answered = advance((await stores.jobs.accept(new_job())).job, Succeeded(1, T0, Outcome(200)))
    await stores.jobs.replace_many([JobWrite(answered, Result(status_code=200, body=b"{}"))])
    await stores.batches.add(make_batch(state=BatchState.SETTLED, settled_at=T0))
    later = T0.replace(year=2027)

    assert await stores.jobs.prune(finalized_before=later, limit=9) == 2
    assert await stores.batches.prune(settled_before=later, limit=9) == 1

    with opened(path) as direct:
        for table in ("jobs", "batches", "owners", "deliveries", "payloads", "results"):
            assert direct.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


@pytest.mark.parametrize(("mode", "told"), [(0o600, []), (0o660, []), (0o644, ["0644"])])
async def test_a_file_that_others_may_read_is_told_of_at_the_start(tmp_path, mode, told):
    path = tmp_path / "offramp.db"
    settings = Settings.model_validate({"store": f"sqlite://{path}"})
    async with AsyncExitStack() as stack:
        await open_stores_of(stack, settings, open_vault(settings), FakeClock(T0))
    path.chmod(mode)

    with structlog.testing.capture_logs() as logs:
        async with AsyncExitStack() as stack:
            await open_stores_of(stack, settings, open_vault(settings), FakeClock(T0))

    exposed = [line for line in logs if line["event"] == "store.exposed"]
    assert [(line["mode"], line["log_level"]) for line in exposed] == [
        (mode, "warning") for mode in told
    ]
    assert all(line["hint"] == f"chmod 600 {path}*" for line in exposed)
