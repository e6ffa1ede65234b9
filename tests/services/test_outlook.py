"""What an instance knows of its upstreams, and what it tells the others."""

import json
from datetime import timedelta
from typing import Any, cast

import pytest

from policies.windows import Window, parse_span
from proxy.core.lanes import Lane, LaneTimes
from proxy.core.plan import Head
from proxy.core.price_list import parse_price
from proxy.core.turnaround import USUAL_BATCH, Answered, Ended, Stopped, Turnarounds
from proxy.core.upstream import Upstream
from proxy.ports.notes import Note
from proxy.ports.provider import BatchLimits
from proxy.services.flex import FlexTier
from proxy.services.outlook import MAX_UNWRITTEN, TURNAROUNDS, UNBATCHABLE_FOR, Outlook
from proxy.services.trickle import TrickleHours
from tests.helpers.factories import T0, make_key
from tests.helpers.fakes import FakeClock, MemoryStores

HOUR = timedelta(hours=1)
KEY = make_key()
SLOW = [Ended("openai", KEY.model, T0, 5 * HOUR)] * 20
UPSTREAMS = {"openai": Upstream.parse("openai", "openai", "http://127.0.0.1:1")}


class Limited:
    def __init__(self, **limits: Any) -> None:
        self._limits = limits

    def limits(self, endpoint: str) -> BatchLimits:
        return BatchLimits(max_requests=1, max_bytes=1, max_line_bytes=1, **self._limits)


class World:
    def __init__(self):
        self.clock = FakeClock(T0)
        self.stores = MemoryStores()

    def outlook(self, **changes):
        providers = {"openai": cast("Any", Limited(**changes.pop("limits", {})))}
        fields: dict[str, Any] = {
            "notes": self.stores.notes,
            "unbatchable": self.stores.unbatchable,
            "providers": providers,
            "upstreams": UPSTREAMS,
            "clock": self.clock,
        }
        return Outlook(**(fields | changes))


@pytest.fixture
def world():
    return World()


def heads(**counts):
    return [
        Head(
            key=make_key(lane=Lane(lane)),
            count=count,
            body_bytes=1,
            tokens=1,
            oldest_at=T0,
            newest_at=T0,
            nearest_deadline=T0 + HOUR,
        )
        for lane, count in counts.items()
    ]


def test_a_provider_says_what_its_batches_are_like(world):
    limits = {"can_cancel": False, "window": 48 * HOUR, "keeps_partial_results": False}

    facts = world.outlook(limits=limits).facts(KEY)

    assert facts.has_batch
    assert (facts.can_cancel, facts.window, facts.keeps_partial_results) == (
        False,
        48 * HOUR,
        False,
    )


def test_without_a_batch_api_or_for_an_endpoint_that_it_lacks_there_is_no_batch(world):
    assert not world.outlook(providers={}).facts(KEY).has_batch
    assert world.outlook().facts(make_key(endpoint="/v1/moderations")).has_batch


def test_lanes_are_there_as_configured(world):
    facts = world.outlook(flex=FlexTier(UPSTREAMS, enabled=False)).facts(KEY)
    assert (facts.has_flex, facts.has_trickle) == (False, False)

    night = TrickleHours(calls_per_s=2, window=Window(span=parse_span("20:00-06:00")))
    outlook = world.outlook(trickle=night)
    facts = outlook.facts(KEY)

    assert (facts.has_flex, facts.has_trickle) == (True, True)
    assert facts.trickle_from == T0 + 8 * HOUR
    assert not outlook.may_call(make_key(lane=Lane.TRICKLE))
    world.clock.advance(hours=8)
    assert outlook.may_call(make_key(lane=Lane.TRICKLE))
    assert outlook.facts(KEY).trickle_from is None


def test_a_full_discount_tier_is_not_called(world):
    outlook = world.outlook()
    assert outlook.may_call(make_key(lane=Lane.FLEX))

    outlook.flex.full(KEY, now=T0)

    assert not outlook.may_call(make_key(lane=Lane.FLEX))
    assert outlook.may_call(make_key(lane=Lane.INTERACTIVE))


