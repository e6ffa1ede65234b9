"""Which histories of calls show a script that waits for each answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.pace import LONE_CALLS, Pace


def after(history):
    """Return the pace after a history: `(` a call, `)` the answer to a new one, `=` to a known."""
    pace = Pace()
    for step in history:
        pace = pace.begun() if step == "(" else pace.ended(waited=step == ")")
    return pace


@pytest.mark.parametrize("history", ["()()()", "(=()()()", "(())()()()", "()()(=()"])
def test_calls_that_come_after_each_other_are_a_sequential_run(history):
    assert after(history).is_sequential


@pytest.mark.parametrize(
    "history", ["", "()()", "()()(", "(()())", "()()(())", "()()()(())", "(=(=(=(=", "()()()(("]
)
def test_calls_beside_each_other_are_not_nor_few_nor_known_ones(history):
    assert not after(history).is_sequential


def test_a_sequential_run_stays_one_until_two_calls_are_made_at_once():
    alone = after("()" * (LONE_CALLS + 20))

    assert alone.is_sequential
    assert alone.begun().is_sequential
    assert not alone.begun().begun().is_sequential


@given(st.lists(st.booleans(), max_size=40))
def test_with_company_all_along_no_run_is_sequential(waits):
    pace = Pace().begun()
    for waited in waits:
        pace = pace.begun().ended(waited=waited)

    assert pace.under_way == 1
    assert not pace.is_sequential
