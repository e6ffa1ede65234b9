"""Occurrences are counted once each, whoever counts."""

import asyncio
from datetime import timedelta

from tests.helpers.factories import T0

LATER = T0 + timedelta(days=1)


async def test_each_occurrence_gets_the_next_number(stores):
    assert [await stores.runs.count("a", now=T0, until=LATER) for _ in range(3)] == [1, 2, 3]


async def test_places_count_apart(stores):
    await stores.runs.count("a", now=T0, until=LATER)

    assert await stores.runs.count("b", now=T0, until=LATER) == 1


async def test_of_many_at_once_no_two_get_the_same_number(stores):
    counts = await asyncio.gather(*(stores.runs.count("a", now=T0, until=LATER) for _ in range(50)))

    assert sorted(counts) == list(range(1, 51))
