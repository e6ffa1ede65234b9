"""What every `DeliveryStore` must do. The rule itself is tested with `proxy.core.repeats`."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.ids import JobId, OwnerId
from proxy.core.job import CancelRequested, Outcome, Succeeded, advance
from proxy.core.repeats import CLAIM_WINDOW, WAITER_LEASE
from proxy.ports.jobs import DeliveryNote, JobWrite
from proxy.ports.stores import Stores
from proxy.stores.sqlite import SqliteStores
from proxy.stores.vault import Vault
from tests.helpers.factories import OWNER, T0, IdFactory, make_job, new_job
from tests.helpers.fakes import MemoryStores

SECOND = timedelta(seconds=1)
PRINT = make_job().fingerprint
LATER = T0 + WAITER_LEASE
"""When a waiter of `T0` counts as gone, unless its lease was renewed."""


async def accepted(stores: Stores, **changes: Any) -> JobId:
    return (await stores.jobs.accept(new_job(**changes))).job.id


async def claim(
    stores: Stores,
    *,
    retry_count: int = 0,
    now: datetime = T0,
    owner: OwnerId = OWNER,
    fingerprint: str = PRINT,
) -> JobId | None:
    return await stores.deliveries.claim(owner, fingerprint, retry_count=retry_count, now=now)


async def broken(stores: Stores, **changes: Any) -> JobId:
    job_id = await accepted(stores, **changes)
    await stores.deliveries.finish([DeliveryNote(job_id, flushed=False, retry_count=9)])
    return job_id


async def flushed(stores: Stores, **changes: Any) -> JobId:
    job_id = await accepted(stores, **changes)
    await stores.deliveries.finish([DeliveryNote(job_id, flushed=True, retry_count=9)])
    return job_id


async def test_a_live_waiters_job_is_not_claimed_by_an_equal_call(stores):
    await accepted(stores)

    assert await claim(stores, now=LATER - SECOND) is None


async def test_a_job_whose_connection_broke_is_claimed_once(stores):
    job_id = await broken(stores)

    assert await claim(stores) == job_id
    assert await claim(stores) is None


async def test_a_job_whose_waiter_gave_no_sign_of_life_is_claimed_once(stores):
    job_id = await accepted(stores)

    assert await claim(stores, now=LATER) == job_id
    assert await claim(stores, now=LATER) is None


async def test_a_claimed_job_has_a_waiter_of_its_own_again(stores):
    job_id = await broken(stores)
    await claim(stores)

    assert await claim(stores, now=LATER - SECOND) is None
    assert await claim(stores, now=LATER) == job_id


async def test_only_the_equal_call_of_the_same_owner_claims(stores):
    await broken(stores)

    assert await claim(stores, owner=OwnerId("owner-2")) is None
    assert await claim(stores, fingerprint="0" * 64) is None


async def test_the_oldest_of_a_rank_is_claimed_first(stores):
    ids = [await broken(stores, accepted_at=T0 + n * SECOND) for n in range(3)]

    assert [await claim(stores) for _ in range(4)] == [*ids, None]


async def test_the_better_rank_is_claimed_before_the_older_job(stores):
    held = await accepted(stores)
    out = await flushed(stores, accepted_at=T0 + SECOND)
    lost = await broken(stores, accepted_at=T0 + 2 * SECOND)

    claims = [await claim(stores, retry_count=1, now=T0 + 2 * SECOND) for _ in range(4)]

    assert claims == [lost, out, held, None]


async def test_a_later_try_takes_no_job_that_another_callers_try_took_before(stores):
    """After a crash nobody's connection is known to have broken, and every caller tries again."""
    first, second = await accepted(stores), await accepted(stores, accepted_at=T0 + SECOND)

    assert await claim(stores, retry_count=1, now=T0 + SECOND) == first
    assert await claim(stores, retry_count=2, now=T0 + SECOND) == second


async def test_a_later_try_takes_no_job_whose_answer_another_callers_try_got_before(stores):
    """Those who try again first may have their answers before others try again at all."""
    first, second = await accepted(stores), await accepted(stores, accepted_at=T0 + SECOND)
    assert await claim(stores, retry_count=1, now=T0 + SECOND) == first
    await stores.deliveries.finish([DeliveryNote(first, flushed=True, retry_count=1)])

    claims = [await claim(stores, retry_count=2, now=T0 + SECOND) for _ in range(3)]

    assert claims == [second, first, None]


async def test_a_flushed_job_is_claimed_only_by_a_later_try_within_the_window(stores):
    job_id = await flushed(stores, retry_count=1)

    assert await claim(stores, retry_count=1) is None
    assert await claim(stores, retry_count=2, now=T0 + CLAIM_WINDOW + SECOND) is None
    assert await claim(stores, retry_count=2, now=T0 + CLAIM_WINDOW) == job_id


async def test_a_claim_opens_a_new_window_and_raises_the_count(stores):
    job_id = await flushed(stores)
    assert await claim(stores, retry_count=1, now=T0 + CLAIM_WINDOW) == job_id
    await stores.deliveries.finish([DeliveryNote(job_id, flushed=True, retry_count=1)])

    assert await claim(stores, retry_count=1, now=T0 + CLAIM_WINDOW) is None
    assert await claim(stores, retry_count=2, now=T0 + 2 * CLAIM_WINDOW) == job_id


async def test_a_claim_with_a_lower_count_keeps_the_higher_one(stores):
    job_id = await broken(stores, retry_count=3)
    assert await claim(stores, retry_count=0) == job_id

    assert await claim(stores, retry_count=3) is None
    assert await claim(stores, retry_count=4) == job_id


