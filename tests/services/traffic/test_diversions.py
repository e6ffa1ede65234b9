"""Rules that an audit proposes load, and take what they say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.load import load_policies
from policies.model import CallFacts, Defer
from proxy.services.traffic.diversions import Diversion, rules_text
from tests.helpers.factories import T0

texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=40)


def diversion(**changes):
    return Diversion(
        **{
            "name": "etl",
            "upstream": "openai",
            "path": "/v1/chat/completions",
            "models": ("gpt-5.4-mini",),
            "user_agent": "etl/*",
            **changes,
        }
    )


def facts(model="gpt-5.4-mini", path="/v1/chat/completions", user_agent="etl/1"):
    return CallFacts(
        method="POST",
        upstream="openai",
        path=path,
        headers=((b"User-Agent", user_agent.encode()),),
        now=T0,
        obstacle=None,
        body=lambda: {"model": model},
    )


def test_without_rules_there_is_no_file():
    assert rules_text([]) == ""


def test_a_rule_counts_only_until_its_mode_is_taken_out():
    shown = load_policies(rules_text([diversion()]), "p").rules.opinion(facts())
    live = load_policies(rules_text([diversion()], shadow=False), "p").rules.opinion(facts())

    assert shown is None or not isinstance(shown, Defer)
    assert isinstance(live, Defer)


@given(model=texts, path=texts)
def test_names_are_taken_literally_whatever_is_in_them(model, path):
    path = f"/{path}"
    text = rules_text([diversion(models=(model,), path=path)], shadow=False)

    rules = load_policies(text, "p").rules

    assert isinstance(rules.opinion(facts(model, path)), Defer)
    assert rules.opinion(facts(f"{model}x", path)) is None
    assert rules.opinion(facts(model, f"{path}x")) is None


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"models": ("",)}, None),
        ({"models": ("a", "b")}, '      model: ["a", "b"]'),
        ({"credential": "c1"}, '      credential: "c1"'),
        (
            {"zone": "Europe/Berlin"},
            '      time: {between: "22:00-06:00", zone: "Europe/Berlin"}',
        ),
    ],
)
def test_each_condition_stands_only_where_it_is_asked_for(changes, line):
    text = rules_text([diversion(**changes)])

    load_policies(text, "p")
    if line is None:
        assert "model:" not in text
    else:
        assert line in text.splitlines()
