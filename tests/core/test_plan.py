"""What is due, for which queue, and when: decided from one row per batch key."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.batch import BatchState
from proxy.core.choice import LaneFacts
from proxy.core.ids import CredentialId
from proxy.core.lanes import Lane, LaneTimes
from proxy.core.plan import (
    Flush,
    FlushLimits,
    Head,
    OpenBatches,
    PollPace,
    due_flush,
    due_reroute,
    enqueued,
    fair_order,
    is_straggler,
    is_worth_another,
    next_choice,
    next_poll,
    open_batches,
    yields_to_flex,
)
from proxy.core.turnaround import USUAL_BATCH
from tests.helpers.factories import CREDENTIAL, T0, make_batch, make_key

LIMITS = FlushLimits(max_requests=1_000, max_bytes=1_000_000)
TIMES = LaneTimes()
FACTS = LaneFacts(has_batch=True, times=TIMES)
HALF_AN_HOUR = timedelta(minutes=30)
NOTHING = OpenBatches()
OTHER = CredentialId("credential-2")


def head(**changes) -> Head:
    """Return 20 jobs with a day to go, the oldest of which waits since `T0`."""
    fields: dict[str, Any] = {
        "key": make_key(),
        "count": 20,
        "body_bytes": 2_000,
        "tokens": 400,
        "oldest_at": T0,
        "newest_at": T0,
        "nearest_deadline": T0 + timedelta(days=1),
    }
    return Head(**(fields | changes))


def due(after_s: float = 0, *, under_way=NOTHING, limits=LIMITS, **changes) -> Flush | None:
    return due_flush(
        head(**changes), under_way, now=T0 + timedelta(seconds=after_s), limits=limits, facts=FACTS
    )


def reason(after_s: float = 0, **changes) -> str | None:
    flush = due(after_s, **changes)
    return flush.reason if flush else None


def limits(**changes) -> FlushLimits:
    return FlushLimits(**({"max_requests": 1_000, "max_bytes": 1_000_000} | changes))


def test_jobs_wait_for_company_as_long_as_the_linger() -> None:
    assert reason(59.9) is None
    assert reason(60) == "linger"


def test_a_flush_names_its_key_and_how_much_fits() -> None:
    flush = due(60)

    assert flush is not None
    assert (flush.key, flush.max_requests, flush.max_bytes) == (make_key(), 1_000, 1_000_000)
    assert flush.max_tokens is None


@pytest.mark.parametrize(
    "full", [{"count": 1_000}, {"body_bytes": 1_000_000}, {"count": 2_000_000}]
)
def test_a_full_batch_waits_for_nothing(full) -> None:
    assert reason(0, **full) == "full"


def test_a_batch_is_full_of_tokens_too() -> None:
    bounded = limits(max_tokens=400)

    assert reason(0, limits=bounded) == "full"
    assert reason(0, limits=bounded, tokens=399) is None


@pytest.mark.parametrize("not_due", [{"count": 0}, {"paused": True}])
def test_an_empty_or_paused_queue_is_never_due(not_due) -> None:
    assert reason(10_000, **not_due) is None


def test_jobs_that_all_pause_are_not_due_before_the_first_is_ready() -> None:
    ready = T0 + timedelta(hours=1)

    assert reason(3_599, oldest_at=ready, count=5_000) is None
    assert reason(3_600, oldest_at=ready, count=5_000) == "full"


@pytest.mark.parametrize(
    ("small_batches", "linger_s"), [(0, 60), (1, 120), (2, 240), (3, 480), (4, 900), (50, 900)]
)
def test_the_linger_of_a_trickle_doubles_up_to_its_bound(small_batches, linger_s) -> None:
    trickle = {"count": 9, "small_batches": small_batches}

    assert reason(linger_s - 1, **trickle) is None
    assert reason(linger_s, **trickle) == "linger"


def test_enough_jobs_do_not_wait_for_the_smallness_of_earlier_batches() -> None:
    assert reason(60, count=10, small_batches=5) == "linger"


def test_when_every_caller_is_held_and_none_comes_the_batch_goes() -> None:
    held = {"count": 3, "held": 3, "newest_at": T0 + timedelta(seconds=5)}

    assert reason(6.9, **held) is None
    assert reason(7, **held) == "all callers held"


def test_one_caller_who_holds_nothing_is_worth_waiting_for_others() -> None:
    assert reason(30, count=3, held=2) is None


def test_a_deadline_that_presses_ends_the_linger_of_a_trickle() -> None:
    pressing = T0 + TIMES.batch_slack + LIMITS.linger_max

    trickle = {"count": 1, "small_batches": 9}
    assert reason(2, nearest_deadline=pressing, **trickle) == "deadline"
    assert reason(2, nearest_deadline=pressing + timedelta(seconds=3), **trickle) is None


def test_even_a_pressing_deadline_lets_its_neighbours_arrive() -> None:
    assert reason(1.9, count=1, nearest_deadline=T0 + TIMES.batch_slack) is None


def test_no_more_batches_are_open_than_allowed() -> None:
    assert reason(60, under_way=OpenBatches(19, 0)) == "linger"
    assert reason(60, under_way=OpenBatches(20, 0)) is None


def test_what_is_enqueued_leaves_only_the_rest_of_the_tokens() -> None:
    flush = due(60, under_way=OpenBatches(1, 700), limits=limits(max_tokens=1_000))

    assert flush is not None
    assert flush.max_tokens == 300


def test_a_small_rest_of_the_tokens_is_not_worth_a_batch() -> None:
    bounded = limits(max_tokens=1_000)

    # A tenth of the bound, or all that waits, is worth one.
    assert reason(60, under_way=OpenBatches(1, 901), limits=bounded) is None
    assert reason(60, under_way=OpenBatches(1, 900), limits=bounded) == "linger"
    assert reason(60, under_way=OpenBatches(1, 970), limits=bounded, tokens=30) == "linger"
    assert reason(60, under_way=OpenBatches(1, 971), limits=bounded, tokens=30) is None


def test_with_nothing_under_way_even_an_oversized_job_may_try() -> None:
    flush = due(60, under_way=OpenBatches(0, 5_000), limits=limits(max_tokens=1_000))

    assert flush is not None
    assert flush.max_tokens == 1


def test_open_batches_are_summed_per_credential_and_model() -> None:
    batches = [
        make_batch(state=BatchState.FILLING, tokens=1),
        make_batch(state=BatchState.IN_PROGRESS, tokens=2),
        make_batch(state=BatchState.LOST, tokens=4, key=make_key(endpoint="/v1/responses")),
        make_batch(state=BatchState.ENDED, tokens=8),
        make_batch(state=BatchState.SETTLED, tokens=16),
        make_batch(state=BatchState.SEALED, tokens=32, key=make_key(credential=OTHER)),
        make_batch(state=BatchState.CANCELLING, tokens=64, key=make_key(model="o3")),
    ]

    assert open_batches(batches) == {
        (CREDENTIAL, "gpt-4o-mini"): OpenBatches(3, 7),
        (OTHER, "gpt-4o-mini"): OpenBatches(1, 32),
        (CREDENTIAL, "o3"): OpenBatches(1, 64),
    }


@pytest.mark.parametrize("flood", [{"count": 200_000}, {"count": 200_000, "paused": True}])
def test_one_credentials_flood_never_holds_up_anothers_ten(flood) -> None:
    """Plan as the flusher does: heads in fair order, open batches counted as they grow."""
    heads = [
        head(oldest_at=T0 - timedelta(hours=1), key=make_key(model=f"m{n}"), **flood)
        for n in range(30)
    ]
    small = head(key=make_key(credential=OTHER), count=10)
    under_way = open_batches(make_batch(state=BatchState.IN_PROGRESS) for _ in range(20))

    order = fair_order([*heads, small])

    assert order.index(small) <= 1
    seen = under_way.get((OTHER, small.key.model), NOTHING)
    now = T0 + timedelta(seconds=60)
    assert due_flush(small, seen, now=now, limits=LIMITS, facts=FACTS) is not None


def test_credentials_take_turns_each_with_its_most_urgent_first() -> None:
    def one(credential: str, age: int) -> Head:
        key = make_key(credential=CredentialId(credential), model=f"m{age}")
        return head(key=key, nearest_deadline=T0 + timedelta(minutes=100 - age))

    heads = [one("b", 1), one("a", 7), one("a", 9), one("a", 8), one("b", 5), one("c", 2)]

    order = [(h.key.credential, h.key.model) for h in fair_order(heads)]

    assert order == [("a", "m9"), ("b", "m5"), ("c", "m2"), ("a", "m8"), ("b", "m1"), ("a", "m7")]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 100)), max_size=20))
@settings(max_examples=50)
def test_any_prefix_of_the_order_serves_all_credentials_about_equally(drawn) -> None:
    heads = [
        head(key=make_key(credential=CredentialId(name)), oldest_at=T0 - timedelta(minutes=age))
        for name, age in drawn
    ]
    total = {name: sum(one == name for one, _ in drawn) for name in "abcd"}

    order = [str(one.key.credential) for one in fair_order(heads)]

    assert sorted(order) == sorted(name for name, _ in drawn)
    for end in range(len(order) + 1):
        served = {name: order[:end].count(name) for name in "abcd"}
        for name in "abcd":
            assert served[name] >= min(total[name], max(served.values()) - 1)


def test_jobs_whose_slack_no_batch_can_keep_are_called_directly() -> None:
    now = T0 + timedelta(hours=1)
    near = head(nearest_deadline=now + TIMES.batch_slack)

    reroute = due_reroute(near, FACTS, now=now)

    # Twenty calls, at ten a second.
    before = now + TIMES.batch_slack + timedelta(seconds=2)
    assert reroute is not None
    assert (reroute.key, reroute.before) == (near.key, before)
    choice = next_choice(Lane.BATCH, before, reroute.facts, now=now)
    assert choice is not None
    assert choice.lane is Lane.INTERACTIVE
    assert choice.reason == "33m2s to the deadline; a batch needs more than 33m2s"


@pytest.mark.parametrize(
    "changes",
    [
        {"nearest_deadline": T0 + TIMES.batch_slack + timedelta(seconds=2, microseconds=1)},
        {"nearest_deadline": T0, "paused": True},
        {"nearest_deadline": T0, "key": make_key(lane=Lane.INTERACTIVE)},
    ],
)
def test_jobs_with_time_or_without_another_way_stay_in_their_queue(changes) -> None:
    assert due_reroute(head(**changes), FACTS, now=T0) is None


def test_calls_that_wait_already_make_a_queue_leave_sooner() -> None:
    slack = TIMES.batch_slack + timedelta(minutes=10)
    many = replace(FACTS, calls_waiting=6_000)

    assert due_reroute(head(nearest_deadline=T0 + slack), FACTS, now=T0) is None
    assert due_reroute(head(nearest_deadline=T0 + slack), many, now=T0) is not None


FLEX = replace(FACTS, has_flex=True)
IN_FLEX = make_key(lane=Lane.FLEX)


def test_what_the_discount_tier_may_not_answer_in_time_is_called_at_full_price() -> None:
    near = head(key=IN_FLEX, nearest_deadline=T0 + TIMES.flex_slack)

    reroute = due_reroute(near, FLEX, now=T0)

    assert reroute is not None
    choice = next_choice(Lane.FLEX, near.nearest_deadline, reroute.facts, now=T0)
    assert choice is not None
    assert choice.lane is Lane.INTERACTIVE
    assert due_reroute(head(key=IN_FLEX), FLEX, now=T0) is None


def test_a_job_whose_lane_is_still_the_best_stays() -> None:
    assert next_choice(Lane.BATCH, T0 + timedelta(hours=20), FACTS, now=T0) is None


@pytest.mark.parametrize(
    ("slack", "lane"),
    [(timedelta(hours=20), Lane.BATCH), (HALF_AN_HOUR, None), (timedelta(0), Lane.INTERACTIVE)],
)
def test_while_the_discount_tier_is_full_batches_take_what_they_can(slack, lane) -> None:
    reroute = due_reroute(head(key=IN_FLEX), FACTS, now=T0)

    assert reroute is not None
    choice = next_choice(Lane.FLEX, T0 + slack, reroute.facts, now=T0)
    assert (choice.lane if choice else None) is lane


def test_a_trickle_that_would_come_too_late_is_called_at_once_and_never_batched() -> None:
    facts = replace(FACTS, has_trickle=True)
    key = make_key(lane=Lane.TRICKLE)
    near = head(key=key, nearest_deadline=T0 + TIMES.reserve + timedelta(seconds=2))

    assert due_reroute(head(key=key, nearest_deadline=T0 + HALF_AN_HOUR), facts, now=T0) is None
    reroute = due_reroute(near, facts, now=T0)

    assert reroute is not None
    choice = next_choice(Lane.TRICKLE, near.nearest_deadline, reroute.facts, now=T0)
    assert choice is not None
    assert choice.lane is Lane.INTERACTIVE


def test_a_model_that_is_not_batched_any_more_leaves_the_batch_lane_at_once() -> None:
    refused = replace(FACTS, unbatchable_until=T0 + HALF_AN_HOUR)

    assert due_reroute(head(), refused, now=T0) is not None
    assert due_reroute(head(), refused, now=T0 + HALF_AN_HOUR) is None


@pytest.mark.parametrize(
    ("changes", "facts", "yields"),
    [
        ({"count": 9}, FLEX, True),
        ({"count": 10}, FLEX, False),
        ({"count": 9}, FACTS, False),
        ({"count": 9}, replace(FLEX, batch_price=0.4), False),
        ({"count": 9, "nearest_deadline": T0 + TIMES.flex_slack}, FLEX, False),
    ],
)
def test_few_jobs_go_to_the_discount_tier_at_equal_price(changes, facts, yields) -> None:
    choice = yields_to_flex(head(**changes), facts, now=T0, limits=LIMITS)

    assert (choice is not None) == yields
    assert choice is None or choice.reason == "fewer than 10 jobs are no batch"


def running(age: timedelta, slack: timedelta, **changes):
    """Return a batch that has run for `age`, and the time, `slack` before its deadline."""
    now = T0 + age
    fields = {"count": 20, "submitted_at": T0, "nearest_deadline": now + slack} | changes
    return {"batch": make_batch(state=BatchState.IN_PROGRESS, **fields), "now": now}


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


@pytest.mark.parametrize(
    ("age", "slack", "is_worth"),
    [
        # Most batches end within minutes: at first it is the best that there is.
        (hours(0.1), hours(3), False),
        # After an hour it will hardly end soon, and another probably would.
        (hours(1), hours(3), True),
        # There is no time for another.
        (hours(1), hours(1), False),
        # It ends with its window, long before it would have to be stopped.
        (hours(1), hours(25), False),
        (hours(30), hours(3), False),
    ],
)
def test_a_slow_batch_is_given_up_while_there_is_time_for_a_better_one(age, slack, is_worth):
    assert is_worth_another(**running(age, slack), facts=FACTS) == is_worth


def test_a_batch_that_was_not_submitted_or_has_no_deadline_is_not_given_up() -> None:
    for changes in ({"submitted_at": None}, {"nearest_deadline": None}):
        assert not is_worth_another(**running(hours(1), hours(3), **changes), facts=FACTS)


@pytest.mark.parametrize(
    ("age", "is_slow"), [(timedelta(0), False), (hours(0.25), False), (hours(1), True)]
)
def test_a_batch_is_a_straggler_if_another_would_be_much_quicker(age, is_slow) -> None:
    assert is_straggler(**running(age, hours(24)), turnaround=USUAL_BATCH) == is_slow
    assert not is_straggler(**running(age, hours(1), submitted_at=None), turnaround=USUAL_BATCH)


def test_what_is_enqueued_is_counted_per_credential_and_model() -> None:
    batches = [
        make_batch(state=BatchState.IN_PROGRESS, tokens=1),
        make_batch(state=BatchState.CANCELLING, tokens=2),
        make_batch(state=BatchState.SEALED, tokens=4),
        make_batch(state=BatchState.IN_PROGRESS, tokens=8, key=make_key(model="other")),
        make_batch(state=BatchState.IN_PROGRESS, tokens=16, key=make_key(credential=OTHER)),
    ]

    assert enqueued(batches, make_key().provider_queue) == 3


PACE = PollPace()


def poll(age: timedelta, *, polls: int = 1, jitter: float = 1.0, pace=PACE):
    batch = make_batch(state=BatchState.IN_PROGRESS, submitted_at=T0, polls=polls)
    now = T0 + age
    return next_poll(batch, pace, now=now, jitter=jitter) - now


def test_the_first_poll_comes_soon() -> None:
    assert poll(timedelta(0), polls=0) == timedelta(seconds=10)
    assert poll(timedelta(seconds=29), polls=0) == timedelta(seconds=10)
    assert poll(timedelta(seconds=30), polls=0) == timedelta(seconds=30)
    quick = PollPace(interval=timedelta(seconds=1))
    assert poll(timedelta(0), polls=0, pace=quick) == timedelta(seconds=1)


def test_polls_slow_down_with_the_age_of_the_batch() -> None:
    assert poll(timedelta(minutes=5)) == timedelta(seconds=30)
    assert poll(timedelta(minutes=40)) == timedelta(minutes=2)
    assert poll(timedelta(hours=20)) == timedelta(minutes=5)


def test_a_batch_that_was_adopted_counts_as_new() -> None:
    batch = make_batch(state=BatchState.IN_PROGRESS)

    assert next_poll(batch, PACE, now=T0, jitter=1.0) == T0 + PACE.first


@given(st.timedeltas(timedelta(0), timedelta(days=2)), st.integers(0, 1_000), st.floats(0.9, 1.1))
@settings(max_examples=60)
def test_every_pause_lies_within_its_bounds(age, polls, jitter) -> None:
    pause = poll(age, polls=polls, jitter=jitter)

    assert PACE.first * jitter <= pause <= PACE.slowest * jitter


@pytest.mark.parametrize("seconds", [0, 15, 60, 1_000])
def test_no_poll_comes_faster_than_the_provider_wants(seconds: int) -> None:
    pace = PACE.no_faster_than(timedelta(seconds=seconds))

    for usual, slowed in ((PACE.interval, pace.interval), (PACE.slowest, pace.slowest)):
        assert slowed == max(usual, timedelta(seconds=seconds))
    assert pace.first == PACE.first


def test_an_interval_above_the_slowest_pace_is_kept() -> None:
    pace = PollPace(interval=timedelta(minutes=10))

    assert poll(timedelta(hours=20), pace=pace) == timedelta(minutes=10)
