"""Files that SQLite cannot use, and what an operator is told."""

import asyncio
import os
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from proxy.core.errors import StoreCorruptError, StoreError, StoreUnavailableError
from proxy.core.ids import InstanceId, JobId
from proxy.core.job import Escalated, advance
from proxy.core.ledger import Booking, Receipt, Sums, batch_row
from proxy.ports.jobs import JobFilter, JobWrite, UnreadJob
from proxy.ports.notes import Note
from proxy.stores.sqlite import SqliteStores, checkpoint, schema
from proxy.stores.sqlite.connection import OpenFile, connect
from tests.contract.steps import PLENTY, assert_left_out, assert_stands_among, finished, listed
from tests.helpers.factories import OWNER, T0, make_batch, make_credential, make_key, new_job
from tests.helpers.old_files import put_back, schema_of
from tests.helpers.raw_upstream import wait_until
from tests.helpers.sqlite_file import opened, run

CREDENTIAL = make_credential()
DAY = T0.date()
DAMAGED = pytest.mark.parametrize("damage", ["'x'", "CAST(x'7bff' AS TEXT)"])


async def accepted(stores: SqliteStores, **changes: Any) -> JobId:
    return (await stores.jobs.accept(new_job(**changes))).job.id


def booked(receipt: str, *, model: str) -> Receipt:
    row = batch_row(make_key(model=model), day=DAY)
    booking = Booking(row, Sums(possible_doubles=1))
    return Receipt(id=receipt, job_id=None, bookings=(booking,))


async def test_a_file_that_is_no_database_is_refused(path, vault):
    path.write_bytes(b"this is not a database, but long enough to be looked at" * 100)

    with pytest.raises(StoreCorruptError, match="damaged") as refused:
        await SqliteStores.open(path, vault)

    assert str(path) not in refused.value.message
    assert str(path) in (refused.value.hint or "")
    # The log of the damaged file would damage what is put in its place.
    assert f"no {path.name}-wal" in (refused.value.hint or "")


async def test_a_file_that_is_refused_does_not_stay_open(path, vault):
    path.write_bytes(b"this is not a database, but long enough to be looked at" * 100)

    with pytest.raises(StoreCorruptError) as refused:
        await SqliteStores.open(path, vault)

    # The error leads to all that failed, for as long as anybody keeps it.
    assert refused.value.__traceback__ is not None
    assert not [link for link in Path("/proc/self/fd").iterdir() if _leads_to(link, path)]


def _leads_to(link: Path, path: Path) -> bool:
    try:
        return link.readlink() == path
    except FileNotFoundError:  # What listed the folder was open as well.
        return False


async def test_a_damaged_page_is_refused_when_it_is_met(open_stores, path):
    async with open_stores() as stores:
        ids = [await accepted(stores, body=os.urandom(3_000)) for _ in range(50)]
    with path.open("r+b") as file:
        file.seek(4_096)
        file.write(os.urandom(path.stat().st_size - 4_096))

    with pytest.raises(StoreCorruptError):
        async with open_stores() as stores:
            await stores.jobs.get_many(ids)


async def test_another_programs_database_is_refused_and_left_alone(path, vault):
    run(path, "CREATE TABLE notes (text)")

    with pytest.raises(StoreCorruptError, match="another program"):
        await SqliteStores.open(path, vault)

    with opened(path) as direct:
        assert direct.execute("SELECT name FROM sqlite_master").fetchall() == [("notes",)]


async def test_a_newer_schema_is_refused_with_a_hint(open_stores, path, vault):
    async with open_stores():
        pass
    run(path, f"PRAGMA user_version = {schema.SCHEMA + 1}")

    with pytest.raises(StoreCorruptError, match="newer version") as refused:
        await SqliteStores.open(path, vault)

    assert refused.value.hint


async def test_results_of_the_first_schema_are_found_and_pruned(open_stores, path):
    async with open_stores() as stores:
        waiting, answered = await accepted(stores), await accepted(stores)
        after = await finished(stores, await stores.jobs.get(answered))
    put_back(path, 1)

    async with open_stores() as stores:
        assert await stores.jobs.get(answered) == after
        assert await stores.jobs.result(answered) is not None
        assert await stores.jobs.prune(finalized_before=T0.replace(year=2099), limit=9) == 1
        assert [job.id for job in await stores.jobs.get_many([waiting, answered])] == [waiting]
    with opened(path) as direct:
        assert direct.execute("SELECT count(*) FROM results").fetchone() == (0,)
    assert schema_of(path) == schema.SCHEMA


