import pytest
from hypothesis import given, settings

from policies.index import MEMO_LENGTH, MEMO_SIZE, ContentIndex, RuleIndex
from tests.policies.facts import make_facts, raw, rule_set, unread
from tests.policies.test_rules import CALL, RULES


def parsed(conditions):
    rules = [
        {"name": f"r{n}", "when": when, "then": "interactive"} for n, when in enumerate(conditions)
    ]
    return [rule.when for rule in rule_set(*rules).listed()]


def index(*conditions):
    return RuleIndex.of(parsed(conditions))


def content(*conditions):
    return ContentIndex.of(parsed(conditions))


@settings(max_examples=50)
@given(RULES, CALL)
def test_no_rule_that_matches_is_left_out(rules, call):
    compiled, facts = rule_set(*rules).compiled, make_facts(**call)

    possible = RuleIndex.of([rule.rule.when for rule in compiled]).possible(facts)

    assert list(possible) == sorted(set(possible))
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

    assert list(index(when, {}, {"method": "GET"}).possible(facts)) == [1, 2]


def test_whose_call_it_is_is_asked_only_where_nothing_else_tells():
    def never():
        raise AssertionError

    filed = index({"owner": "etl", "path": "/v1/messages"}, {"headers": {"x": "a"}, "owner": "a"})

    assert list(filed.possible(make_facts(unread, identity=never))) == []


def test_values_are_remembered_within_bounds_and_told_apart_all_the_same():
    filed = index({"headers": {"x-id": "*7"}})

    for n in range(MEMO_SIZE * 2 + 10):
        possible = filed.possible(make_facts(headers=raw({"X-Id": str(n)})))
        assert list(possible) == ([0] if n % 10 == 7 else [])
    assert filed.possible(make_facts(headers=raw({"x-id": "x" * 5000 + "7"}))) == [0]

    memo = filed._headers[b"x-id"]._memo
    assert 0 < len(memo) <= MEMO_SIZE
    assert max(map(len, memo)) < 5000


def test_a_rule_with_nothing_to_file_it_under_is_always_possible():
    assert list(index({}, {"model": "x"}).possible(make_facts(unread))) == [0, 1]


def test_a_credential_is_never_remembered():
    filed = index({"headers": {"authorization": "*"}})

    assert list(filed.possible(make_facts(headers={"Authorization": "Bearer secret"}))) == [0]
    assert not filed._headers


@settings(max_examples=80)
@given(RULES, CALL)
def test_a_head_that_concerns_no_rule_is_one_that_none_is_possible_for(rules, call):
    filed = RuleIndex.of([rule.rule.when for rule in rule_set(*rules).compiled])
    facts = make_facts(**call)

    concerned = filed.concerns(
        headers=facts.headers, tags=facts.tags or {}, path=facts.path, upstream=facts.upstream
    )

    assert concerned or not filed.possible(facts)


@pytest.mark.parametrize(
    ("when", "concerned"),
    [
        ({"headers": {"x-job": "report"}}, True),
        ({"headers": {"x-job": "other"}}, False),
        ({"headers": {"x-else": "*"}}, False),
        ({"tags": {"team": "etl"}}, True),
        ({"tags": {"team": "web"}}, False),
        ({"path": "/v1/*"}, True),
        ({"path": "/v2/*"}, False),
        ({"upstream": "groq"}, False),
        ({"owner": "anybody"}, True),
        ({"method": "GET"}, True),
    ],
)
def test_most_calls_are_told_to_concern_no_rule_by_their_head(when, concerned):
    head = {"headers": raw({"X-Job": "report"}), "tags": {"team": "etl"}}

    filed = index(when)

    assert filed.concerns(**head, path="/v1/embeddings", upstream="openai") is concerned


@settings(max_examples=80)
@given(RULES, CALL)
def test_no_rule_on_the_body_that_matches_is_left_out(rules, call):
    compiled, facts = rule_set(*rules).compiled, make_facts(**call)

    possible = ContentIndex.of([rule.rule.when for rule in compiled]).possible(facts)

    assert set(possible) >= {n for n, rule in enumerate(compiled) if rule.matches(facts)}


@pytest.mark.parametrize(
    ("when", "body"),
    [
        ({"body": {"metadata.job": "a*"}}, {"metadata": {"job": "b"}}),
        ({"body": {"n": 1}}, {"n": True}),
        ({"body": {"n": True}}, {"n": 1}),
        ({"body": {"n": "*"}}, {"n": None}),
        ({"body": {"n": "a"}}, {"n": ["a"]}),
        ({"model": "gpt-*"}, {"model": "claude"}),
        ({"model": "!gpt-*"}, {}),
    ],
)
def test_a_rule_that_wants_another_body_is_not_even_asked(when, body):
    filed = content(when, {"tokens": {"max": 5}})

    # The other kind of the same number must not be taken from the memory.
    filed.possible(make_facts({"n": 1}))
    filed.possible(make_facts({"n": True}))

    assert set(filed.possible(make_facts(body))) == {1}


def test_a_value_that_is_no_single_one_is_present_all_the_same():
    assert set(
        content({"body": {"response_format": "*"}}).possible(
            make_facts({"response_format": {"type": "json_object"}})
        )
    ) == {0}


def test_fields_are_remembered_within_bounds():
    filed = content({"body": {"id": "*7"}})

    for n in range(MEMO_SIZE * 2 + 10):
        possible = filed.possible(make_facts({"id": str(n)}))
        assert set(possible) == ({0} if n % 10 == 7 else set())
    assert set(filed.possible(make_facts({"id": "x" * 5000 + "7"}))) == {0}

    memo = filed._fields[0]._memo
    assert 0 < len(memo) <= MEMO_SIZE
    assert all(len(value) <= MEMO_LENGTH for _, value in memo)
