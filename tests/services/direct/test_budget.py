"""How much may be called at full price in an hour."""

import asyncio
import json
from datetime import timedelta

import pytest

from proxy.core.ids import CredentialId
from proxy.ports.notes import Note
from proxy.services.direct.budget import BUDGETS, Budget, HourlyLimits
from tests.helpers.factories import CREDENTIAL, T0, make_job
from tests.helpers.fakes import FakeClock, MemoryStores

OTHER = CredentialId("credential-2")


@pytest.fixture
def clock():
    return FakeClock(T0)


@pytest.fixture
def notes():
    return MemoryStores().notes


def jobs(count, tokens=10):
    return [make_job(tokens=tokens) for _ in range(count)]


async def test_without_limits_everything_goes_and_nothing_is_written(notes, clock):
    assert await Budget(notes, clock).reserve(CREDENTIAL, jobs(500)) == 500
    assert await notes.read(BUDGETS) is None


@pytest.mark.parametrize(
    "spent",
    [
        *("", "[]", "{}", '{"hour": %s}', '{"hour": %s, "spent": {"a": 1}}'),
        '{"hour": %s, "spent": {"a": [1, 1e999]}}',
    ],
)
async def test_a_note_that_cannot_be_read_tells_nothing_and_is_written_anew(notes, clock, spent):
    hour = json.dumps(T0.replace(minute=0).isoformat())
    await notes.write(BUDGETS, Note(spent.replace("%s", hour), 1))
    budget = Budget(notes, clock, HourlyLimits(calls=5))

    await budget.give_back(CREDENTIAL, jobs(1), reserved_at=T0)
    assert await budget.reserve(CREDENTIAL, jobs(3)) == 3
    assert await budget.reserve(CREDENTIAL, jobs(3)) == 2


async def test_calls_of_an_hour_are_bounded_for_each_credential_and_all_instances(notes, clock):
    limits = HourlyLimits(calls=5)
    one, other = (Budget(notes, clock, limits) for _ in range(2))

    assert await one.reserve(CREDENTIAL, jobs(3)) == 3
    assert await other.reserve(CREDENTIAL, jobs(3)) == 2
    assert await one.reserve(CREDENTIAL, jobs(3)) == 0
    assert await one.reserve(OTHER, jobs(3)) == 3


async def test_the_next_hour_has_a_budget_of_its_own_and_forgets_the_last(notes, clock):
    budget = Budget(notes, clock, HourlyLimits(calls=5))
    await budget.reserve(OTHER, jobs(5))

    clock.advance(minutes=59)
    assert await budget.reserve(OTHER, jobs(1)) == 0
    clock.advance(minutes=1)
    assert await budget.reserve(CREDENTIAL, jobs(9)) == 5

    note = await notes.read(BUDGETS)
    assert note is not None
    assert OTHER not in note.text


async def test_tokens_are_bounded_and_one_large_job_still_goes(notes, clock):
    budget = Budget(notes, clock, HourlyLimits(tokens=35))

    assert await budget.reserve(CREDENTIAL, jobs(9)) == 3
    assert await budget.reserve(CREDENTIAL, jobs(1)) == 0
    assert await budget.reserve(OTHER, jobs(2, tokens=100)) == 1


async def test_what_is_given_back_can_be_spent_again_within_its_hour(notes, clock):
    budget = Budget(notes, clock, HourlyLimits(calls=4, tokens=40))
    taken = jobs(4)
    assert await budget.reserve(CREDENTIAL, taken) == 4

    await budget.give_back(CREDENTIAL, taken[:3], reserved_at=clock.now())
    await budget.give_back(OTHER, taken, reserved_at=clock.now())

    assert await budget.reserve(CREDENTIAL, jobs(9)) == 3
    clock.advance(hours=1)
    await budget.give_back(CREDENTIAL, taken, reserved_at=clock.now())
    assert await budget.reserve(CREDENTIAL, jobs(9)) == 4


async def test_two_that_reserve_at_once_do_not_overspend(notes, clock):
    budgets = [Budget(notes, clock, HourlyLimits(calls=4)) for _ in range(4)]

    granted = await asyncio.gather(*(one.reserve(CREDENTIAL, jobs(3)) for one in budgets))

    assert sum(granted) == 4


async def test_who_always_loses_the_race_reserves_nothing(notes, clock, monkeypatch):
    budget = Budget(notes, clock, HourlyLimits(calls=4))

    async def lost(name: str, note: Note) -> bool:
        return False

    monkeypatch.setattr(notes, "write", lost)

    assert await budget.reserve(CREDENTIAL, jobs(3)) == 0


async def test_an_hour_begins_with_the_clock_on_the_wall(notes, clock):
    budget = Budget(notes, clock, HourlyLimits(calls=1))
    clock.advance(minutes=30)
    await budget.reserve(CREDENTIAL, jobs(1))

    clock.advance(seconds=timedelta(minutes=30).total_seconds())

    assert await budget.reserve(CREDENTIAL, jobs(1)) == 1


async def test_what_an_hour_gives_back_the_next_one_does_not_have(notes, clock):
    budget = Budget(notes, clock, HourlyLimits(calls=10))
    late, reserved_at = jobs(10), clock.now()
    assert await budget.reserve(CREDENTIAL, late) == 10
    clock.advance(hours=1)
    assert await budget.reserve(CREDENTIAL, jobs(10)) == 10

    await budget.give_back(CREDENTIAL, late, reserved_at=reserved_at)

    assert await budget.reserve(CREDENTIAL, jobs(10)) == 0
