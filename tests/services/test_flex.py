"""When the discount tier is asked, and when not any more."""

import json
from datetime import timedelta

import pytest

from proxy.core.upstream import Upstream
from proxy.services.flex import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    UNSUPPORTED_FOR,
    FlexTier,
    asking_for,
)
from proxy.services.pauses import REMEMBERED
from tests.helpers.factories import T0, make_key

UPSTREAMS = {
    "openai": Upstream.parse("openai", "openai", "http://127.0.0.1:1"),
    "anthropic": Upstream.parse("anthropic", "anthropic", "http://127.0.0.1:1"),
}
KEY = make_key()
SECOND = timedelta(seconds=1)


@pytest.fixture
def tier():
    return FlexTier(UPSTREAMS)


def test_it_is_asked_where_the_dialect_has_it(tier):
    assert tier.is_open(KEY, now=T0)
    assert tier.is_open(make_key(endpoint="/v1/responses"), now=T0)
    assert not tier.is_open(make_key(endpoint="/v1/embeddings"), now=T0)
    assert not tier.is_open(make_key(upstream="anthropic", endpoint="/v1/messages"), now=T0)
    assert not tier.is_open(make_key(upstream="gone"), now=T0)
    assert not FlexTier(UPSTREAMS, enabled=False).is_open(KEY, now=T0)


def test_a_refusal_is_a_pause_of_its_model_alone(tier):
    tier.full(KEY, now=T0)

    assert not tier.is_open(KEY, now=T0 + FIRST_PAUSE - SECOND)
    assert tier.is_open(KEY, now=T0 + FIRST_PAUSE)
    assert tier.is_open(make_key(model="other"), now=T0)
    assert tier.is_open(make_key(credential="other"), now=T0)


def test_the_pause_doubles_with_each_refusal_in_a_row_up_to_its_bound(tier):
    now, pauses = T0, []
    for _ in range(7):
        tier.full(KEY, now=now)
        pause = FIRST_PAUSE
        while not tier.is_open(KEY, now=now + pause):
            pause += FIRST_PAUSE
        pauses.append(pause)
        now += pause

    assert pauses[:4] == [FIRST_PAUSE * n for n in (1, 2, 4, 8)]
    assert set(pauses[4:]) == {LONGEST_PAUSE}


def test_models_that_callers_invent_do_not_fill_the_memory(tier):
    tier.unsupported(KEY, now=T0)
    for number in range(REMEMBERED - 1):
        tier.unsupported(make_key(model=f"model-{number}"), now=T0)
    tier.full(KEY, now=T0)
    assert not tier.is_open(KEY, now=T0)

    tier.unsupported(KEY, now=T0)
    tier.unsupported(make_key(model="one-more"), now=T0)

    assert tier.is_open(make_key(model="model-0"), now=T0)
    assert not tier.is_open(KEY, now=T0)


def test_refusals_of_calls_that_were_under_way_together_count_once(tier):
    for _ in range(20):
        tier.full(KEY, now=T0)

    assert tier.is_open(KEY, now=T0 + FIRST_PAUSE)


def test_an_answer_in_the_tier_ends_the_row_of_refusals(tier):
    tier.full(KEY, now=T0)
    tier.answered(KEY, "flex", now=T0 + FIRST_PAUSE)

    tier.full(KEY, now=T0 + FIRST_PAUSE)

    assert tier.is_open(KEY, now=T0 + 2 * FIRST_PAUSE)


@pytest.mark.parametrize("billed_in", ["default", "auto", None])
def test_a_model_that_is_billed_in_another_tier_is_not_asked_again_for_a_day(tier, billed_in):
    tier.answered(KEY, billed_in, now=T0)

    assert not tier.is_open(KEY, now=T0 + UNSUPPORTED_FOR - SECOND)
    assert tier.is_open(KEY, now=T0 + UNSUPPORTED_FOR)


@pytest.mark.parametrize("body", [b'{"model":"m"}', b'{ "a" : {"b":1}}', b"{}", b"{ }"])
def test_the_tier_is_asked_for_without_touching_the_rest(body):
    asked = asking_for("service_tier", body)

    assert json.loads(asked) == {"service_tier": "flex"} | json.loads(body)
    assert asked.endswith(body.partition(b"{")[2])
