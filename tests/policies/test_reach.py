import pytest
from hypothesis import given

from policies.reach import idle_rules
from tests.policies.facts import make_facts, rule_set
from tests.policies.test_rules import CALL, RULES

UPSTREAMS = ("openai", "groq")


def idle(*rules):
    """Return why each rule that never decides does not, by its name: r0, r1 …"""
    named = [{"name": f"r{n}", "then": "defer", **rule} for n, rule in enumerate(rules)]
    found = idle_rules(rule_set(*named).listed(), upstreams=UPSTREAMS)
    return {one.rule.name: one.reason for one in found}


A, B = {"when": {"model": "a"}}, {"when": {"model": "b"}}
STREAM = {"when": {"stream": True}}
FORWARD = {"then": "interactive"}
REFUSE = {"then": {"reject": {"message": "no"}}}


@pytest.mark.parametrize("rules", [(), (A, B), (A, FORWARD), (A, {**A, **FORWARD}, B)])
def test_rules_that_each_have_calls_of_their_own_are_left_alone(rules):
    assert idle(*rules) == {}


def test_what_comes_behind_a_rule_for_every_call_never_decides():
    found = idle(FORWARD, A, {**B, "mode": "shadow"})

    assert list(found) == ["r1", "r2"]
    assert found["r1"] == "'r0' in line 1 asks nothing and comes first"
    assert list(idle(REFUSE, A)) == ["r1"]


def test_a_second_rule_for_the_same_calls_never_decides():
    assert idle(A, B, A) == {"r2": "'r0' in line 1 asks the same and comes first"}


@pytest.mark.parametrize(
    "first",
    [
        {"mode": "shadow", **FORWARD},
        {"sample": "50%", **FORWARD},
        # It takes what can run later, and no streams.
        {},
        {"then": {"defer": {"answer": "background"}}},
    ],
)
def test_a_rule_that_leaves_calls_to_others_silences_none(first):
    assert idle(first, {**A, **FORWARD}, {**STREAM, "then": "defer"}) == {}


def test_a_rule_for_an_upstream_that_there_is_not_never_decides():
    found = idle({"when": {"upstream": "opneai"}}, {"when": {"upstream": "gr*"}})

    assert found == {"r0": "no upstream is called opneai; there are groq, openai"}


def test_a_sample_of_nothing_never_decides():
    assert idle({"sample": "0%"}, {"sample": "1%"}) == {"r0": "its sample is 0%"}


@given(rules=RULES, call=CALL)
def test_what_is_told_to_never_decide_never_does(rules, call):
    compiled = rule_set(*rules)
    names = {one.rule.name for one in idle_rules(compiled.listed(), upstreams=[call["upstream"]])}

    opinion = compiled.opinion(make_facts(**call))

    for decision in (opinion, opinion and opinion.shadow):
        assert decision is None or decision.decided_by.removeprefix("rule:") not in names
