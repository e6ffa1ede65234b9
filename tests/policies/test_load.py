import json
import textwrap

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.durations import ALLOWED
from policies.load import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_NODES,
    PolicyError,
    PolicyFile,
    load_call,
    load_policies,
    parse_yaml,
    policy_schema,
)
from policies.tree import plain
from tests.policies.test_rules import RULES

# The example of the reference page, with everything in it.
FULL = """
rules:
  - name: humans-never-wait
    when: {headers: {x-user-facing: "*"}}
    then: interactive
  - name: nightly-etl
    when:
      upstream: [openai, anthropic]
      path: [/v1/chat/completions, /v1/messages]
      model: ["gpt-*-mini", "claude-*"]
      headers: {user-agent: "*etl*"}
      tags: {team: data}
      body: {metadata.job: nightly, stream: false}
      has_tools: false
      tokens: {max: 20000}
      time: {between: "20:00-06:00", zone: Europe/Berlin}
      owner: [etl]
    then: {defer: {answer: wait, deadline: 6h}}
    sample: 25%                        # stable by request hash
    mode: shadow                       # decide, count and price it, but forward
"""


PATTERN_WORDS = "a pattern (a text; quote numbers, true, false, and what begins with '*' or '!')"

WHEN_KEYS = (
    "upstream", "method", "path", "headers", "tags", "owner", "credential", "time", "body_bytes",
    "model", "stream", "has_tools", "tokens", "body",
)  # fmt: skip


def complaints(text):
    with pytest.raises(PolicyError) as caught:
        load_policies(textwrap.dedent(text), "p.yaml")
    return str(caught.value).splitlines()


def test_a_whole_file_is_loaded():
    rules = load_policies(FULL, "p.yaml").rules

    assert [compiled.rule.name for compiled in rules.compiled] == [
        "humans-never-wait",
        "nightly-etl",
    ]
    assert rules.compiled[1].rule.line == 6


def test_every_complaint_comes_at_once_with_its_place():
    assert complaints("""\
        rules:
          - name: a
            when: {modle: x, tokens: {max: many}}
            then: later
          - name: b
            when:
              path: [/v1, 7]
            then: {defer: {deadline: 6 h}}
        test: []
        """) == [
        "p.yaml:3:12: unknown key 'modle' (did you mean 'model'?); allowed: "
        + ", ".join(WHEN_KEYS),
        "p.yaml:3:36: 'many' is not a whole number",
        "p.yaml:4:11: 'later' is refused: allowed: interactive, defer",
        f"p.yaml:7:19: '7' is not {PATTERN_WORDS}",
        f"p.yaml:8:30: '6 h' is refused: '6 h' is not a duration: write {ALLOWED}",
        "p.yaml:9:1: unknown key 'test' (did you mean 'tests'?); allowed: rules, tests",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "p.yaml:1:1: the file is empty"),
        ("# nothing\n", "p.yaml:1:1: the file is empty"),
        ("{}", "p.yaml:1:1: at least one is needed here of rules, tests"),
        ("[]", "p.yaml:1:1: a list is not a mapping with any of rules, tests"),
        ("rules: []\n---\nrules: []", "p.yaml:2:1: a second document"),
        ("rules: []\nrules: []", "p.yaml:2:1: the key 'rules' stands twice"),
        ("? [a]\n: 1", "p.yaml:1:3: a key must be a single text"),
        ("rules: *etl*", "p.yaml:1:8: the alias '*etl*' names nothing before it"),
        ("rules: !exclude", "p.yaml:1:8: the tag '!exclude' is not allowed"),
        ("rules: !!python/object:os.system x", "is not allowed"),
        ("rules: &a [*a]", "p.yaml:1:12: the alias '*a' names nothing before it"),
        ("rules: {<<: *x}", "the alias '*x' names nothing"),
        ("rules: [&a {name: a}, {<<: *a}]", "p.yaml:1:24: merging (<<) is not supported"),
        ("rules: [", "p.yaml:1:"),
        ("rules:\n\t- a", "p.yaml:2:1: not YAML: found character '\\t'"),
        ("a: 1\n b: 2", "p.yaml:2:3: not YAML: mapping values"),
        ("rules: []\na: \x00", "p.yaml:2:4: a character that YAML does not allow"),
        ('rules: "\\UFFFFFFFF"', "p.yaml:1:1: not YAML after this place"),
        ("[" * (MAX_DEPTH + 2), f"p.yaml:1:{MAX_DEPTH + 2}: nested deeper than {MAX_DEPTH}"),
        ("x" * (MAX_CHARACTERS + 1), "p.yaml:1:1: the file has more than 262144 characters"),
        ("- x\n" * (MAX_NODES + 1), f"p.yaml:{MAX_NODES}:3: more than {MAX_NODES} values"),
    ],
)
def test_what_is_no_rule_file_is_refused_at_its_place(text, complaint):
    with pytest.raises(PolicyError) as caught:
        load_policies(text, "p.yaml")

    assert complaint in str(caught.value)


def test_an_alias_bomb_is_refused_before_it_goes_off():
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 9)]

    assert complaints("l0: &l0 x\n" + "\n".join(levels))[0].startswith(
        f"p.yaml:6:15: more than {MAX_NODES} values, aliases counted"
    )


