"""Leases between instances whose clocks do not tell the same time."""

from datetime import timedelta

import pytest

from proxy.core.errors import StoreUnavailableError
from proxy.core.ids import InstanceId
from proxy.core.job import CancelRequested, advance
from proxy.ports.jobs import JobWrite
from proxy.services.leases import Leases
from tests.helpers.factories import T0, new_job
from tests.helpers.fakes import FakeClock
from tests.helpers.redis_server import RedisServer, eventually, opened

pytestmark = pytest.mark.redis

A, B = InstanceId("a"), InstanceId("b")


@pytest.fixture(autouse=True)
def _empty(server: RedisServer) -> None:
    server.admin.flushall()


@pytest.mark.parametrize(
    "wrong", [timedelta(hours=-1), timedelta(hours=1)], ids=["behind", "ahead"]
)
async def test_an_instance_whose_clock_is_wrong_takes_no_lease_and_declares_nobody_dead(
    server: RedisServer, wrong: timedelta
) -> None:
    lasts, theirs = timedelta(minutes=1), T0 + wrong
    async with opened(server.url) as one, opened(server.url) as other:
        assert await one.leases.acquire("work", A, now=T0, until=T0 + lasts)

        assert not await other.leases.acquire("work", B, now=theirs, until=theirs + lasts)
        assert await other.leases.holders("work", now=theirs) == {A}
        assert await one.leases.acquire("work", A, now=T0, until=T0 + lasts)


async def test_a_lease_ends_by_the_clock_of_the_server(server: RedisServer) -> None:
    soon = timedelta(milliseconds=50)
    async with opened(server.url) as stores:
        assert await stores.leases.acquire("work", A, now=T0, until=T0 + soon)

        async def is_free() -> bool:
            return await stores.leases.acquire("work", B, now=T0, until=T0 + soon)

        await eventually(is_free)


async def test_a_lease_that_is_over_by_the_clock_of_the_server_has_no_holder(
    server: RedisServer,
) -> None:
    soon = timedelta(milliseconds=50)
    async with opened(server.url) as stores:
        assert await stores.leases.acquire("work", A, now=T0, until=T0 + soon)

        async def has_none() -> bool:
            return not await stores.leases.holders("work", now=T0)

        await eventually(has_none)


async def test_a_full_memory_keeps_nobody_from_what_makes_room(server: RedisServer) -> None:
    async with opened(server.url) as stores:
        job = (await stores.jobs.accept(new_job())).job
        ended = advance(job, CancelRequested(T0))
        server.admin.config_set("maxmemory", 1)
        try:
            assert await stores.leases.acquire("pass", A, now=T0, until=T0 + timedelta(minutes=1))
            assert not await stores.jobs.replace_many([JobWrite(ended)])
            assert await stores.jobs.prune(finalized_before=T0 + timedelta(days=1), limit=9) == 1
            await stores.leases.release("pass", A)
        finally:
            server.admin.config_set("maxmemory", 0)


async def test_an_instance_knows_that_a_full_memory_takes_nothing_but_leases(
    server: RedisServer,
) -> None:
    async with opened(server.url) as stores:
        leases = Leases(
            store=stores.leases,
            clock=FakeClock(T0),
            instance=A,
            ttl=timedelta(minutes=1),
            notes=stores.notes,
        )
        server.admin.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreUnavailableError, match="out of memory"):
                await leases.run_once()
            assert await leases.alive() == {A}
            assert not leases.is_noted()
        finally:
            server.admin.config_set("maxmemory", 0)

        await leases.run_once()
        assert leases.is_noted()
