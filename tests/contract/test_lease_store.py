"""What every `LeaseStore` must do."""

import asyncio
from datetime import datetime, timedelta

from proxy.core.ids import InstanceId
from proxy.core.leases import LEASE_MAX
from proxy.ports.stores import Stores
from tests.helpers.factories import T0

A, B = InstanceId("a"), InstanceId("b")
SECOND = timedelta(seconds=1)
UNTIL = T0 + 10 * SECOND


async def acquire(
    stores: Stores, name: str, holder: InstanceId, *, now: datetime = T0, until: datetime = UNTIL
) -> bool:
    return await stores.leases.acquire(name, holder, now=now, until=until)


async def test_a_lease_is_held_by_one_until_it_expires(stores):
    assert await acquire(stores, "flush", A)

    assert not await acquire(stores, "flush", B, now=UNTIL - SECOND, until=UNTIL + SECOND)
    assert await acquire(stores, "flush", B, now=UNTIL, until=UNTIL + SECOND)
    assert not await acquire(stores, "flush", A, now=UNTIL, until=UNTIL + 9 * SECOND)


async def test_its_holder_renews_a_lease(stores):
    assert await acquire(stores, "flush", A)
    assert await acquire(stores, "flush", A, until=UNTIL + 9 * SECOND)

    assert not await acquire(stores, "flush", B, now=UNTIL, until=UNTIL + SECOND)


async def test_a_refused_instance_changes_nothing(stores):
    assert await acquire(stores, "flush", A)
    assert not await acquire(stores, "flush", B, until=UNTIL + 99 * SECOND)

    assert await stores.leases.holders("flush", now=T0) == {A}
    assert await acquire(stores, "flush", B, now=UNTIL, until=UNTIL + SECOND)


async def test_leases_of_different_names_do_not_meet(stores):
    assert await acquire(stores, "batch:1", A)
    assert await acquire(stores, "batch:2", B)


async def test_a_lease_that_lasts_longer_than_any_is_of_a_clock_that_was_set_back(stores):
    assert await acquire(stores, "flush", A, now=T0 + 3 * LEASE_MAX, until=UNTIL + 3 * LEASE_MAX)

    assert await stores.leases.holders("flush", now=T0) == frozenset()
    assert await acquire(stores, "flush", B, until=T0 + LEASE_MAX)
    assert await stores.leases.holders("flush", now=T0) == {B}
    assert not await acquire(stores, "flush", A)


async def test_of_many_at_once_one_acquires(stores):
    holders = [InstanceId(f"i{n}") for n in range(20)]

    taken = await asyncio.gather(*(acquire(stores, "flush", holder) for holder in holders))

    assert sum(taken) == 1
    assert await stores.leases.holders("flush", now=T0) == {holders[taken.index(True)]}


async def test_only_its_holder_gives_a_lease_back(stores):
    await acquire(stores, "flush", A)

    await stores.leases.release("flush", B)
    assert not await acquire(stores, "flush", B)

    await stores.leases.release("flush", A)
    await stores.leases.release("flush", A)
    assert await acquire(stores, "flush", B)


async def test_holders_are_those_of_live_leases_under_the_prefix(stores):
    await acquire(stores, "instance:a", A)
    await acquire(stores, "instance:b", B, until=T0 + SECOND)
    await acquire(stores, "instance%", InstanceId("c"))
    await acquire(stores, "other:instance:", InstanceId("d"))

    assert await stores.leases.holders("instance:", now=T0) == {A, B}
    assert await stores.leases.holders("instance:", now=T0 + SECOND) == {A}
    assert await stores.leases.holders("nobody:", now=T0) == frozenset()
