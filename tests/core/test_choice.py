"""Which lane makes a deadline at the least cost."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.choice import LaneFacts, choose_lane
from proxy.core.lanes import (
    Lane,
    LaneChoice,
    LaneTimes,
    Urgency,
)
from proxy.core.turnaround import Ended, Turnarounds
from tests.helpers.factories import T0, make_key

TIMES = LaneTimes()
FACTS = LaneFacts(has_batch=True)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def test_a_far_deadline_takes_the_batch_and_says_how_far() -> None:
    choice = choose_lane(T0 + timedelta(hours=26), FACTS, now=T0)

    assert (choice.lane, choice.reason) == (Lane.BATCH, "1d2h to the deadline")


@pytest.mark.parametrize(
    ("extra", "lane"),
    [
        (timedelta(0), Lane.INTERACTIVE),
        # Hardly any batch is so quick: it would be made to be cancelled.
        (timedelta(minutes=1), Lane.INTERACTIVE),
        (timedelta(minutes=4), Lane.BATCH),
    ],
)
def test_a_job_enters_a_batch_only_with_the_time_that_some_batches_take(extra, lane) -> None:
    choice = choose_lane(T0 + TIMES.batch_slack + extra, FACTS, now=T0)

    assert choice.lane is lane


def test_a_near_deadline_is_the_reason_of_a_direct_call() -> None:
    choice = choose_lane(T0 + timedelta(minutes=5), FACTS, now=T0)

    assert choice.reason == "5m to the deadline; a batch needs more than 33m"


def test_a_call_that_would_be_alone_in_its_batch_is_made_directly() -> None:
    choice = choose_lane(T0 + timedelta(days=2), LaneFacts(has_batch=True, alone=True), now=T0)

    assert choice.lane is Lane.INTERACTIVE
    assert "one call at a time" in choice.reason


def test_without_a_batch_api_there_is_only_the_direct_call() -> None:
    choice = choose_lane(T0 + timedelta(days=2), LaneFacts(has_batch=False), now=T0)

    assert choice.lane is Lane.INTERACTIVE
    assert "no batches" in choice.reason


def test_a_refused_model_is_called_directly_until_it_may_be_tried_again() -> None:
    facts = LaneFacts(has_batch=True, unbatchable_until=T0 + timedelta(hours=1))
    deadline = T0 + timedelta(days=2)

    assert choose_lane(deadline, facts, now=T0).lane is Lane.INTERACTIVE
    assert choose_lane(deadline, facts, now=T0 + timedelta(hours=1)).lane is Lane.BATCH


@pytest.mark.parametrize(
    ("slack", "lane", "reason"),
    [
        # At equal price, what is sure to come is preferred to what may be refused.
        (26 * HOUR, Lane.BATCH, "1d2h to the deadline"),
        (40 * MINUTE, Lane.FLEX, "40m to the deadline; a batch ends in time at 50%"),
        (20 * MINUTE, Lane.FLEX, "20m to the deadline; a batch needs more than 33m"),
        (18 * MINUTE, Lane.INTERACTIVE, "18m to the deadline; a batch needs more than 33m"),
    ],
)
def test_the_discount_tier_takes_what_a_batch_may_not_answer_in_time(slack, lane, reason) -> None:
    choice = choose_lane(T0 + slack, replace(FACTS, has_flex=True), now=T0)

    assert (choice.lane, choice.reason) == (lane, reason)


def test_where_batches_are_slow_a_near_deadline_is_called_directly() -> None:
    slow = Turnarounds().learn([Ended("openai", "m", T0, 3 * HOUR)] * 40).batch("openai", "m", T0)
    deadline = T0 + 2 * HOUR

    assert choose_lane(deadline, FACTS, now=T0).lane is Lane.BATCH
    assert choose_lane(deadline, replace(FACTS, turnaround=slow), now=T0).lane is Lane.INTERACTIVE


def test_a_batch_without_discount_is_no_reason_to_wait() -> None:
    facts = replace(FACTS, batch_price=1.0)

    choice = choose_lane(T0 + 26 * HOUR, facts, now=T0)

    assert choice == LaneChoice(Lane.INTERACTIVE, "a batch of this model costs as much as calls")
    assert choose_lane(T0 + HOUR, replace(facts, has_trickle=True), now=T0).lane is Lane.TRICKLE


@pytest.mark.parametrize(
    ("slack", "lane"), [(24 * HOUR, Lane.INTERACTIVE), (25 * HOUR, Lane.BATCH)]
)
def test_a_batch_that_nobody_can_stop_is_entered_only_with_its_whole_window(slack, lane) -> None:
    facts = replace(FACTS, can_cancel=False)

    assert choose_lane(T0 + slack, facts, now=T0).lane is lane


@pytest.mark.parametrize(
    ("slack", "lane"),
    [(37 * MINUTE, Lane.INTERACTIVE), (50 * MINUTE, Lane.BATCH), (26 * HOUR, Lane.BATCH)],
)
def test_where_a_stopped_batch_keeps_nothing_it_must_probably_end_in_time(slack, lane) -> None:
    assert choose_lane(T0 + 37 * MINUTE, FACTS, now=T0).lane is Lane.BATCH

    facts = replace(FACTS, keeps_partial_results=False)

    assert choose_lane(T0 + slack, facts, now=T0).lane is lane


def test_without_anything_cheaper_a_job_waits_for_a_free_moment() -> None:
    facts = LaneFacts(has_batch=False, has_trickle=True)

    assert choose_lane(T0 + HOUR, facts, now=T0).lane is Lane.TRICKLE
    assert choose_lane(T0 + TIMES.reserve, facts, now=T0).lane is Lane.INTERACTIVE
    assert choose_lane(T0 + HOUR, replace(facts, trickle_s=3_500), now=T0).lane is Lane.INTERACTIVE


def test_hours_that_begin_too_late_are_not_waited_for() -> None:
    facts = LaneFacts(has_batch=False, has_trickle=True, trickle_from=T0 + 2 * HOUR)

    assert choose_lane(T0 + 3 * HOUR, facts, now=T0).lane is Lane.TRICKLE
    assert choose_lane(T0 + 2 * HOUR, facts, now=T0).lane is Lane.INTERACTIVE


def test_a_sequential_run_asks_the_discount_tier_and_never_trickles() -> None:
    facts = LaneFacts(has_batch=True, alone=True, has_flex=True, has_trickle=True)

    assert choose_lane(T0 + 26 * HOUR, facts, now=T0).lane is Lane.FLEX
    assert choose_lane(T0 + 26 * HOUR, facts.without(Lane.FLEX), now=T0).lane is Lane.INTERACTIVE


@pytest.mark.parametrize(
    ("slack", "urgency"),
    [(26 * HOUR, Urgency.LOOSE), (10 * HOUR, Urgency.SOON), (3 * HOUR, Urgency.TIGHT)],
)
def test_jobs_of_different_urgency_wait_for_different_batches(slack, urgency) -> None:
    choice = choose_lane(T0 + slack, FACTS, now=T0)

    assert choice.key_for(make_key()) == make_key(urgency=urgency)


slacks = st.timedeltas(timedelta(0), timedelta(days=3))


@given(slacks, st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 50_000))
@settings(max_examples=200)
def test_no_lane_is_chosen_that_cannot_make_the_deadline(
    slack, has_batch, has_flex, has_trickle, can_cancel, waiting
) -> None:
    facts = LaneFacts(
        has_batch=has_batch,
        has_flex=has_flex,
        has_trickle=has_trickle,
        can_cancel=can_cancel,
        calls_waiting=waiting,
    )

    lane = choose_lane(T0 + slack, facts, now=T0).lane

    assert facts.offers(lane, now=T0)
    needed = {Lane.BATCH: facts.batch_slack, Lane.FLEX: TIMES.flex_slack}
    needed[Lane.TRICKLE] = facts.reserve
    assert lane is Lane.INTERACTIVE or slack > needed[lane]
