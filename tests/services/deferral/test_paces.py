"""Runs are told apart, and not all of them are kept in mind for ever."""

from contextlib import ExitStack

from proxy.core.pace import LONE_CALLS
from proxy.services.deferral import paces
from proxy.services.deferral.paces import Paces


def call_alone(known, run, *, times=LONE_CALLS):
    for _ in range(times):
        with known.hold(run) as call:
            call.is_new = True


def call_together(known, run):
    with ExitStack() as calls:
        for _ in range(5):
            calls.enter_context(known.hold(run)).is_new = True


def test_each_run_has_a_pace_of_its_own():
    known = Paces()

    call_alone(known, "slow")
    call_together(known, "quick")

    assert known.hold("slow").__enter__().alone
    assert not known.hold("quick").__enter__().alone
    assert not known.hold("unknown").__enter__().alone


def test_of_calls_that_arrive_together_only_the_first_can_have_been_alone():
    known = Paces()
    call_alone(known, "run")

    with known.hold("run") as first, known.hold("run") as second, known.hold("run") as third:
        assert [first.alone, second.alone, third.alone] == [True, False, False]


def test_a_call_that_ends_before_its_context_is_over_once():
    known = Paces()
    call_alone(known, "run", times=LONE_CALLS - 1)

    with known.hold("run") as call:
        call.is_new = True
        call.end()
        with known.hold("run") as following:
            assert following.alone

    assert known.get("run").under_way == 0


def test_without_a_run_nothing_is_noted():
    known = Paces()

    call_alone(known, None)

    with known.hold(None) as call:
        assert not call.alone


def test_the_longest_unused_run_is_forgotten(monkeypatch):
    monkeypatch.setattr(paces, "MAX_RUNS", 2)
    known = Paces()
    call_alone(known, "old")
    with known.hold("old"):
        call_alone(known, "new")
        call_alone(known, "newer")

    assert not known.get("old").is_sequential
    assert known.get("newer").is_sequential
