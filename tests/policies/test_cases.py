from datetime import UTC, datetime

import pytest

from policies.cases import CALL, DEFAULT_NOW, call_facts, only_posts, run_cases
from policies.headers import HeaderError
from policies.load import load_policies
from policies.model import Identity
from tests.policies.facts import NOW, tree

RULES = """
rules:
  - name: nightly
    when: {model: "*-mini", time: {between: "20:00-06:00"}}
    then: {defer: {deadline: 6h, lane: flex, tags: {by: rule}}}
  - name: web
    when: {owner: web}
    then: interactive
  - name: no-embeddings
    when: {path: /v1/embeddings}
    then: {reject: {message: "ask the platform team", status: 429}}
  - name: all
    then: defer
    mode: shadow
tests:
"""
NIGHTLY = "call: {body: {model: gpt-5-mini}, now: 2026-11-23T21:00:00Z}"
NOT_DEFERRED = "decision is interactive, expected defer; it cannot run later"


def run(*tests, **options):
    written = "".join(f"  - {{name: t, {test}}}\n" for test in tests)
    file = load_policies(RULES + written, "p.yaml")
    return [result.failures for result in run_cases(file.rules, file.cases, **options)]


def call(**written):
    return CALL.read(tree(written))


@pytest.mark.parametrize(
    "test",
    [
        f"{NIGHTLY}, expect: {{decision: defer, rule: nightly, answer: wait, deadline: 6h}}",
        f"{NIGHTLY}, expect: {{lane: flex, tags: {{by: rule}}, shadow: null}}",
        "call: {owner: web}, expect: {decision: interactive, rule: web}",
        "call: {owner: [web, x]}, expect: {rule: web}",
        "call: {path: /v1/embeddings}, expect: {decision: reject, status: 429}",
        "call: {body: {}}, expect: {decision: interactive, rule: null, shadow: all}",
        "call: {body: {}, deferrable: false}, expect: {rule: null, shadow: null}",
        "call: {method: get, body: {}}, expect: {shadow: null}",
        "call: {body: {}, headers: {X-Deferrable: job}}, expect: {answer: job, deadline: null}",
        "call: {body: {}, headers: {X-Deferrable: perhaps}}, expect: {decision: reject}",
        "expect: {decision: interactive}",
    ],
)
def test_a_case_that_is_met_passes(test):
    assert run(test) == [()]


@pytest.mark.parametrize(
    ("test", "failure"),
    [
        (f"{NIGHTLY}, expect: {{decision: reject}}", "decision is defer, expected reject"),
        (f"{NIGHTLY}, expect: {{rule: all}}", "rule is nightly, expected all"),
        (f"{NIGHTLY}, expect: {{rule: null}}", "rule is nightly, expected none"),
        (f"{NIGHTLY}, expect: {{deadline: 90m}}", "deadline is 6h, expected 90m"),
        (f"{NIGHTLY}, expect: {{tags: {{a: b}}}}", "tags is by=rule, expected a=b"),
        (f"{NIGHTLY}, expect: {{tags: {{}}}}", "tags is by=rule, expected none"),
        (f"{NIGHTLY}, expect: {{status: 403}}", "status is none, expected 403"),
        ("call: {owner: web}, expect: {answer: wait}", "answer is none, expected wait"),
        ("call: {}, expect: {decision: defer}", f"{NOT_DEFERRED}: its body is not a JSON object"),
    ],
)
def test_a_case_that_is_not_met_says_what_is_and_what_was_expected(test, failure):
    assert run(test) == [(failure,)]


def test_every_failure_of_every_case_is_reported_with_its_place():
    text = RULES + "  - name: two\n    expect: {rule: web, decision: defer}\n"
    file = load_policies(text, "p.yaml")

    [result] = run_cases(file.rules, file.cases)

    assert (result.case.name, result.case.line, result.passed) == ("two", 16, False)
    assert len(result.failures) == 2


def test_the_service_can_say_what_cannot_run_later():
    test = "call: {body: {}}, expect: {shadow: null}"

    assert run(test) != [()]
    assert run(test, obstacle_of=lambda _: "no such path") == [()]


def test_the_facts_of_a_call_are_what_is_written():
    written = call(
        method="get",
        upstream="groq",
        path="/x",
        headers={"X-A": ["1", "2"], "X-Deferrable-Tags": "team=etl"},
        body={"model": "m"},
        owner="o",
        credential=["c", "d"],
        tokens=7,
        now="2026-01-01T00:00:00+01:00",
    )

    facts = call_facts(written, now=NOW)

    assert (facts.method, facts.upstream, facts.path) == ("GET", "groq", "/x")
    assert facts.header(b"x-a") == [b"1", b"2"]
    assert facts.tags == {"team": "etl"}
    assert (facts.body(), facts.body_bytes, facts.tokens()) == ({"model": "m"}, 13, 7)
    assert facts.identity() == Identity(frozenset({"o"}), frozenset({"c", "d"}))
    assert facts.now == datetime(2025, 12, 31, 23, tzinfo=UTC)
    assert facts.obstacle == "GET calls cannot be deferred"


def test_what_is_not_written_is_an_ordinary_call():
    facts = call_facts(call(), now=NOW)

    assert (facts.now, facts.obstacle, facts.body(), facts.body_bytes) == (NOW, None, None, 0)
    assert call_facts(call(body=[1]), now=NOW).body() is None
    assert call_facts(call(body={"a": "x" * 392}), now=NOW).tokens() == 100
    assert only_posts(call(method="PUT")) == "PUT calls cannot be deferred"
    assert call_facts(call(method="PUT", deferrable=True), now=NOW).obstacle is None
    assert DEFAULT_NOW.weekday() == 0


def test_equal_calls_are_drawn_alike_and_others_apart():
    def digest(**written):
        return call_facts(call(**written), now=NOW).digest()

    assert digest(body={"a": 1}, headers={"x": "1"}) == digest(body={"a": 1})
    others = [digest(body={"a": 2}), digest(path="/x"), digest(), digest(body={"a": 1})]
    assert len(set(others)) == 4


def test_a_bad_header_is_refused_as_it_is_in_a_real_call():
    with pytest.raises(HeaderError):
        call_facts(call(headers={"X-Deferrable": "x"}, body=None), now=NOW)
