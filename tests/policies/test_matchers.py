from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.matchers import field_at, has_tools
from tests.policies.facts import make_facts, matches, rule_set

BODY = {"a": {"b": [10, {"c": "x"}]}, "0": "zero", "n": None}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b.0", 10),
        ("a.b.1.c", "x"),
        ("0", "zero"),
        ("n", None),
        ("a.b.2", None),
        ("a.b.-1", None),
        ("a.b.x", None),
        ("a.b.1.c.d", None),
        ("a.x.y", None),
    ],
)
def test_a_dotted_path_leads_through_mappings_and_lists(path, value):
    assert field_at(BODY, path.split(".")) == value
    assert field_at(None, path.split(".")) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"tools": [{}]}, True),
        ({"functions": [{}]}, True),
        ({"tools": []}, False),
        ({"tools": "x"}, False),
        ({}, False),
        (None, None),
    ],
)
def test_tools_are_offered_in_a_list(body, expected):
    assert has_tools(make_facts(body)) is expected


@pytest.mark.parametrize(
    ("when", "yes", "no"),
    [
        ({"upstream": ["openai", "groq"]}, {}, {"upstream": "anthropic"}),
        ({"method": "post"}, {}, {"method": "GET"}),
        ({"path": "/v1/*"}, {}, {"path": "/v1beta/x"}),
        ({"headers": {"X-A": "1*"}}, {"headers": {"x-a": "12"}}, {"headers": {"x-a": "2"}}),
        ({"headers": {"x-a": "!1"}}, {"headers": {"x-a": "2"}}, {}),
        ({"tags": {"team": "data"}}, {"tags": {"team": "data"}}, {"tags": {"team": "x"}}),
        ({"tags": {"team": "!x"}}, {"tags": {"team": "data"}}, {}),
        ({"owner": "etl"}, {"owner": ["sha256:1", "etl"]}, {"owner": ["web"]}),
        ({"owner": "!etl"}, {"owner": ["web"]}, {"owner": ["sha256:1", "etl"]}),
        ({"credential": "!x"}, {"credential": ["y"]}, {}),
        ({"time": {"between": "11:00-13:00"}}, {}, None),
        ({"time": [{"days": "tue"}, {"days": "mon"}]}, {}, None),
        ({"body_bytes": {"max": 10}}, {"body_bytes": 10}, {}),
        ({"tokens": {"min": 5}}, {"tokens": 5}, {"tokens": 4}),
        ({"tokens": {"max": 5}}, {"tokens": 0}, {}),
        ({"model": ["gpt-*", "!*-nano"]}, {}, {"body": {"model": "gpt-nano"}}),
        ({"model": "!claude-*"}, {}, {"body": {}}),
        ({"stream": False}, {}, {"body": {"stream": True}}),
        ({"stream": [True, False]}, {"body": {"stream": True}}, {"body": None}),
        ({"has_tools": False}, {}, {"body": {"tools": [1]}}),
        ({"has_tools": [False, True]}, {}, {"body": None}),
        ({"body": {"m.j": "n"}}, {"body": {"m": {"j": "n"}}}, {"body": {"m": "n"}}),
        ({"body": {"a": "!x"}}, {"body": {"a": "y"}}, {"body": {}}),
        ({"body": {"a": "!x"}}, {"body": {"a": "y"}}, {"body": {"a": 1}}),
    ],
)
def test_each_condition_tells_calls_apart_and_never_takes_what_is_missing(when, yes, no):
    assert matches(make_facts(**yes), when=when)
    if no is not None:
        assert not matches(make_facts(**no), when=when)


@pytest.mark.parametrize("when", [{"days": "tue"}, {"between": "13:00-11:00"}])
def test_outside_its_hours_a_rule_does_not_match(when):
    assert not matches(make_facts(), when={"time": when})


def drawn(share, key, *, name="r", by=None):
    sample = {"share": f"{share}%", "by": by} if by else f"{share}%"
    facts = make_facts(digest=lambda: key, headers={by: key.decode("latin-1")} if by else None)
    return matches(facts, name=name, sample=sample)


@given(st.binary(max_size=20), st.integers(0, 100), st.integers(0, 100))
def test_a_sample_is_stable_and_a_larger_share_keeps_what_a_smaller_one_took(key, one, other):
    small, large = sorted((one, other))

    assert drawn(small, key) == drawn(small, key)
    assert not drawn(small, key) or drawn(large, key)
    assert drawn(100, key)
    assert not drawn(0, key)


@pytest.mark.parametrize("by", [None, "x-user"])
def test_a_sample_takes_its_share_and_two_rules_draw_apart(by):
    keys = [sha256(bytes([n % 256, n // 256])).hexdigest().encode() for n in range(2000)]

    first = {key for key in keys if drawn(25, key, by=by)}
    second = {key for key in keys if drawn(25, key, by=by, name="other")}

    # Ten standard deviations: 2000 fixed draws of one in four, and of one in sixteen.
    assert abs(len(first) - 500) < 195
    assert abs(len(first & second) - 125) < 110


def test_a_sample_by_header_follows_the_header_and_not_the_call():
    rules = rule_set(sample={"share": "50%", "by": "x-user"}, then="interactive")

    def decided(user, digest):
        facts = make_facts(headers={"X-User": user}, digest=lambda: digest)
        return rules.opinion(facts) is not None

    assert {decided("ann", b"1"), decided("ann", b"2")} in ({True}, {False})
    assert {decided(f"user {n}", b"1") for n in range(50)} == {True, False}


def test_a_call_that_cannot_be_drawn_is_not_in_the_sample():
    assert not matches(make_facts(digest=lambda: None), sample="100%")
    assert not matches(make_facts(), sample={"share": "100%", "by": "x-user"})