async def test_of_many_repeats_at_once_each_gets_another_job(stores):
    ids = {await broken(stores) for _ in range(20)}

    claims = await asyncio.gather(*(claim(stores) for _ in range(30)))

    assert {job_id for job_id in claims if job_id} == ids
    assert claims.count(None) == 10


async def test_a_renewed_lease_keeps_a_waiter_alive(stores):
    kept, left = await accepted(stores), await accepted(stores)

    await stores.deliveries.renew([kept], until=LATER + WAITER_LEASE)

    assert await claim(stores, now=LATER) == left
    assert await claim(stores, now=LATER) is None


async def test_many_leases_are_renewed_at_once(stores):
    ids = [await accepted(stores) for _ in range(450)]

    await stores.deliveries.renew(ids, until=LATER + SECOND)

    assert await claim(stores, now=LATER) is None


async def test_renewing_does_not_mend_a_broken_connection(stores):
    job_id = await broken(stores)

    await stores.deliveries.renew([job_id], until=LATER + WAITER_LEASE)

    assert await claim(stores, now=LATER) == job_id


async def test_the_news_of_a_call_is_ignored_after_a_later_try_has_claimed(stores):
    job_id = await flushed(stores)
    assert await claim(stores, retry_count=2) == job_id

    await stores.deliveries.finish([DeliveryNote(job_id, flushed=False, retry_count=1)])

    assert await claim(stores, retry_count=0) is None


async def test_the_news_of_the_call_that_claimed_last_counts(stores):
    job_id = await flushed(stores)
    assert await claim(stores, retry_count=2) == job_id

    await stores.deliveries.finish([DeliveryNote(job_id, flushed=False, retry_count=2)])

    assert await claim(stores, retry_count=0) == job_id


async def test_owners_with_a_broken_or_abandoned_call_are_claimable(stores):
    await broken(stores, owner=OwnerId("broken"))
    await accepted(stores, owner=OwnerId("held"), waiter_until=LATER + SECOND)
    await accepted(stores, owner=OwnerId("abandoned"), waiter_until=LATER)
    await flushed(stores, owner=OwnerId("flushed"))

    owners = await stores.deliveries.claimable_owners(now=LATER)

    assert owners == {"broken", "abandoned"}


async def test_an_owner_whose_calls_are_all_claimed_is_not_claimable_any_more(stores):
    await broken(stores)
    await claim(stores)

    assert await stores.deliveries.claimable_owners(now=T0) == frozenset()


async def test_a_cancelled_or_erased_job_is_not_claimed(stores):
    cancelled, erased = await broken(stores), await broken(stores)
    for job_id, event in (
        (cancelled, CancelRequested(T0)),
        (erased, Succeeded(0, T0, Outcome(200))),
    ):
        after = advance(await stores.jobs.get(job_id), event)
        assert await stores.jobs.replace_many([JobWrite(after)]) == frozenset()
    await stores.jobs.erase(erased)

    assert await claim(stores, retry_count=1) is None
    assert await stores.deliveries.claimable_owners(now=LATER) == frozenset()


async def test_a_finished_job_can_still_be_claimed_for_its_result(stores):
    job_id = await broken(stores)
    after = advance(await stores.jobs.get(job_id), Succeeded(0, T0, Outcome(200)))
    assert await stores.jobs.replace_many([JobWrite(after)]) == frozenset()

    assert await claim(stores) == job_id


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.integers(0, 2)),
        st.tuples(st.just("claim"), st.integers(0, 3)),
        st.tuples(st.just("finish"), st.integers(0, 5), st.booleans(), st.integers(0, 3)),
        st.tuples(st.just("renew"), st.integers(0, 5)),
        st.tuples(st.just("pass"), st.sampled_from([1, 29, 31, 599, 601])),
    ),
    max_size=25,
)


async def play(stores: Stores, steps: Sequence[tuple[Any, ...]]) -> list[object]:
    """Return all that can be seen of `steps`."""
    now = T0
    ids: list[JobId] = []
    seen: list[object] = []
    factory = IdFactory()
    for step in steps:
        match step:
            case ("accept", retry_count):
                job = make_job(id=factory.job(now), accepted_at=now)
                ids.append((await stores.jobs.accept(new_job(job, retry_count=retry_count))).job.id)
            case ("claim", retry_count):
                seen.append(await claim(stores, retry_count=retry_count, now=now))
            case ("finish", place, is_flushed, retry_count) if place < len(ids):
                await stores.deliveries.finish(
                    [DeliveryNote(ids[place], flushed=is_flushed, retry_count=retry_count)]
                )
            case ("renew", place) if place < len(ids):
                await stores.deliveries.renew([ids[place]], until=now + WAITER_LEASE)
            case ("pass", seconds):
                now += seconds * SECOND
        seen.append(await stores.deliveries.claimable_owners(now=now))
    return seen


@settings(max_examples=60)
@given(STEPS)
def test_the_queries_of_sqlite_rank_like_the_rule_in_the_core(tmp_path_factory, steps):
    async def both() -> None:
        folder = tmp_path_factory.mktemp("deliveries")
        stores = await SqliteStores.open(
            folder / "offramp.db", Vault(keys=[b"k" * 32], hash_key=b"h" * 32)
        )
        try:
            assert await play(stores, steps) == await play(MemoryStores(), steps)
        finally:
            await stores.aclose()

    asyncio.run(both())