async def test_a_batch_of_the_second_schema_is_submitted_in_its_order(open_stores, path):
    async with open_stores() as stores:
        ids = [await accepted(stores, affinity=affinity) for affinity in ("b", "a", "c", "a")]
        batch = make_batch()
        await stores.batches.add(batch)
        await stores.batches.claim(batch.key, batch.id, PLENTY, ready_at=T0)
    put_back(path, 2)

    async with open_stores() as stores:
        lines = [line.job_id async for page in stores.batches.lines(batch.id) for line in page]
    assert lines == [ids[place] for place in (1, 3, 0, 2)]


async def test_an_older_file_gets_the_tables_that_it_lacks(open_stores, path):
    async with open_stores() as stores:
        job = (await stores.jobs.accept(new_job(webhook="done"))).job
    for table in ("notices", "webhooks"):
        run(path, f"DROP TABLE {table}")

    async with open_stores() as stores:
        await finished(stores, job)
        (notice,) = await stores.notices.take("done", now=T0, until=T0, limit=9)

    assert notice.job_id == job.id


async def test_a_place_that_cannot_be_written_is_refused_with_a_hint(tmp_path, vault):
    (tmp_path / "file").touch()

    for place in (tmp_path / "file" / "offramp.db", tmp_path / "file" / "a" / "offramp.db"):
        with pytest.raises(StoreError, match="cannot be made") as refused:
            await SqliteStores.open(place, vault)
        assert refused.value.hint


async def test_a_path_that_is_a_directory_is_refused(tmp_path, vault):
    with pytest.raises(StoreError):
        await SqliteStores.open(tmp_path, vault)


async def test_a_file_that_is_removed_or_replaced_takes_no_more_jobs(stores, path, tmp_path):
    kept = await accepted(stores)
    aside = path.rename(tmp_path / "aside.db")

    with pytest.raises(StoreUnavailableError, match="its file was removed or replaced"):
        await accepted(stores)
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        connect(path, writes=False)
    assert not path.exists()
    path.write_bytes(aside.read_bytes())
    with pytest.raises(StoreUnavailableError, match="its file was removed or replaced"):
        await accepted(stores)

    aside.rename(path)
    also_kept = await accepted(stores)
    assert len(await stores.jobs.get_many([kept, also_kept])) == 2


@pytest.mark.parametrize("part", ["wal", "shm"])
@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_log_that_is_removed_or_replaced_takes_no_more_jobs(
    open_stores, path, tmp_path, part, is_replaced
):
    log = tmp_path / f"{path.name}-{part}"
    async with open_stores() as stores:
        kept = await accepted(stores)
        aside = log.rename(tmp_path / "aside")
        if is_replaced:
            log.touch()

        with pytest.raises(StoreUnavailableError, match="its log was removed") as refused:
            await accepted(stores)
        assert "SIGTERM" in (refused.value.hint or "")
        aside.rename(log)
        also_kept = await accepted(stores)
        log.unlink()

    async with open_stores() as stores:
        assert len(await stores.jobs.get_many([kept, also_kept])) == 2


async def test_the_log_is_folded_into_the_file_only_while_it_is_there(path, monkeypatch):
    """Another process that finds none begins its own, and both would write to the file."""
    monkeypatch.setattr(checkpoint, "PAUSE_S", 0.001)
    path.touch()
    with closing(connect(path, writes=True)) as direct:
        file = OpenFile(path)
        direct.execute("BEGIN IMMEDIATE")
        assert file.gone() is None
        direct.execute("CREATE TABLE songs (title TEXT)")
        direct.execute("COMMIT")
        before = path.read_bytes()
        index = path.with_name(f"{path.name}-shm")
        aside = index.rename(path.with_name("aside"))

        checkpointer = checkpoint.Checkpointer(path, file)
        checkpointer.after_commit(direct)
        await wait_until(lambda: not checkpointer._written.is_set())
        checkpointer.stop()
        assert path.read_bytes() == before

        aside.rename(index)
        checkpointer = checkpoint.Checkpointer(path, file)
        checkpointer.after_commit(direct)
        await wait_until(lambda: path.read_bytes() != before)
        checkpointer.stop()


async def test_a_store_behind_a_link_has_its_log_beside_the_file(open_stores, path, tmp_path):
    (tmp_path / "real").mkdir()
    path.symlink_to(tmp_path / "real" / "file.db")
    async with open_stores() as stores:
        await accepted(stores)
        (tmp_path / "real" / "file.db-wal").unlink()

        with pytest.raises(StoreUnavailableError, match="its log was removed"):
            await accepted(stores)


