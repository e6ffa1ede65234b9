"""What is known of how long batches take, before and after they were watched."""

import json
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.turnaround import (
    MAX_MODELS,
    USUAL_BATCH,
    USUAL_FLEX,
    Answered,
    Ended,
    Stopped,
    Turnarounds,
    usual_batch,
)
from tests.helpers.factories import T0

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def ended(minutes: float, *, model: str = "m", hours: float = 0) -> Ended:
    return Ended("openai", model, T0 + hours * HOUR, minutes * MINUTE)


@pytest.mark.parametrize(
    ("duration", "share"), [(7 * MINUTE, 0.5), (HOUR, 0.91), (24 * HOUR, 1.0), (0 * HOUR, 0.0)]
)
def test_a_batch_usually_takes_minutes_and_at_most_a_window(duration, share) -> None:
    assert USUAL_BATCH.chance_within(duration) == pytest.approx(share)


def test_a_quick_provider_can_be_taken_for_granted() -> None:
    quick = usual_batch(timedelta(seconds=1))

    assert quick.chance_within(timedelta(seconds=1)) == pytest.approx(0.5)
    assert quick.chance_within(timedelta(seconds=5)) > 0.8
    assert quick.chance_within(HOUR) == 1
    assert Turnarounds().batch("openai", "m", T0, quick) == quick


def test_what_was_observed_of_a_quick_provider_is_known_to_the_second() -> None:
    known = Turnarounds().learn([Ended("openai", "m", T0, timedelta(seconds=0.5))] * 30)

    spread = known.batch("openai", "m", T0)

    assert spread.chance_within(timedelta(seconds=1)) > 0.75


def test_what_is_not_over_after_an_hour_takes_much_longer_than_that() -> None:
    assert USUAL_BATCH.quantile(0.5) == 7 * MINUTE
    assert USUAL_BATCH.quantile(0.5, after=HOUR) > 2 * HOUR


def test_a_slow_provider_is_believed_after_some_batches() -> None:
    slow = Turnarounds().learn([ended(170) for _ in range(30)])

    spread = slow.batch("openai", "m", T0)

    assert 2 * HOUR < spread.quantile(0.5) <= 3 * HOUR
    assert spread.chance_within(HOUR) < 0.15
    assert slow.batch("openai", "other", T0) == USUAL_BATCH
    assert slow.batch("other", "m", T0) == USUAL_BATCH


def test_old_news_fades() -> None:
    was_slow = Turnarounds().learn([ended(170)] * 60 + [ended(4)] * 120)

    assert was_slow.batch("openai", "m", T0).quantile(0.5) < 7 * MINUTE


def test_a_slow_hour_of_the_day_is_slower_than_the_others() -> None:
    news = [ended(170, hours=0)] * 20 + [ended(4, hours=12)] * 20

    known = Turnarounds().learn(news)

    slow, quick = (known.batch("openai", "m", T0 + hours * HOUR) for hours in (24, 36))
    assert slow.quantile(0.6) > quick.quantile(0.6)


def test_cancellations_are_known_by_upstream() -> None:
    known = Turnarounds().learn([Stopped("openai", 40 * MINUTE)] * 5)

    assert known.cancel("openai").quantile(0.99) > 30 * MINUTE
    assert known.cancel("other").quantile(0.99) == 0 * MINUTE


def test_quick_answers_of_the_discount_tier_are_learned() -> None:
    known = Turnarounds().learn([Answered("openai", MINUTE)] * 100)

    assert USUAL_FLEX.quantile(0.99) == 12.5 * MINUTE
    assert known.flex_call("openai").quantile(0.99) < 5 * MINUTE
    assert known.flex_call("other") == USUAL_FLEX


def test_of_too_many_models_the_longest_unseen_is_forgotten() -> None:
    news = [ended(4, model=f"m{n}") for n in range(MAX_MODELS)]

    known = Turnarounds().learn([*news, ended(4, model="m0"), ended(4, model="new")])

    assert len(known.batches) == MAX_MODELS
    assert ("openai", "m1") not in known.batches
    assert {("openai", "m0"), ("openai", "new")} <= known.batches.keys()


def test_a_record_of_everything_is_small_and_comes_back() -> None:
    known = Turnarounds()
    for n in range(MAX_MODELS):
        known = known.learn([ended(3**k, model=f"m{n}", hours=4 * k) for k in range(6)])

    text = json.dumps(
        known.learn([Stopped("openai", MINUTE), Answered("openai", MINUTE)]).to_json()
    )

    assert len(text) < 40_000
    read = Turnarounds.from_json(json.loads(text))
    assert read.to_json() == json.loads(text)
    assert read.batch("openai", "m1", T0) == known.batch("openai", "m1", T0)


def test_a_record_over_other_buckets_tells_nothing() -> None:
    assert Turnarounds.from_json({"edges": [1, 2]}) == Turnarounds()


durations = st.lists(st.floats(0, 5_000), max_size=40)


@given(durations, st.floats(0.01, 0.99))
@settings(max_examples=30)
def test_a_quantile_is_where_its_share_is_reached(minutes: list[float], share: float) -> None:
    spread = Turnarounds().learn([ended(each) for each in minutes]).batch("openai", "m", T0)

    assert spread.chance_within(spread.quantile(share)) == pytest.approx(share, abs=1e-6)


@given(durations, st.floats(0, 3_000), st.floats(0, 3_000))
@settings(max_examples=30)
def test_more_time_never_makes_an_end_less_likely(minutes, one, other) -> None:
    spread = Turnarounds().learn([ended(each) for each in minutes]).batch("openai", "m", T0)
    less, more = sorted((one, other))

    assert spread.chance_within(less * MINUTE) <= spread.chance_within(more * MINUTE) <= 1
