"""What every `LedgerStore` must do, and every `JobStore` with what is to be booked."""

import asyncio
from dataclasses import replace
from datetime import date, timedelta

import pytest

from proxy.core.job import CancelRequested, Job, Released, advance
from proxy.core.ledger import OTHERS, Booking, LedgerKey, Receipt, Sums
from proxy.ports.jobs import JobWrite
from proxy.ports.stores import Stores
from tests.contract.steps import accepted, claim
from tests.helpers.factories import T0, make_job

DAY = date(2026, 11, 23)
KEY = LedgerKey(
    day=DAY,
    lane="batch",
    upstream="openai",
    model='gpt "4" \N{GREEK SMALL LETTER MU}',
    rule="rule:nightly",
    owner="etl",
    credential="c1",
)
SOME = Sums(*range(1, len(Sums._fields) + 1))


def booking(key: LedgerKey = KEY, sums: Sums = SOME) -> Booking:
    return Booking(key, sums)


def receipt(name: str, *bookings: Booking, job: Job | None = None) -> Receipt:
    return Receipt(id=name, job_id=(job or make_job()).id, bookings=bookings or (booking(),))


async def rows(stores: Stores, since: date = DAY, until: date = DAY) -> dict[LedgerKey, Sums]:
    found = await stores.ledger.rows(since=since, until=until)
    assert len({row.key for row in found}) == len(found)
    return {row.key: row.sums for row in found}


def cancelled(job: Job, *bookings: Booking) -> JobWrite:
    return JobWrite(advance(job, CancelRequested(T0)), bookings=bookings)


async def test_a_write_that_ends_a_job_books_it(stores):
    job = await accepted(stores)

    assert not await stores.jobs.replace_many([cancelled(job, booking())])

    assert await rows(stores) == {KEY: SOME}


async def test_a_write_that_lets_a_job_go_on_books_what_it_brings(stores):
    job = await accepted(stores)
    await claim(stores)
    released = advance(
        await stores.jobs.get(job.id), Released(1, "no result", possible_double=True)
    )
    await stores.ledger.book([receipt("batch-1:unseen", booking(sums=Sums(possible_doubles=2)))])
    off = JobWrite(released, bookings=(booking(sums=Sums(possible_doubles=-1)),))

    assert not await stores.jobs.replace_many([off])
    assert await stores.jobs.replace_many([off]) == {job.id}

    assert await rows(stores) == {KEY: Sums(possible_doubles=1)}


async def test_a_write_that_is_refused_books_nothing(stores):
    job = await accepted(stores)
    assert not await stores.jobs.replace_many([cancelled(job, booking())])

    assert await stores.jobs.replace_many([cancelled(job, booking())]) == {job.id}

    assert await rows(stores) == {KEY: SOME}


async def test_of_two_ends_at_once_one_is_booked(stores):
    job = await accepted(stores)

    await asyncio.gather(*(stores.jobs.replace_many([cancelled(job, booking())]) for _ in range(5)))

    assert await rows(stores) == {KEY: SOME}


async def test_rows_that_are_alike_are_added_up_and_others_stand_apart(stores):
    other = replace(KEY, model="another")
    tag = LedgerKey(day=DAY, tag="team=etl")
    jobs = [await accepted(stores) for _ in range(4)]
    writes = [cancelled(jobs[0], booking(), booking(tag)), cancelled(jobs[1], booking(other))]

    await stores.jobs.replace_many(writes)
    await stores.jobs.replace_many([cancelled(jobs[2], booking()), cancelled(jobs[3])])

    assert await rows(stores) == {KEY: SOME + SOME, other: SOME, tag: SOME}


async def test_amounts_stay_exact(stores):
    dear = Sums(jobs=1, list_nano=3_000_000_000_000_001, paid_nano=1)

    for name in ("a", "b"):
        await stores.ledger.book([receipt(name, booking(sums=dear))])

    assert await rows(stores) == {KEY: Sums(jobs=2, list_nano=6_000_000_000_000_002, paid_nano=2)}


async def test_a_receipt_is_booked_once(stores):
    job = make_job()

    assert await stores.ledger.book([receipt("a", job=job), receipt("b", job=job)]) == {"a", "b"}
    assert await stores.ledger.book([receipt("a", job=job), receipt("c", job=job)]) == {"c"}
    again = await asyncio.gather(*(stores.ledger.book([receipt("c", job=job)]) for _ in range(5)))

    assert set(again) == {frozenset()}
    assert await rows(stores) == {KEY: SOME + SOME + SOME}


async def test_what_belongs_to_no_job_is_booked_too(stores):
    nobodys = Receipt(id="batch-1:create", job_id=None, bookings=(booking(),))

    assert await stores.ledger.book([nobodys, nobodys]) == {"batch-1:create"}

    assert await rows(stores) == {KEY: SOME}


async def test_rows_are_those_of_the_days_asked_for(stores):
    for days in range(4):
        key = replace(KEY, day=DAY + timedelta(days=days))
        await stores.ledger.book([receipt(f"r{days}", booking(key))])

    found = await rows(stores, DAY + timedelta(days=1), DAY + timedelta(days=2))

    assert [key.day - DAY for key in found] == [timedelta(days=1), timedelta(days=2)]


async def test_a_day_of_too_many_rows_sums_the_rest_under_one(stores, monkeypatch):
    for module in (
        "proxy.stores.sqlite.ledger",
        "proxy.stores.redis.ledger_rows",
        "tests.helpers.memory_ledger",
    ):
        monkeypatch.setattr(f"{module}.ROWS_PER_DAY", 2)
    job = make_job()
    keys = [replace(KEY, model=f"m{n}") for n in range(4)]
    next_day = replace(KEY, day=DAY + timedelta(days=1))

    for number, key in enumerate([*keys, keys[0], next_day]):
        await stores.ledger.book([receipt(f"r{number}", booking(key), job=job)])

    found = await rows(stores, until=next_day.day)
    others = keys[0].others()
    assert others.model == OTHERS
    assert found == {keys[0]: SOME + SOME, keys[1]: SOME, others: SOME + SOME, next_day: SOME}


async def test_old_days_are_erased(stores):
    for days in range(3):
        key = replace(KEY, day=DAY + timedelta(days=days))
        await stores.ledger.book([receipt(f"r{days}", booking(key))])

    assert await stores.ledger.prune(before=DAY + timedelta(days=2)) == 2
    assert await stores.ledger.prune(before=DAY + timedelta(days=2)) == 0

    left = await rows(stores, until=DAY + timedelta(days=9))
    assert [key.day - DAY for key in left] == [timedelta(days=2)]


async def test_a_receipt_outlives_the_day_that_it_was_booked_on(stores):
    """A file is read again after a crash, however few days the ledger keeps."""
    job = make_job()
    await stores.ledger.book([receipt("a", job=job)])
    await stores.ledger.prune(before=DAY + timedelta(days=30))

    assert await stores.ledger.book([receipt("a", job=job)]) == frozenset()


@pytest.mark.parametrize("where", ["job", "receipt"])
async def test_what_is_booked_stays_when_its_job_is_erased(stores, where):
    job = await accepted(stores)
    await stores.jobs.replace_many([cancelled(job, booking())])
    await stores.jobs.erase(job.id)

    if where == "receipt":
        assert await stores.ledger.book([receipt("late", job=job)]) == {"late"}

    assert (await rows(stores))[KEY].jobs == SOME.jobs * (2 if where == "receipt" else 1)