def test_prices_are_those_of_the_list_and_otherwise_about_half(world):
    listed = {
        "half": parse_price({"standard": {"input": 2, "output": 8}}),
        "none": parse_price(
            {"standard": {"input": 2, "output": 8}, "batch": {"input": 2, "output": 8}}
            | {"flex": {"input": 2, "output": 8}}
        ),
        "deep": parse_price(
            {"standard": {"input": 2, "output": 8}, "batch": {"input": 1, "output": 2}}
        ),
    }
    outlook = world.outlook(price=lambda _, model: listed.get(model))

    facts = {model: outlook.facts(make_key(model=model)) for model in (*listed, "unknown")}

    assert {model: one.batch_price for model, one in facts.items()} == {
        "half": 0.5,
        "none": 1.0,
        "deep": 0.3,
        "unknown": 0.5,
    }
    assert {model for model, one in facts.items() if one.has_flex} == {"half", "deep", "unknown"}


def test_calls_that_wait_count_for_those_that_come(world):
    outlook = world.outlook(trickle=TrickleHours(calls_per_s=2))

    outlook.saw_heads(heads(interactive=30, trickle=10, batch=500, flex=7))

    facts = outlook.facts(KEY)
    assert (facts.calls_waiting, facts.trickle_s) == (30, 5)
    assert outlook.facts(make_key(credential="other")).calls_waiting == 0


async def test_what_one_instance_saw_all_know_and_keep(world):
    one, other = world.outlook(), world.outlook()
    assert one.turnaround(KEY, T0) == USUAL_BATCH

    for news in SLOW:
        one.observe(news)
    assert await one.run_once() == len(SLOW)
    await other.run_once()

    assert one.turnaround(KEY, T0).quantile(0.5) > 2 * HOUR
    assert other.facts(KEY).turnaround == one.facts(KEY).turnaround
    assert await one.run_once() == 0


async def test_what_two_instances_saw_is_added(world):
    one, other = world.outlook(), world.outlook()
    for outlook in (one, other):
        outlook.observe(Ended("openai", "a", T0, HOUR))
        outlook.observe(Ended("openai", "b", T0, HOUR))
        await outlook.run_once()
    await one.run_once()

    assert one.turnaround(make_key(model="a"), T0).total == pytest.approx(6 + 2 * 1.98)


async def test_a_lost_race_is_made_good_in_the_next_pass(world, monkeypatch):
    outlook = world.outlook()
    outlook.observe(SLOW[0])
    write = world.stores.notes.write

    async def lost(name: str, note: Note) -> bool:
        monkeypatch.setattr(world.stores.notes, "write", write)
        return False

    monkeypatch.setattr(world.stores.notes, "write", lost)

    assert await outlook.run_once() == 0
    assert outlook.turnaround(KEY, T0) != USUAL_BATCH
    assert await outlook.run_once() == 1


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
    outlook = world.outlook()
    outlook.observe(SLOW[0])

    assert await outlook.run_once() == 1

    note = await world.stores.notes.read(TURNAROUNDS)
    assert note is not None
    assert (note.version, note.text[:9]) == (2, '{"edges":')


def test_while_the_store_is_away_memory_is_bounded(world):
    outlook = world.outlook()
    for _ in range(MAX_UNWRITTEN + 10):
        outlook.observe(SLOW[0])

    assert len(outlook._unwritten) == MAX_UNWRITTEN


def test_slow_cancellations_are_reckoned_with_and_quick_ones_not(world):
    outlook = world.outlook(times=LaneTimes(cancel=timedelta(minutes=30)))

    for _ in range(30):
        outlook.observe(Stopped("openai", timedelta(minutes=2)))
    assert outlook.times("openai").cancel == timedelta(minutes=30)

    for _ in range(3):
        outlook.observe(Stopped("openai", timedelta(minutes=90)))
    assert outlook.times("openai").cancel > timedelta(minutes=60)
    assert outlook.times("other").cancel == timedelta(minutes=30)


def test_the_discount_tier_needs_less_time_once_it_was_seen_to_be_quick(world):
    outlook = world.outlook(times=LaneTimes(flex=timedelta(minutes=6)))
    assert outlook.times("openai").flex == timedelta(minutes=6)

    for _ in range(100):
        outlook.observe(Answered("openai", timedelta(seconds=20)))

    assert timedelta(minutes=2) < outlook.times("openai").flex < timedelta(minutes=5)


async def test_a_model_that_is_not_batched_is_known_at_once_and_to_all(world):
    one, other = world.outlook(), world.outlook()

    await one.note_unbatchable(KEY)
    await other.run_once()

    assert one.facts(KEY).unbatchable_until == T0 + UNBATCHABLE_FOR
    assert other.facts(KEY).unbatchable_until == T0 + UNBATCHABLE_FOR
    assert one.facts(make_key(model="other")).unbatchable_until is None
