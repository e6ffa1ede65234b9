"""What an instance knows of its upstreams."""

from datetime import timedelta
from typing import Any, cast

import pytest

from policies.windows import Window, parse_span
from proxy.core.lanes import Lane
from proxy.core.plan import Head
from proxy.core.price_list import parse_price
from proxy.core.upstream import Upstream
from proxy.ports.provider import BatchLimits
from proxy.services.flex import FlexTier
from proxy.services.trickle import TrickleHours
from tests.helpers.factories import T0, make_key
from tests.helpers.fakes import FakeClock, MemoryStores
from tests.helpers.outlook import make_outlook

HOUR = timedelta(hours=1)
KEY = make_key()
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
        provider = cast("Any", Limited(**changes.pop("limits", {})))
        fields = {"upstreams": UPSTREAMS} | changes
        return make_outlook(self.stores, self.clock, provider, **fields)


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
    groq = {"openai": Upstream.parse("openai", "groq", "http://127.0.0.1:1")}
    outlook = world.outlook(upstreams=groq)
    assert outlook.facts(KEY).has_batch
    assert not outlook.facts(make_key(endpoint="/v1/responses")).has_batch


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
