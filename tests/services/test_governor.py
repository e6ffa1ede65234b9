"""What is learned about enqueued-token limits, from refusals alone."""

from datetime import timedelta

import pytest

from proxy.services.governor import TokenGovernor
from tests.helpers.factories import CREDENTIAL, T0

MODEL = "gpt-4o-mini"


def test_nothing_is_known_at_first() -> None:
    governor = TokenGovernor()

    assert governor.max_tokens(CREDENTIAL, MODEL, now=T0) is None
    assert governor.resting_until(CREDENTIAL, MODEL) is None


def test_a_refusal_halves_the_batches_and_begins_a_rest() -> None:
    governor = TokenGovernor()

    until = governor.exceeded(CREDENTIAL, MODEL, 1_000, now=T0)

    assert until == governor.resting_until(CREDENTIAL, MODEL) == T0 + timedelta(minutes=1)
    assert governor.max_tokens(CREDENTIAL, MODEL, now=T0) == 500


def test_refusals_in_a_row_halve_again_and_rest_longer_up_to_a_bound() -> None:
    governor, now, rests = TokenGovernor(), T0, []
    for _ in range(8):
        until = governor.exceeded(CREDENTIAL, MODEL, 1_000, now=now)
        rests.append((until - now) / timedelta(minutes=1))
        now = until

    assert rests == [1, 2, 4, 8, 16, 30, 30, 30]
    assert governor.max_tokens(CREDENTIAL, MODEL, now=now) == 1_000 // 2**8


def test_a_small_batch_that_was_too_much_teaches_more_than_a_large_one() -> None:
    governor = TokenGovernor()
    governor.exceeded(CREDENTIAL, MODEL, 1_000, now=T0)

    governor.exceeded(CREDENTIAL, MODEL, 100, now=T0)

    assert governor.max_tokens(CREDENTIAL, MODEL, now=T0) == 50


def test_the_bound_never_reaches_zero() -> None:
    governor = TokenGovernor()
    for _ in range(4):
        governor.exceeded(CREDENTIAL, MODEL, 1, now=T0)

    assert governor.max_tokens(CREDENTIAL, MODEL, now=T0) == 1


def test_what_was_learned_is_forgotten_after_six_hours() -> None:
    governor = TokenGovernor()
    governor.exceeded(CREDENTIAL, MODEL, 1_000, now=T0)

    later = T0 + timedelta(hours=6)
    assert governor.max_tokens(CREDENTIAL, MODEL, now=later) == 500
    assert governor.max_tokens(CREDENTIAL, MODEL, now=later + timedelta(seconds=1)) is None


@pytest.mark.parametrize("other", [("credential-2", MODEL), (CREDENTIAL, "gpt-4o")])
def test_other_credentials_and_models_are_unaffected(other) -> None:
    governor = TokenGovernor()
    governor.exceeded(CREDENTIAL, MODEL, 1_000, now=T0)

    assert governor.max_tokens(*other, now=T0) is None
    assert governor.resting_until(*other) is None


def test_a_configured_bound_holds_and_is_only_ever_lowered() -> None:
    governor = TokenGovernor(configured=600)
    assert governor.max_tokens(CREDENTIAL, MODEL, now=T0) == 600

    governor.exceeded(CREDENTIAL, MODEL, 2_000, now=T0)
    assert governor.max_tokens(CREDENTIAL, MODEL, now=T0) == 600
    governor.exceeded(CREDENTIAL, MODEL, 600, now=T0)

    assert governor.max_tokens(CREDENTIAL, MODEL, now=T0) == 300
