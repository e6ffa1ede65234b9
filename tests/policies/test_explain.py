import pytest
from hypothesis import given, settings

from policies.explain import LONGEST_SHOWN, Step, Verdict, explain
from policies.model import UNDECIDED
from tests.policies.facts import make_facts, rule_set
from tests.policies.test_rules import CALL, RULES, interpret, names


@settings(max_examples=50)
@given(RULES, CALL)
def test_an_explanation_tells_what_really_happens(rules, call):
    told = explain(rule_set(*rules), make_facts(**call))
    verdicts = {step.rule: step.verdict for step in told.steps}
    deciding, shadow = interpret(rules, call)

    assert list(verdicts) == [rule["name"] for rule in rules]
    assert names(told.decision) == (deciding, shadow)
    assert [name for name, v in verdicts.items() if v is Verdict.DECIDES] == [deciding] * (
        deciding is not None
    )
    assert shadow in [*(name for name, v in verdicts.items() if v is Verdict.SHADOW), None]
    for step in told.steps:
        assert (step.verdict is Verdict.NO_MATCH) == (step.key is not None)


def test_every_rule_says_its_first_condition_that_fails():
    rules = rule_set(
        {"name": "path", "when": {"path": "/v1/messages", "model": "x"}, "then": "defer"},
        {"name": "header", "when": {"headers": {"x-a": ["a*", "!ab"]}}, "then": "defer"},
        {"name": "shadow", "then": "defer", "mode": "shadow"},
        {"name": "field", "when": {"body": {"n": {"min": 3}}}, "then": "defer"},
        {"name": "last", "then": "interactive"},
        {"name": "beyond", "then": "interactive"},
    )

    told = explain(rules, make_facts({"n": 2}, headers={"X-A": "ab"}))

    assert [str(step) for step in told.steps] == [
        "path: does not match: path is '/v1/chat/completions', wanted /v1/messages",
        "header: does not match: headers.x-a is 'ab', wanted a* or !ab",
        "shadow: would decide",
        "field: does not match: body.n is 2, wanted min 3",
        "last: decides",
        "beyond: not asked",
    ]


@pytest.mark.parametrize(
    ("when", "facts", "key", "actual"),
    [
        ({"headers": {"x-a": "*"}}, make_facts(), "headers.x-a", "missing"),
        ({"tags": {"t": "*"}}, make_facts(), "tags.t", "missing"),
        ({"owner": "etl"}, make_facts(owner=["web", "abc"]), "owner", "'abc, web'"),
        ({"credential": "etl"}, make_facts(), "credential", "missing"),
        ({"time": {"days": "tue"}}, make_facts(), "time", "'Mon 12:00 UTC'"),
        ({"tokens": {"max": 1}}, make_facts(tokens=7), "tokens", "7"),
        ({"body_bytes": {"max": 1}}, make_facts(body_bytes=7), "body_bytes", "7"),
        ({"has_tools": True}, make_facts(), "has_tools", "false"),
        ({"body": {"a": "b"}}, make_facts({"a": [1]}), "body.a", "[1]"),
        ({}, make_facts(obstacle="an upload"), "can run later", "'an upload'"),
        ({}, make_facts({"stream": True}), "stream", "true"),
        ({"stream": True}, make_facts(), "stream", "false"),
    ],
)
def test_what_a_call_has_instead_is_shown(when, facts, key, actual):
    [step] = explain(rule_set(when=when), facts).steps

    assert (step.verdict, step.key, step.actual) == (Verdict.NO_MATCH, key, actual)


def test_other_reasons_why_a_rule_does_not_match():
    background = rule_set(then={"defer": {"answer": "background"}})
    sample = rule_set(sample="0%")

    upload = make_facts(obstacle="an upload")

    assert explain(background, make_facts()).steps[0].key == "path"
    assert str(
        explain(rule_set(when={"model": "x"}, then="interactive"), upload).steps[0]
    ).endswith("body is 'an upload', wanted that of a call that can run later")
    assert explain(sample, make_facts()).steps[0] == Step(
        "r", 1, Verdict.NO_MATCH, "sample", "0% by call", "'not drawn'"
    )


def test_a_long_value_is_shown_short():
    [step] = explain(rule_set(when={"body": {"a": "b"}}), make_facts({"a": "x" * 9999})).steps

    assert len(step.actual or "") <= LONGEST_SHOWN + 1


def test_without_a_match_the_call_is_forwarded():
    assert explain(rule_set(), make_facts()).decision is UNDECIDED
