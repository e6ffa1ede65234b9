"""The benchmark of the fleet's store runs to its end; what it measures is nobody's concern here."""

import asyncio

import pytest

from tests.benchmarks.fleet_store import FLOORS, SMOKE, measure, table

pytestmark = pytest.mark.redis


def test_every_number_of_the_fleets_store_is_measured():
    numbers = asyncio.run(measure(SMOKE))

    assert FLOORS.keys() <= numbers.keys()
    assert all(number > 0 for number in numbers.values())
    assert all(what in table(numbers) for what, _, _ in FLOORS.values())
