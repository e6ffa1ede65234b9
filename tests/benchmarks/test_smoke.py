"""The benchmarks run to their end. What they measure is nobody's concern here."""

import asyncio

from tests.benchmarks.deferred import ASKED, SMOKE, measure, table


def test_every_number_of_the_deferred_path_is_measured():
    numbers = asyncio.run(measure(SMOKE))

    assert {asked.name for asked in ASKED} <= numbers.keys()
    assert all(number >= 0 for number in numbers.values())
    assert all(asked.what in table(numbers) for asked in ASKED)