def test_an_alias_stands_for_what_it_names():
    file = load_policies(
        """
        rules:
          - {name: a, when: &cheap {model: ["*-mini"]}, then: defer}
          - {name: b, when: *cheap, then: interactive}
        """,
        "p.yaml",
    )

    first, second = file.rules.compiled
    assert first.rule.when == second.rule.when


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("7", 7), ("-3", -3), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("true", True),
        ("FALSE", False), ("null", None), ("~", None), ("''", ""), ("'7'", "7"), ('"true"', "true"),
        ("yes", "yes"), ("on", "on"), ("0x10", "0x10"), ("1_000", "1_000"), ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"), (".inf", ".inf"), ("25%", "25%"), ("9" * 19, 1e19),
        ("9" * 40, "9" * 40), ("1e999", float("inf")), ('"\\ud83d\\ude00"', "😀"), ("é", "é"),
        ('"\\ud83d"', "\ufffd"),
    ],
)  # fmt: skip
def test_single_values_are_those_of_yaml_1_2(written, value):
    found = plain(parse_yaml(written))

    assert (found, type(found)) == (value, type(value))


YAMLISH = st.text(
    st.sampled_from(list("ab:-[]{},#&*!|>'\"%@`?\\xuU0129.~\t\n \r\x00\x85\ufeffé\ud800😀<=/")),
    max_size=60,
)
FRAGMENTS = """\
rules:
  - name: a
    when:
      model: [x, '!y']
    then: defer
tests:
  - &a name: b
    then: *a
    expect: {decision: defer}
    sample: 25%
---
%YAML 1.1
    call: {body: {a: [1]}, now: 2026-01-01T00:00:00Z}
      time: {days: mon}
"""
LINES = st.lists(st.sampled_from(FRAGMENTS.splitlines()), max_size=12).map("\n".join)


def load_or_complain(text):
    try:
        return load_policies(text, "p.yaml")
    except PolicyError as error:
        found = error.complaints
    assert found
    assert all(c.mark.line >= 1 and c.mark.column >= 1 and c.message for c in found)
    return None


@settings(max_examples=150)
@given(st.one_of(YAMLISH, LINES, st.text(max_size=30), st.tuples(LINES, YAMLISH).map("\n".join)))
@example("%YAML 9.9\n---\na")
@example('"\\U00110000"')
@example("!<")
@example("a: !<tag:%ff> b")
@example("%TAG ! tag:%zz\n---\n!x a")
@example("- |99\n a")
def test_any_text_is_rules_or_complaints_with_a_place(text):
    assert isinstance(load_or_complain(text), PolicyFile | None)


KEYS = st.sampled_from(
    ["rules", "tests", "name", "when", "then", "defer", "reject", "body", "headers", "time", "call",
     "model", "tokens", "sample", "share", "expect", "min", "tags", "message", "status", "x"]
)  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from(["defer", "interactive", "6h", "25%", "!a", "*", "mon", "shadow"]),
)  # fmt: skip
STRUCTURES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(KEYS, st.text(max_size=3)), inner)
    ),
    max_leaves=15,
)


@settings(max_examples=40)
@given(STRUCTURES, st.lists(st.dictionaries(KEYS, STRUCTURES, max_size=4), max_size=2))
def test_any_structure_is_rules_or_complaints_with_a_place(structure, rules):
    load_or_complain(json.dumps(structure))
    load_or_complain(json.dumps({"rules": rules}))


SCHEMA = jsonschema.Draft202012Validator(policy_schema())


def test_the_schema_is_one():
    SCHEMA.check_schema(policy_schema())


@settings(max_examples=40)
@given(RULES)
def test_what_is_loaded_is_valid_by_the_schema(rules):
    file = {"rules": rules}

    assert load_or_complain(json.dumps(file)) is not None
    SCHEMA.validate(file)


@settings(max_examples=40)
@given(st.dictionaries(KEYS, STRUCTURES), st.lists(st.dictionaries(KEYS, STRUCTURES), max_size=2))
def test_what_the_schema_refuses_is_not_loaded(file, rules):
    for data in (file, {"rules": rules}):
        if not SCHEMA.is_valid(data):
            assert load_or_complain(json.dumps(data)) is None


@pytest.mark.parametrize(
    "rule",
    [
        {"then": "defer"},
        {"name": "a", "then": "later"},
        {"name": "a", "then": {"defer": {}, "reject": {"message": "m"}}},
        {"name": "a", "then": "defer", "when": {"modle": "x"}},
        {"name": "a", "then": "defer", "when": {"model": []}},
        {"name": "a", "then": "defer", "sample": "a lot"},
    ],
)
def test_an_editor_sees_what_the_loader_refuses(rule):
    assert not SCHEMA.is_valid({"rules": [rule]})
    assert load_or_complain(json.dumps({"rules": [rule]})) is None


def test_a_call_is_loaded_from_json():
    call = load_call(
        '{"method": "post", "headers": {"X-A": "1"}, "body": {"m": "\\ud83d\\ude00"}}', "r"
    )

    assert (call.method, call.headers, call.body) == ("POST", ((b"x-a", b"1"),), {"m": "😀"})
    with pytest.raises(PolicyError, match=r"r\.json:1:2: unknown key 'methd'"):
        load_call('{"methd": "POST"}', "r.json")
