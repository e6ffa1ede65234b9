"""What the fleet learns of its upstreams, and how its instances tell each other."""

import json
from datetime import timedelta

import pytest

from proxy.core.lanes import LaneTimes
from proxy.core.turnaround import USUAL_BATCH, Answered, Ended, Stopped, Turnarounds
from proxy.ports.notes import Note
from proxy.services.experience import MAX_UNWRITTEN, TURNAROUNDS, UNBATCHABLE_FOR
from tests.helpers.factories import T0, make_key
from tests.helpers.fakes import FakeClock, MemoryStores
from tests.helpers.outlook import make_experience

HOUR = timedelta(hours=1)
KEY = make_key()
SLOW = [Ended("openai", KEY.model, T0, 5 * HOUR)] * 20


class World:
    def __init__(self):
        self.clock = FakeClock(T0)
        self.stores = MemoryStores()

    def experience(self, **more):
        return make_experience(self.stores, self.clock, **more)


@pytest.fixture
def world():
    return World()


async def test_what_one_instance_saw_all_know_and_keep(world):
    one, other = world.experience(), world.experience()
    assert one.turnaround(KEY, T0) == USUAL_BATCH

    for news in SLOW:
        one.observe(news)
    assert await one.run_once() == len(SLOW)
    await other.run_once()

    assert one.turnaround(KEY, T0).quantile(0.5) > 2 * HOUR
    assert other.turnaround(KEY, T0) == one.turnaround(KEY, T0)
    assert await one.run_once() == 0


async def test_what_two_instances_saw_is_added(world):
    one, other = world.experience(), world.experience()
    for experience in (one, other):
        experience.observe(Ended("openai", "a", T0, HOUR))
        experience.observe(Ended("openai", "b", T0, HOUR))
        await experience.run_once()
    await one.run_once()

    assert one.turnaround(make_key(model="a"), T0).total == pytest.approx(6 + 2 * 1.98)


async def test_a_lost_race_is_made_good_in_the_next_pass(world, monkeypatch):
    experience = world.experience()
    experience.observe(SLOW[0])
    write = world.stores.notes.write

    async def lost(name: str, note: Note) -> bool:
        monkeypatch.setattr(world.stores.notes, "write", write)
        return False

    monkeypatch.setattr(world.stores.notes, "write", lost)

    assert await experience.run_once() == 0
    assert experience.turnaround(KEY, T0) != USUAL_BATCH
    assert await experience.run_once() == 1


def observed(all_day: object) -> str:
    """Return a note that tells so of the turnarounds of a model."""
    known = Turnarounds().to_json() | {"batches": [["openai", KEY.model, all_day, {}]]}
    return json.dumps(known)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"edges": 1}', '{"batches": 0}', "null", observed({"99": 1}), observed(1)],
)
async def test_a_note_that_cannot_be_read_tells_nothing_and_is_written_anew(world, text):
    await world.stores.notes.write(TURNAROUNDS, Note(text, 1))
    experience = world.experience()
    experience.observe(SLOW[0])

    assert await experience.run_once() == 1

    note = await world.stores.notes.read(TURNAROUNDS)
    assert note is not None
    assert (note.version, note.text[:9]) == (2, '{"edges":')


def test_while_the_store_is_away_memory_is_bounded(world):
    experience = world.experience()
    for _ in range(MAX_UNWRITTEN + 10):
        experience.observe(SLOW[0])

    assert len(experience._unwritten) == MAX_UNWRITTEN


def test_slow_cancellations_are_reckoned_with_and_quick_ones_not(world):
    experience = world.experience(times=LaneTimes(cancel=timedelta(minutes=30)))

    for _ in range(30):
        experience.observe(Stopped("openai", timedelta(minutes=2)))
    assert experience.times("openai").cancel == timedelta(minutes=30)

    for _ in range(3):
        experience.observe(Stopped("openai", timedelta(minutes=90)))
    assert experience.times("openai").cancel > timedelta(minutes=60)
    assert experience.times("other").cancel == timedelta(minutes=30)


def test_the_discount_tier_needs_less_time_once_it_was_seen_to_be_quick(world):
    experience = world.experience(times=LaneTimes(flex=timedelta(minutes=6)))
    assert experience.times("openai").flex == timedelta(minutes=6)

    for _ in range(100):
        experience.observe(Answered("openai", timedelta(seconds=20)))

    assert timedelta(minutes=2) < experience.times("openai").flex < timedelta(minutes=5)


async def test_a_model_that_is_not_batched_is_known_at_once_and_to_all(world):
    one, other = world.experience(), world.experience()

    await one.note_unbatchable(KEY)
    await other.run_once()

    assert one.unbatchable_until(KEY) == T0 + UNBATCHABLE_FOR
    assert other.unbatchable_until(KEY) == T0 + UNBATCHABLE_FOR
    assert one.unbatchable_until(make_key(model="other")) is None