async def test_a_file_that_cannot_be_written_may_stand_in_a_folder_that_cannot(stores, path):
    with pytest.raises(StoreUnavailableError, match="cannot be written") as refused:
        await stores._database.read(lambda direct: direct.execute("DELETE FROM jobs"))

    assert "its folder must be writable too" in (refused.value.hint or "")


async def test_a_full_disk_refuses_new_jobs_and_keeps_the_old_ones(stores):
    ids = [await accepted(stores) for _ in range(5)]
    (pages,) = await stores._database.write(
        lambda direct: direct.execute("PRAGMA page_count").fetchone()
    )
    await stores._database.write(
        lambda direct: direct.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall()
    )

    large = [accepted(stores, body=os.urandom(100_000)) for _ in range(3)]
    for outcome in await asyncio.gather(*large, return_exceptions=True):
        assert isinstance(outcome, StoreUnavailableError)
        assert "disk is full" in outcome.message

    assert len(await stores.jobs.get_many(ids)) == 5
    await stores._database.write(
        lambda direct: direct.execute("PRAGMA max_page_count = 100000").fetchall()
    )
    assert await accepted(stores, body=os.urandom(100_000))
    (head,) = await stores.batches.heads()
    assert head.count == 6


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE jobs SET record = 'x'",
        "UPDATE jobs SET record = replace(record, '\"v\":2', '\"v\":99')",
        "UPDATE results SET ending = 'x'",
        "UPDATE results SET ending = CAST(x'7bff' AS TEXT)",
    ],
)
async def test_a_record_that_cannot_be_read_is_corrupt(stores, path, damage):
    job_id = await accepted(stores)
    await finished(stores, await stores.jobs.get(job_id))

    run(path, damage)

    with pytest.raises(StoreCorruptError) as refused:
        await stores.jobs.get(job_id)
    assert str(path) not in refused.value.message
    (listed_job,) = await stores.jobs.list_jobs(OWNER, JobFilter(), after=None, limit=9)
    assert isinstance(listed_job, UnreadJob)


async def test_a_store_without_its_tables_is_corrupt(stores, path):
    job_id = await accepted(stores)

    run(path, "ALTER TABLE jobs RENAME TO gone")

    with pytest.raises(StoreCorruptError):
        await stores.jobs.get(job_id)
    with pytest.raises(StoreCorruptError):
        await listed(stores)


@DAMAGED
async def test_a_listed_job_that_cannot_be_read_keeps_its_place(stores, path, damage):
    times = [T0 + timedelta(seconds=each) for each in range(3)]
    older, damaged, newer = [await accepted(stores, accepted_at=at) for at in times]
    run(path, f"UPDATE jobs SET record = {damage} WHERE id = ?", damaged)

    await assert_stands_among(stores, damaged, older, newer)


@DAMAGED
async def test_a_queued_job_that_cannot_be_read_holds_up_no_other(stores, path, damage):
    damaged, other = [await accepted(stores) for _ in range(2)]
    run(path, f"UPDATE jobs SET record = {damage} WHERE id = ?", damaged)

    with structlog.testing.capture_logs() as said:
        taken = await stores.queue.take(make_key(), ready_at=T0, limit=9)
        due = await stores.queue.due(make_key(), before=T0 + timedelta(days=9), limit=9)

    assert [job.id for job in taken] == [job.id for job in due] == [other]
    assert [(line["event"], line["subject"]) for line in said] == [("record.unread", damaged)]


@DAMAGED
async def test_a_queued_job_that_cannot_be_read_takes_no_place_of_another(stores, path, damage):
    damaged, other = [await accepted(stores) for _ in range(2)]
    run(path, f"UPDATE jobs SET record = {damage} WHERE id = ?", damaged)

    for _ in range(2):
        taken = await stores.queue.take(make_key(), ready_at=T0, limit=1)

    assert [job.id for job in taken] == [other]


@DAMAGED
async def test_a_called_job_that_cannot_be_read_holds_up_no_other(stores, path, damage):
    damaged, other = [await accepted(stores) for _ in range(2)]
    for job_id in (damaged, other):
        called = advance(await stores.jobs.get(job_id), Escalated(InstanceId("one")))
        assert not await stores.jobs.replace_many([JobWrite(called)])
    run(path, f"UPDATE jobs SET record = {damage} WHERE id = ?", damaged)

    assert [job.id for job in await stores.queue.escalating(limit=9)] == [other]


