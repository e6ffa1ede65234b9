"""The numbers in words, the most important first."""

from dataclasses import replace
from datetime import timedelta

from proxy.embedded.standing import Standing, in_words, troubles
from tests.helpers.factories import T0, make_batch, make_credential

NOTHING = Standing(
    answered=0,
    forwarded=0,
    held=0,
    queued=0,
    batched=0,
    batches=0,
    sent_at=None,
    direct=0,
    alone=0,
)


def words(**changes):
    return in_words(replace(NOTHING, **changes), now=T0)


def test_calls_that_wait_for_a_batch():
    assert words(held=3, queued=3) == ("offramp: 0 of 3 calls answered · 3 waiting for a batch")


def test_batches_tell_since_when_the_oldest_is_at_its_provider():
    sent = T0 - timedelta(minutes=3, seconds=5)

    assert words(answered=1200, held=800, batched=800, batches=2, sent_at=sent) == (
        "offramp: 1,200 of 2,000 calls answered · 800 in 2 batches, sent 3m5s ago"
    )
    assert words(held=5, batched=5, batches=1, sent_at=T0) == (
        "offramp: 0 of 5 calls answered · 5 in 1 batch, sent 1s ago"
    )


def test_direct_calls_are_told_apart():
    assert words(answered=7, held=1, direct=1) == (
        "offramp: 7 of 8 calls answered · 1 called directly"
    )


def test_a_refused_key_comes_before_all_numbers():
    paused = make_credential(paused_at=T0, pause_status=401)

    found = troubles([make_credential(), paused], [], {"openai": "HTTP 401"}, now=T0)

    assert found == ("openai refuses the key (HTTP 401)",)
    assert words(held=1, queued=1, troubles=found).startswith(
        "offramp: openai refuses the key (HTTP 401) · 0 of 1 call"
    )


def test_a_batch_that_its_provider_does_not_take_is_told_after_a_while():
    young = make_batch(created_at=T0 - timedelta(seconds=5))
    old = make_batch(created_at=T0 - timedelta(seconds=65))
    older = make_batch(created_at=T0 - timedelta(seconds=70))

    assert troubles([], [young], {}, now=T0) == ()
    assert troubles([], [young, older, old], {}, now=T0) == (
        "openai has not taken a batch for 1m10s",
    )
    assert troubles([], [old], {"openai": "it hung up"}, now=T0) == (
        "openai has not taken a batch for 1m5s: it hung up",
    )


def test_an_upstream_that_does_not_answer_direct_calls_is_told_with_the_reason():
    found = troubles([make_credential()], [], {"openai": "connection refused"}, now=T0)

    assert found == ("openai does not answer: connection refused",)


def test_what_is_pending_has_no_answer_in_any_lane():
    assert replace(NOTHING, queued=1, batched=20, direct=300).pending == 321
