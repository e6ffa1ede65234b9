"""Exclusive work: one instance at a time, and nobody after its time is up."""

from datetime import timedelta
from typing import Any

import pytest

from proxy.core.errors import ProviderUnavailableError, StoreUnavailableError
from proxy.core.ids import InstanceId
from proxy.services.leases import HeldLease, Leases
from tests.helpers.factories import T0
from tests.helpers.fakes import FakeClock, MemoryStores
from tests.helpers.loops import settled

TTL = timedelta(seconds=15)
ONE, TWO = InstanceId("i1"), InstanceId("i2")


class Rig:
    """Two instances over one store."""

    def __init__(self) -> None:
        self.clock = FakeClock(T0)
        self.store: Any = MemoryStores().leases
        self.one = self.leases(ONE)
        self.two = self.leases(TWO)

    def leases(self, instance: InstanceId) -> Leases:
        return Leases(store=self.store, clock=self.clock, instance=instance, ttl=TTL)

    def lease(self, holder: InstanceId = ONE) -> HeldLease:
        return HeldLease("x", store=self.store, clock=self.clock, holder=holder, ttl=TTL)


async def test_of_two_instances_only_one_holds_a_lease() -> None:
    rig = Rig()

    async with rig.one.held("x") as mine:
        assert mine is not None
        async with rig.two.held("x") as theirs:
            assert theirs is None
        async with rig.two.held("y") as another:
            assert another is not None
        # Whoever did not get it gave nothing back.
        async with rig.two.held("x") as still:
            assert still is None


async def test_a_lease_is_given_back_at_the_end_of_the_block_even_by_an_error() -> None:
    rig = Rig()

    with pytest.raises(ProviderUnavailableError):
        async with rig.one.held("x"):
            raise ProviderUnavailableError("503")

    async with rig.two.held("x") as lease:
        assert lease is not None


async def test_a_lease_ends_by_itself() -> None:
    rig = Rig()
    await rig.lease().renew()

    rig.clock.advance(seconds=14.9)
    assert not await rig.lease(TWO).renew()
    rig.clock.advance(seconds=0.1)
    assert await rig.lease(TWO).renew()


async def test_a_lease_is_valid_only_while_it_is_surely_ours() -> None:
    rig = Rig()
    lease = rig.lease()
    assert not lease.is_valid()

    await lease.renew()
    rig.clock.advance(seconds=14.9)
    assert lease.is_valid()
    rig.clock.advance(seconds=0.1)
    assert not lease.is_valid()


async def test_the_time_of_a_lease_counts_from_before_the_store_was_asked() -> None:
    rig = Rig()
    acquire = rig.store.acquire

    async def slowly(*args, **kwargs) -> bool:
        answer = await acquire(*args, **kwargs)
        rig.clock.advance(seconds=10)
        return bool(answer)

    rig.store.acquire = slowly
    lease = rig.lease()
    await lease.renew()

    rig.clock.advance(seconds=4.9)
    assert lease.is_valid()
    rig.clock.advance(seconds=0.2)
    assert not lease.is_valid()


async def test_a_clock_that_is_set_back_does_not_prolong_a_lease() -> None:
    rig = Rig()
    lease = rig.lease()
    await lease.renew()
    monotonic = rig.clock.monotonic() + 15

    clock: Any = rig.clock
    clock.now = lambda: T0 - timedelta(hours=1)
    clock.monotonic = lambda: monotonic

    assert not lease.is_valid()


async def test_a_lease_that_another_took_is_lost_at_once() -> None:
    rig = Rig()
    lease = rig.lease()
    await lease.renew()
    rig.clock.advance(seconds=15)
    await rig.lease(TWO).renew()

    assert not await lease.renew()
    assert not lease.is_valid()
    await lease.release()
    assert not await rig.lease().renew(), "what was not ours was not given back"


async def test_a_lease_that_ended_and_was_taken_again_is_not_unbroken() -> None:
    rig = Rig()
    lease = rig.lease()
    await lease.renew()
    since_then = lease.unbroken()
    rig.clock.advance(seconds=10)
    assert await lease.renew()
    rig.clock.advance(seconds=10)
    assert since_then()

    rig.clock.advance(seconds=5)
    assert await lease.renew()

    assert lease.is_valid()
    assert not since_then()
    assert lease.unbroken()()


async def test_long_work_keeps_its_lease() -> None:
    rig = Rig()
    lease = rig.lease()
    await lease.renew()

    async def work() -> str:
        for _ in range(30):
            rig.clock.advance(seconds=5)
            await settled()
            assert not await rig.lease(TWO).renew()
        return "done"

    assert await lease.during(work()) == "done"
    assert lease.is_valid()
    assert rig.clock.sleepers == 0


async def test_work_that_fails_as_expected_fails_as_itself() -> None:
    rig = Rig()

    async def work() -> str:
        raise ProviderUnavailableError("503")

    with pytest.raises(ProviderUnavailableError):
        await rig.lease().during(work())
    assert rig.clock.sleepers == 0


async def test_a_store_that_is_silent_for_once_costs_no_lease() -> None:
    rig = Rig()
    lease = rig.lease()
    await lease.renew()
    acquire, silences = rig.store.acquire, iter([True])

    async def silent_once(*args, **kwargs) -> bool:
        if next(silences, False):
            raise StoreUnavailableError("no answer")
        return bool(await acquire(*args, **kwargs))

    rig.store.acquire = silent_once

    async def work() -> None:
        for _ in range(4):
            rig.clock.advance(seconds=5)
            await settled()

    await lease.during(work())

    assert lease.is_valid()
    assert next(silences, None) is None


