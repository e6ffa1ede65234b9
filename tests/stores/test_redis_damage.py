"""What another wrote among ours in Redis, or damaged, ends no instance and holds up no other."""

from collections.abc import AsyncIterator

import pytest
import structlog

from proxy.core.errors import StoreCorruptError
from proxy.core.ids import CredentialId, InstanceId, shard_of
from proxy.core.job import Escalated, Job, Outcome, Succeeded, advance
from proxy.core.ledger import Booking, Receipt, Sums, batch_row
from proxy.ports.jobs import JobWrite, Result
from proxy.ports.notes import Note
from proxy.stores.redis import RedisStores, keys
from proxy.stores.redis.queue import small_field
from tests.contract.steps import HOUR, accepted
from tests.helpers.factories import OWNER, T0, make_credential, make_key
from tests.helpers.redis_server import RedisServer, opened

pytestmark = pytest.mark.redis

BOOKED = (Booking(batch_row(make_key(), day=T0.date()), Sums(possible_doubles=1)),)


@pytest.fixture
async def stores(server: RedisServer) -> AsyncIterator[RedisStores]:
    server.admin.flushall()
    async with opened(server.url) as one:
        yield one


async def ended(stores: RedisStores) -> Job:
    """Return a job that was called, of which a webhook is to be told."""
    job = await accepted(stores, webhook="done")
    called = advance(job, Escalated(InstanceId("one")))
    assert not await stores.jobs.replace_many([JobWrite(called)])
    after = advance(called, Succeeded(1, T0, Outcome(200)))
    write = JobWrite(after, Result(status_code=200, body=b"{}"), BOOKED)
    assert not await stores.jobs.replace_many([write])
    return after


@pytest.mark.parametrize("field", ["owner", "upstream", "headers"])
@pytest.mark.parametrize("damage", [None, b"\xff"])
async def test_a_credential_that_cannot_be_read_hides_no_other(stores, server, field, damage):
    fine, damaged = make_credential(), make_credential(id=CredentialId("damaged"))
    for credential in (fine, damaged):
        await stores.credentials.remember(credential)
    name = keys.credential(damaged.id)
    server.admin.hdel(name, field)
    if damage is not None:
        server.admin.hset(name, field, damage)

    assert await stores.credentials.all() == [fine]
    assert await stores.credentials.of_owner(OWNER, fine.upstream) == [fine]
    with pytest.raises(StoreCorruptError):
        await stores.credentials.get(damaged.id)


async def test_only_credentials_that_say_whose_they_are_can_be_forgotten(stores, server):
    fine, damaged = make_credential(), make_credential(id=CredentialId("damaged"))
    for credential in (fine, damaged):
        await stores.credentials.remember(credential)
    server.admin.hdel(keys.credential(damaged.id), "owner")

    assert [await stores.credentials.forget_unused(limit=9) for _ in range(3)] == [0, 1, 0]

    assert server.admin.exists(keys.credential(damaged.id))


@pytest.mark.parametrize("damage", [b"", b"damaged 1", b"\xff", b"7x \xff", b"1" * 5_000])
async def test_a_note_that_is_damaged_can_be_written_anew(stores, server, damage):
    server.admin.hset(keys.NOTES, "note", damage)

    known = await stores.notes.read("note")
    assert await stores.notes.write("note", Note.after(known, "anew"))

    again = await stores.notes.read("note")
    assert again is not None
    assert again.text == "anew"


@pytest.mark.parametrize("damage", [b"x y z", b"\xff", b"1 x"])
async def test_what_is_booked_to_a_damaged_row_is_not_lost_nor_its_job(stores, server, damage):
    first = await ended(stores)
    place = keys.ledger(shard_of(first.id), T0.date().isoformat())
    (field,) = server.admin.hkeys(place)
    server.admin.hset(place, field, damage)

    second = await ended(stores)
    await stores.ledger.book([Receipt(id="r", job_id=second.id, bookings=BOOKED)])

    assert server.admin.hexists(keys.notices(shard_of(second.id)), second.id)
    (row,) = await stores.ledger.rows(since=T0.date(), until=T0.date())
    assert row.sums.possible_doubles == 2


async def test_a_notice_that_cannot_be_read_keeps_no_other_from_being_told(stores, server):
    damaged, fine = await ended(stores), await ended(stores)
    server.admin.hset(keys.notices(shard_of(damaged.id)), damaged.id, b"damaged")

    with structlog.testing.capture_logs() as said:
        taken = await stores.notices.take("done", now=T0, until=T0 + HOUR, limit=9)

    assert [notice.job_id for notice in taken] == [fine.id]
    assert [(line["event"], line["subject"]) for line in said] == [("record.unread", damaged.id)]


@pytest.mark.parametrize("foreign", [b"", b"x y z", b"job_ZZ"])
async def test_what_is_no_job_keeps_no_other_from_being_told_of_or_pruned(stores, server, foreign):
    job = await ended(stores)
    shard = shard_of(job.id)
    for name in (keys.notices_due(shard, "done"), keys.ended(shard)):
        server.admin.zadd(name, {foreign: 0})

    taken = await stores.notices.take("done", now=T0, until=T0 + HOUR, limit=9)

    assert [notice.job_id for notice in taken] == [job.id]
    assert await stores.jobs.prune(finalized_before=T0 + HOUR, limit=9) == 1


async def test_pruning_comes_to_an_end_before_what_is_no_job(stores, server):
    job = await ended(stores)
    foreign = {f"foreign {number}": number for number in range(99)}
    server.admin.zadd(keys.ended(shard_of(job.id)), foreign)

    assert await stores.jobs.prune(finalized_before=T0 + HOUR, limit=9) == 0


async def test_words_of_a_failure_that_are_damaged_are_shown_as_they_are(stores, server):
    await ended(stores)
    (notice,) = await stores.notices.take("done", now=T0, until=T0, limit=9)
    await stores.notices.failed(notice, at=T0, failure="refused", again_at=T0)
    server.admin.hset(keys.webhook("done"), "last_failure", b"refu\xff")

    standing = (await stores.notices.standing(["done"]))["done"]

    assert standing.last_failure == "refu\ufffd"


@pytest.mark.parametrize("damage", [b"1", b"null", b"{}"])
async def test_a_result_without_its_head_is_the_store_s_failure(stores, server, damage):
    job = await ended(stores)
    server.admin.set(keys.result(job.id), damage)

    with pytest.raises(StoreCorruptError):
        await stores.jobs.result(job.id)


@pytest.mark.parametrize("damage", [b"", b"x", b"\xff"])
async def test_a_count_of_small_batches_that_is_damaged_holds_up_no_queue(stores, server, damage):
    job = await accepted(stores)
    server.admin.hset(keys.SMALL, small_field(job.key), damage)

    (head,) = await stores.batches.heads()

    assert (head.key, head.count, head.small_batches) == (job.key, 1, 0)
    for _ in range(2):
        await stores.batches.note_size(job.key, small=True)
    (head,) = await stores.batches.heads()
    assert head.small_batches == 1
