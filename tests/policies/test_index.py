import pytest
from hypothesis import given, settings

from policies.index import MEMO_SIZE, RuleIndex
from tests.policies.facts import make_facts, raw, rule_set, unread
from tests.policies.test_rules import CALL, RULES


def index(*conditions):
    rules = [
        {"name": f"r{n}", "when": when, "then": "interactive"} for n, when in enumerate(conditions)
    ]
    return RuleIndex.of([rule.rule.when for rule in rule_set(*rules).compiled])


@settings(max_examples=50)
@given(RULES, CALL)
def test_no_rule_that_matches_is_left_out(rules, call):
    compiled, facts = rule_set(*rules).compiled, make_facts(**call)

    possible = RuleIndex.of([rule.rule.when for rule in compiled]).possible(facts)

    assert possible == sorted(set(possible))
    assert set(possible) >= {n for n, rule in enumerate(compiled) if rule.matches(facts)}


@pytest.mark.parametrize(
    "when",
    [
        {"headers": {"x-a": "a"}, "path": "/v1/*"},
        {"headers": {"user-agent": "a", "x-a": "a"}},
        {"headers": {"user-agent": "*etl*"}},
        {"tags": {"team": "a"}, "upstream": "openai"},
        {"tags": {"other": "*"}},
        {"path": "/v1/messages", "headers": {"user-agent": "*"}},
        {"upstream": "groq"},
        {"owner": "etl"},
        {"credential": "!known"},
    ],
)
def test_a_rule_that_wants_something_else_is_not_even_asked(when):
    facts = make_facts(
        unread,
        headers={"User-Agent": "x", "X-A": "b"},
        tags={"team": "b"},
        owner=["web"],
        credential=["known"],
    )

    assert index(when, {}, {"method": "GET"}).possible(facts) == [1, 2]


def test_whose_call_it_is_is_asked_only_where_nothing_else_tells():
    def never():
        raise AssertionError

    filed = index({"owner": "etl", "path": "/v1/messages"}, {"headers": {"x": "a"}, "owner": "a"})

    assert filed.possible(make_facts(unread, identity=never)) == []


def test_values_are_remembered_within_bounds_and_told_apart_all_the_same():
    filed = index({"headers": {"x-id": "*7"}})

    for n in range(MEMO_SIZE * 2 + 10):
        possible = filed.possible(make_facts(headers=raw({"X-Id": str(n)})))
        assert possible == ([0] if n % 10 == 7 else [])
    assert filed.possible(make_facts(headers=raw({"x-id": "x" * 5000 + "7"}))) == [0]

    memo = filed._headers[b"x-id"]._memo
    assert 0 < len(memo) <= MEMO_SIZE
    assert max(map(len, memo)) < 5000


def test_a_rule_with_nothing_to_file_it_under_is_always_possible():
    assert index({}, {"model": "x"}).possible(make_facts(unread)) == [0, 1]


def test_a_credential_is_never_remembered():
    filed = index({"headers": {"authorization": "*"}})

    assert filed.possible(make_facts(headers={"Authorization": "Bearer secret"})) == [0]
    assert not filed._headers