async def test_an_instance_that_says_nothing_is_dead_after_its_lease() -> None:
    rig = Rig()
    await rig.one.run_once()
    await rig.two.run_once()
    assert await rig.one.alive() == {ONE, TWO}

    rig.clock.advance(seconds=10)
    await rig.one.run_once()
    rig.clock.advance(seconds=5)

    assert await rig.one.alive() == {ONE}


async def test_an_instance_that_leaves_is_dead_at_once() -> None:
    rig = Rig()
    await rig.one.run_once()
    await rig.two.run_once()

    await rig.two.leave()

    assert await rig.one.alive() == {ONE}


async def test_other_leases_are_no_sign_of_life() -> None:
    rig = Rig()

    async with rig.one.held("batch:1"):
        assert await rig.two.alive() == frozenset()


async def test_an_instance_knows_whether_the_store_still_takes_its_word() -> None:
    rig = Rig()
    assert not rig.one.is_noted()

    await rig.one.run_once()
    assert rig.one.is_noted()

    rig.clock.advance(seconds=TTL.total_seconds())
    assert not rig.one.is_noted()


async def test_setting_the_clock_forward_leaves_nobody_dead() -> None:
    rig = Rig()
    await rig.one.run_once()
    await rig.two.run_once()

    rig.clock.set(hours=3)
    assert await rig.one.dead({ONE, TWO}) == frozenset()
    rig.clock.advance(seconds=TTL.total_seconds() - 1)
    assert await rig.one.dead({ONE, TWO}) == frozenset()

    rig.clock.advance(seconds=1)
    assert await rig.one.dead({ONE, TWO}) == {TWO}


async def test_setting_the_clock_forward_takes_no_work_from_whoever_does_it() -> None:
    rig = Rig()
    await rig.one.run_once()
    await rig.two.run_once()

    async with rig.one.held("x") as mine:
        assert mine is not None
        rig.clock.set(hours=3)
        async with rig.two.held("x") as theirs:
            assert theirs is None
        # Nobody knows for how long the machine slept: it must be asked for again.
        assert not mine.is_valid()
        assert await mine.renew()
        assert mine.is_valid()
        await rig.two.run_once()
        rig.clock.advance(seconds=TTL.total_seconds() - 1)
        async with rig.two.held("x") as theirs:
            assert theirs is None

    rig.clock.advance(seconds=1)
    async with rig.two.held("x") as theirs:
        assert theirs is not None


async def test_a_clock_that_is_kept_in_step_is_not_one_that_was_set() -> None:
    rig = Rig()

    for _ in range(100):
        rig.clock.advance(seconds=5)
        rig.clock.set(seconds=0.5)
        async with rig.one.held("x") as mine:
            assert mine is not None


async def test_a_clock_that_is_set_every_few_seconds_stops_no_work() -> None:
    rig = Rig()
    taken = 0

    for _ in range(100):
        rig.clock.advance(seconds=5)
        rig.clock.set(seconds=2)
        await rig.one.run_once()
        async with rig.one.held("x") as mine:
            taken += mine is not None

    assert taken == 100


async def test_a_clock_that_goes_to_and_fro_by_minutes_does_not_stop_work_for_ever() -> None:
    rig = Rig()
    tried: list[bool] = []

    for turn in range(100):
        rig.clock.advance(seconds=5)
        rig.clock.set(minutes=10 if turn % 2 else -10)
        async with rig.one.held("x") as mine:
            tried.append(mine is not None)

    most_at_a_stretch = 4 * TTL.total_seconds()
    waited = "".join("t" if taken else "." for taken in tried).split("t")
    stretches = [len(one) for one in waited if one]
    assert max(stretches) <= most_at_a_stretch / 5 + 1
    # Each time it is doubted anew.
    assert len(stretches) > 1


async def test_many_small_steps_between_two_renewals_count_as_one_large_step() -> None:
    rig = Rig()
    await rig.two.run_once()
    await rig.one.run_once()

    for _ in range(16):
        rig.clock.set(seconds=0.99)
        await rig.one.dead({TWO})

    assert await rig.one.alive() == frozenset()
    assert await rig.one.dead({TWO}) == frozenset()


class ServersTime:
    """A store that goes by a clock of its own, as Redis does."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.ahead = timedelta()

    async def acquire(self, name: str, holder: InstanceId, *, now, until) -> bool:
        ahead = self.ahead
        return bool(await self._store.acquire(name, holder, now=now + ahead, until=until + ahead))

    async def release(self, name: str, holder: InstanceId) -> None:
        await self._store.release(name, holder)

    async def holders(self, prefix: str, *, now) -> frozenset[InstanceId]:
        return frozenset(await self._store.holders(prefix, now=now + self.ahead))


@pytest.mark.parametrize("looks_first", [True, False])
async def test_setting_the_clock_of_the_store_leaves_nobody_dead(looks_first: bool) -> None:
    rig = Rig()
    rig.store = server = ServersTime(rig.store)
    one, two = rig.leases(ONE), rig.leases(TWO)
    await one.run_once()
    await two.run_once()

    server.ahead = timedelta(hours=3)
    if looks_first:
        assert await one.dead({ONE, TWO}) == frozenset()
    rig.clock.advance(seconds=4)
    await one.run_once()
    assert await one.dead({ONE, TWO}) == frozenset()
    async with one.held("x") as mine:
        assert mine is None

    rig.clock.advance(seconds=TTL.total_seconds())
    await one.run_once()
    assert await one.dead({ONE, TWO}) == {TWO}
