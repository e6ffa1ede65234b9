"""The fleet's benchmarks run to their end; what they measure is nobody's concern here."""

import asyncio

import pytest

from tests.benchmarks import fleet_rate
from tests.benchmarks.fleet_growth import costs
from tests.benchmarks.fleet_store import FLOORS, SMOKE, measure, table

pytestmark = pytest.mark.redis


def test_every_number_of_the_fleets_store_is_measured():
    numbers = asyncio.run(measure(SMOKE))

    assert FLOORS.keys() <= numbers.keys()
    assert all(number > 0 for number in numbers.values())
    assert all(what in table(numbers) for what, _, _ in FLOORS.values())


async def test_an_accept_has_a_cost_at_each_number_of_pending_jobs():
    found = [one async for one in costs([300, 100], sample=50)]

    assert [one.pending for one in found] == [100, 300]
    assert all(one.redis_us > 0 and one.client_us > 0 for one in found)
    assert all(0 < one.commands["zadd"] < 1 for one in found)


def test_one_instance_and_three_are_measured_over_one_redis():
    numbers = asyncio.run(fleet_rate.measure(fleet_rate.SMOKE))

    assert all(number >= 0 for number in numbers.values())
    assert "one Redis carries" in fleet_rate.table(numbers)
