"""Which call is the repeat of which, and which job it may claim."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.repeats import (
    CLAIM_WINDOW,
    WAITER_LEASE,
    Answered,
    Delivery,
    begun_fingerprint,
    claim_rank,
    claimed,
    run_key,
    with_body,
)
from tests.helpers.factories import OWNER, T0, IdFactory

CALL: dict[str, Any] = {
    "owner": OWNER,
    "upstream": "openai",
    "target": "/v1/chat/completions",
    "headers": [("openai-organization", "org-1"), ("openai-project", "p")],
    "body": b'{"model":"m"}',
}


def fingerprint(*, body: bytes, **head: Any) -> str:
    return with_body(begun_fingerprint(**head), body)


def delivery(**changes) -> Delivery:
    made = Delivery(
        job_id=IdFactory().job(),
        owner=OWNER,
        fingerprint="f",
        state=Answered.WAITING,
        waiter_until=T0 + WAITER_LEASE,
        retry_count=0,
        claimed_at=T0,
    )
    return replace(made, **changes)


def test_equal_calls_have_equal_fingerprints_whatever_the_order_of_headers() -> None:
    swapped = CALL | {"headers": list(reversed(CALL["headers"]))}

    assert fingerprint(**CALL) == fingerprint(**swapped)


@pytest.mark.parametrize(
    "change",
    [
        {"owner": "owner-2"},
        {"upstream": "groq"},
        {"target": "/v1/chat/completions?a=1"},
        {"headers": []},
        {"headers": [("openai-organization", "org-2"), ("openai-project", "p")]},
        {"headers": [("openai-organizatio", "norg-1"), ("openai-project", "p")]},
        {"body": b'{"model": "m"}'},
        {"body": b""},
    ],
)
def test_calls_that_differ_in_anything_have_other_fingerprints(change) -> None:
    assert fingerprint(**CALL) != fingerprint(**(CALL | change))


parts = st.tuples(st.text(max_size=3), st.text(max_size=3), st.text(max_size=3))


@given(parts, parts)
@settings(max_examples=50)
def test_parts_are_never_joined_into_each_other(one, other) -> None:
    def of(owner, upstream, target):
        return fingerprint(owner=owner, upstream=upstream, target=target, headers=(), body=b"")

    assert (of(*one) == of(*other)) == (one == other)


def test_half_a_surrogate_pair_has_a_fingerprint_too() -> None:
    # As JSON escapes one, and as undecodable bytes of a target are decoded.
    changes: list[dict[str, Any]] = [
        {},
        {"target": "/v1/\ud800"},
        {"target": "/v1/\udcff"},
        {"headers": [("openai-project", "\ud800")]},
    ]

    assert len({fingerprint(**{**CALL, **change}) for change in changes}) == len(changes)


@pytest.mark.parametrize(
    ("case", "retry_count", "after", "rank"),
    [
        # Who broke off may be repeated by anyone, at any time.
        (delivery(state=Answered.BROKEN), 0, timedelta(days=2), (0, 0)),
        (delivery(state=Answered.BROKEN, retry_count=3), 1, timedelta(0), (0, 0)),
        # A waiter without a sign of life is as good as gone, from the end of its lease.
        (delivery(), 0, WAITER_LEASE, (0, 0)),
        (delivery(), 0, WAITER_LEASE - timedelta(microseconds=1), None),
        # Cared for: only a later try of the same caller, and only for a while.
        (delivery(), 1, timedelta(0), (1, 1)),
        (delivery(waiter_until=T0 + timedelta(days=1)), 1, CLAIM_WINDOW, (1, 1)),
        (
            delivery(waiter_until=T0 + timedelta(days=1)),
            1,
            CLAIM_WINDOW + timedelta(microseconds=1),
            None,
        ),
        (delivery(state=Answered.FLUSHED), 1, timedelta(0), (1, 0)),
        (delivery(state=Answered.FLUSHED), 0, timedelta(0), None),
        (delivery(state=Answered.FLUSHED), 1, timedelta(minutes=11), None),
        (delivery(state=Answered.FLUSHED, retry_count=1), 1, timedelta(0), None),
        (delivery(state=Answered.FLUSHED, retry_count=1), 2, timedelta(0), (2, 0)),
        # A flushed answer whose waiter's lease ended is no abandoned one.
        (delivery(state=Answered.FLUSHED), 0, WAITER_LEASE, None),
    ],
)
def test_what_a_repeat_may_claim_and_how_well(case, retry_count, after, rank) -> None:
    assert claim_rank(case, retry_count=retry_count, now=T0 + after) == rank


def test_a_claimed_job_waits_for_its_new_caller() -> None:
    now = T0 + timedelta(minutes=3)

    after = claimed(delivery(state=Answered.BROKEN), retry_count=2, now=now)

    assert after.state is Answered.WAITING
    assert (after.waiter_until, after.claimed_at) == (now + WAITER_LEASE, now)
    assert after.retry_count == 2


def test_a_claim_never_lowers_the_count_of_tries() -> None:
    broken = delivery(state=Answered.BROKEN, retry_count=3)

    assert claimed(broken, retry_count=0, now=T0).retry_count == 3


@given(st.integers(0, 3), st.sampled_from(Answered), st.integers(0, 1_000))
@settings(max_examples=60)
def test_of_two_repeats_at_one_moment_the_second_gets_nothing(retry_count, state, seconds) -> None:
    now = T0 + timedelta(seconds=seconds)
    first = delivery(state=state)
    if claim_rank(first, retry_count=retry_count, now=now) is None:
        return

    second = claimed(first, retry_count=retry_count, now=now)

    assert claim_rank(second, retry_count=retry_count, now=now) is None


def test_occurrences_within_a_run_have_keys_of_their_own() -> None:
    keys = {run_key(run, call, n) for run in ("r1", "r2") for call in ("a", "b") for n in (0, 1)}

    assert len(keys) == 8