@DAMAGED
async def test_a_queue_whose_key_cannot_be_read_holds_up_no_other(stores, path, damage):
    for model in ("damaged", "fine"):
        await accepted(stores, key=make_key(model=model))
    run(path, f"UPDATE keys SET key = {damage} WHERE key LIKE '%damaged%'")

    with structlog.testing.capture_logs() as said:
        assert [head.key.model for head in await stores.batches.heads()] == ["fine"]

    assert [line["event"] for line in said] == ["record.unread"]


async def test_a_queue_that_is_counted_and_empty_holds_up_no_other(stores, path):
    damaged = await accepted(stores, key=make_key(model="damaged"))
    await finished(stores, await stores.jobs.get(damaged))
    await accepted(stores, key=make_key(model="fine"))
    run(path, "UPDATE keys SET count = 1 WHERE key LIKE '%damaged%'")

    assert [head.key.model for head in await stores.batches.heads()] == ["fine"]


@DAMAGED
async def test_a_batch_that_cannot_be_read_holds_up_no_other(stores, path, damage):
    damaged, other = make_batch(), make_batch()
    for batch in (damaged, other):
        await stores.batches.add(batch)
    run(path, f"UPDATE batches SET record = {damage} WHERE id = ?", damaged.id)

    await assert_left_out(stores, damaged, other)


async def test_a_repeat_of_what_cannot_be_read_fails_no_call_beside_it(stores, path):
    damaged = await accepted(stores, idempotency_key="k")
    run(path, "UPDATE jobs SET record = 'x' WHERE id = ?", damaged)

    repeat, *others = await asyncio.gather(
        stores.jobs.accept(new_job(idempotency_key="k")),
        *[stores.jobs.accept(new_job()) for _ in range(3)],
        return_exceptions=True,
    )

    assert isinstance(repeat, StoreCorruptError)
    assert [other for other in others if isinstance(other, BaseException)] == []


@pytest.mark.parametrize(
    "damage",
    ["sums = 'x 1'", "sums = CAST(x'31ff' AS TEXT)", "key = 'x'", "key = CAST(x'7bff' AS TEXT)"],
)
async def test_a_row_of_the_ledger_that_cannot_be_read_spoils_no_other(stores, path, damage):
    await stores.ledger.book([booked("1", model="damaged"), booked("2", model="fine")])
    run(path, f"UPDATE ledger SET {damage} WHERE key LIKE '%damaged%'")

    (fine,) = await stores.ledger.rows(since=DAY, until=DAY)
    await stores.ledger.book([booked("3", model="damaged")])
    rows = await stores.ledger.rows(since=DAY, until=DAY)

    assert fine.key.model == "fine"
    assert {row.key.model: row.sums.possible_doubles for row in rows} == {"damaged": 1, "fine": 1}


async def test_a_note_that_is_damaged_is_read_and_written_anew(stores, path):
    await stores.notes.write("n", Note("1", 1))
    run(path, "UPDATE notes SET text = CAST(x'7bff' AS TEXT)")

    damaged = await stores.notes.read("n")

    assert damaged is not None
    assert await stores.notes.write("n", Note.after(damaged, "2"))
    assert await stores.notes.read("n") == Note("2", 2)


async def test_bodies_that_were_swapped_do_not_open(stores, path):
    one, two = await accepted(stores, body=b"1"), await accepted(stores, body=b"2")
    run(path, "UPDATE payloads SET job = -job")
    run(path, "UPDATE payloads SET job = 3 + job")

    for job_id in (one, two):
        with pytest.raises(StoreCorruptError):
            await stores.jobs.body(job_id)


async def test_after_what_cannot_be_read_later_writes_are_seen(stores, path):
    for _ in range(3):
        await accepted(stores)
    batch = make_batch()
    await stores.batches.add(batch)
    await stores.batches.claim(batch.key, batch.id, PLENTY, ready_at=T0)
    run(path, "UPDATE payloads SET body = zeroblob(60)")

    with pytest.raises(StoreCorruptError) as refused:
        async for _ in stores.batches.lines(batch.id):
            pass

    assert await stores.jobs.get(await accepted(stores))
    assert refused.value.__traceback__ is not None  # It is kept, and all that it leads to.


async def test_after_a_write_that_failed_on_the_way_others_may_write(stores, path):
    for _ in range(3):
        await accepted(stores)

    def fail(connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT id FROM jobs")
        for _ in rows:
            raise StoreCorruptError("damaged")

    with pytest.raises(StoreCorruptError) as refused:
        await stores._database.write(fail)
    run(path, "UPDATE jobs SET record = record || ' '")

    assert await accepted(stores)
    assert refused.value.__traceback__ is not None
