import re
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.conditions import INTERACTIVE, Rule
from policies.model import Answer, Defer, Forward, Lane, Reject
from policies.rules import RuleSet
from tests.policies.facts import make_facts, matches, rule_set, unread

# A small world, so that arbitrary rules and arbitrary calls meet often.

TEXT = st.sampled_from(["a", "b", "ab", "abc"])
PATTERN = st.sampled_from(["a", "b", "a*", "*b*", "?b", "*", "!a", "!*c", "!*"])
PATTERNS = st.one_of(PATTERN, st.lists(PATTERN, min_size=1, max_size=3))
PATH = st.sampled_from(["/a", "/b", "/a*", "*b*", "/?b", "?a", "*", "!/a", "!*c", "!*"])
PATHS = st.one_of(PATH, st.lists(PATH, min_size=1, max_size=3))
BOUNDS = st.fixed_dictionaries({}, optional={"min": st.just(1), "max": st.just(2)}).filter(bool)
BOOLEANS = st.one_of(st.booleans(), st.lists(st.booleans(), min_size=1, max_size=2))
VALUE = st.one_of(PATTERN, st.booleans(), st.integers(0, 3), BOUNDS)
FIELD = st.sampled_from(["f", "f.g", "f.0", "stream"])


def some(keys, values):
    return st.dictionaries(keys, values, max_size=2)


WHEN = st.fixed_dictionaries(
    {},
    optional={
        "upstream": PATTERNS,
        "method": st.sampled_from(["POST", ["GET", "POST"], "!POST"]),
        "path": PATHS,
        "headers": some(st.sampled_from(["x-a", "X-B", "user-agent"]), PATTERNS),
        "tags": some(st.sampled_from(["t", "u"]), PATTERNS),
        "owner": PATTERNS,
        "credential": PATTERNS,
        "body_bytes": BOUNDS,
        "model": PATTERNS,
        "stream": BOOLEANS,
        "has_tools": BOOLEANS,
        "tokens": BOUNDS,
        "body": some(FIELD, st.one_of(VALUE, st.lists(VALUE, min_size=1, max_size=3))),
    },
)
THEN = st.sampled_from(["interactive", "defer", {"reject": {"message": "no"}}])
RULES = st.lists(
    st.fixed_dictionaries(
        {"when": WHEN, "then": THEN}, optional={"mode": st.sampled_from(["live", "shadow"])}
    ),
    max_size=5,
).map(lambda rules: [{"name": f"r{n}", **rule} for n, rule in enumerate(rules)])

JSON = st.one_of(
    TEXT, st.booleans(), st.none(), st.integers(0, 3), st.lists(TEXT, max_size=2), some(FIELD, TEXT)
)
BODY = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "f": JSON,
            "model": st.one_of(TEXT, st.none()),
            "stream": st.one_of(st.booleans(), st.none()),
            "background": st.booleans(),
            "tools": st.sampled_from([[], [{}], None]),
        },
    ),
)
CALL = st.fixed_dictionaries(
    {
        "body": BODY,
        "method": st.sampled_from(["POST", "GET"]),
        "upstream": TEXT,
        "path": TEXT.map(lambda text: f"/{text}"),
        "headers": st.lists(
            st.tuples(
                st.sampled_from([b"X-A", b"x-b", b"x-B", b"User-Agent"]), TEXT.map(str.encode)
            ),
            max_size=4,
        ).map(tuple),
        "tags": st.one_of(st.none(), some(st.sampled_from(["t", "u"]), TEXT)),
        "owner": st.lists(TEXT, max_size=2),
        "credential": st.lists(TEXT, max_size=2),
        "tokens": st.one_of(st.none(), st.integers(0, 3)),
        "body_bytes": st.one_of(st.none(), st.integers(0, 3)),
        "obstacle": st.sampled_from([None, None, None, "no"]),
    }
)


def as_list(value):
    return value if isinstance(value, list) else [value]


def glob(pattern, text):
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text)


def takes(patterns, texts):
    wanted = [p for p in as_list(patterns) if not p.startswith("!")] or ["*"]
    excluded = [p[1:] for p in as_list(patterns) if p.startswith("!")]
    texts = [text for text in texts if isinstance(text, str)]
    return any(glob(p, text) for p in wanted for text in texts) and not any(
        glob(p, text) for p in excluded for text in texts
    )


def within(bounds, number):
    return number is not None and bounds.get("min", 0) <= number <= bounds.get("max", 9)


def value_will_do(wanted, value):
    wanted = as_list(wanted)
    texts = [w for w in wanted if isinstance(w, str)]
    if value is None:
        return False
    if "*" in texts and not any(text.startswith("!") for text in texts):
        return True
    if isinstance(value, bool):
        return any(w is value for w in wanted)
    if isinstance(value, int):
        return any(w == value for w in wanted if type(w) is int) or any(
            within(w, value) for w in wanted if isinstance(w, dict)
        )
    return isinstance(value, str) and bool(texts) and takes(texts, [value])


def at(body, path):
    for step in path.split("."):
        if isinstance(body, dict):
            body = body.get(step)
        elif isinstance(body, list) and step.isdigit() and int(step) < len(body):
            body = body[int(step)]
        else:
            return None
    return body


ABOUT_THE_BODY = ("tokens", "body_bytes", "model", "stream", "has_tools", "body")


def holds(key, wanted, call):  # noqa: C901 - one case per condition
    """One condition, by the words of its description."""
    body = call["body"]
    if call["obstacle"] and key in ABOUT_THE_BODY:
        return wanted == {}
    match key:
        case "upstream" | "method" | "path":
            return takes(wanted, [call[key]])
        case "owner" | "credential":
            return takes(wanted, call[key])
        case "headers":
            return all(
                takes(
                    patterns,
                    [v.decode() for n, v in call["headers"] if n.lower() == name.lower().encode()],
                )
                for name, patterns in wanted.items()
            )
        case "tags":
            tags = call["tags"] or {}
            return all(takes(patterns, [tags.get(name)]) for name, patterns in wanted.items())
        case "tokens" | "body_bytes":
            return within(wanted, call[key])
        case "model":
            return takes(wanted, [(body or {}).get("model")])
        case "stream":
            return body is not None and (body.get("stream") is True) in as_list(wanted)
        case "has_tools":
            return body is not None and bool(body.get("tools")) in as_list(wanted)
        case "body":
            return all(value_will_do(values, at(body, path)) for path, values in wanted.items())
    raise AssertionError(key)


def divertible(when, call):
    body = call["body"]
    if call["obstacle"] or body is None or body.get("background") is True:
        return False
    means_streams = True in as_list(when.get("stream")) or any(
        value is True for value in as_list(when.get("body", {}).get("stream"))
    )
    return means_streams or body.get("stream") is not True


def interpret(rules, call):
    """Return the names of the rule that decides and of the first in shadow mode."""
    shadow = None
    for rule in rules:
        if not all(holds(key, wanted, call) for key, wanted in rule["when"].items()):
            continue
        if rule["then"] == "defer" and not divertible(rule["when"], call):
            continue
        if rule.get("mode") != "shadow":
            return rule["name"], shadow
        shadow = shadow or rule["name"]
    return None, shadow


def names(decision):
    if decision is None:
        return None, None
    shadow = decision.shadow.decided_by if decision.shadow else None
    return tuple(
        by.removeprefix("rule:") if by and by != "default" else None
        for by in (decision.decided_by, shadow)
    )


@settings(max_examples=120)
@given(RULES, CALL)
def test_compiled_rules_agree_with_a_naive_interpreter(rules, call):
    assert names(rule_set(*rules).opinion(make_facts(**call))) == interpret(rules, call)


@settings(max_examples=50)
@given(RULES, CALL)
def test_the_body_is_read_only_where_it_was_announced(rules, call):
    compiled, facts = rule_set(*rules), make_facts(**call)
    blind = make_facts(**{**call, "body": unread, "tokens": unread})

    if not compiled.wants_body(blind):
        assert compiled.opinion(blind) == compiled.opinion(facts)


@settings(max_examples=50)
@given(RULES, CALL)
def test_a_rule_in_shadow_mode_changes_nothing_for_anybody(rules, call):
    live = [rule for rule in rules if rule.get("mode") != "shadow"]
    facts = make_facts(**call)

    assert names(rule_set(*rules).opinion(facts))[0] == names(rule_set(*live).opinion(facts))[0]


@settings(max_examples=50)
@given(RULES, CALL)
def test_without_conditions_on_the_body_a_body_is_read_for_a_diversion_only(rules, call):
    compiled = rule_set(*(rule for rule in rules if rule["then"] != "defer"))

    if not any(rule.wants_content for rule in compiled.compiled):
        assert not compiled.wants_body(make_facts(**{**call, "body": unread}))


@settings(max_examples=50)
@given(RULES, CALL, CALL)
def test_what_one_call_was_does_not_change_what_the_next_one_is(rules, call, other):
    compiled = rule_set(*rules)
    compiled.opinion(make_facts(**other))

    assert names(compiled.opinion(make_facts(**call))) == interpret(rules, call)


def test_no_rule_has_no_opinion():
    assert len(RuleSet()) == 0
    assert RuleSet().opinion(make_facts(unread)) is None
    assert not RuleSet().wants_body(make_facts(unread))
    assert list(RuleSet().listed()) == []


def test_rules_are_listed_as_they_were_written():
    rules = [Rule(name="b", then=INTERACTIVE), Rule(name="a", then=INTERACTIVE, shadow=True)]

    assert RuleSet(rules).listed() == rules


def test_the_first_match_wins():
    a, b = ({"name": name, "then": "interactive"} for name in "ab")

    assert names(rule_set(a, b).opinion(make_facts())) == ("a", None)
    assert names(rule_set(b, a).opinion(make_facts())) == ("b", None)


def test_of_two_rules_in_shadow_mode_the_first_is_told():
    a, b = ({"name": name, "then": "defer", "mode": "shadow"} for name in "ab")
    live = {"name": "c", "then": "interactive"}

    assert names(rule_set(a, b).opinion(make_facts())) == (None, "a")
    assert names(rule_set(a, b, live).opinion(make_facts())) == ("c", "a")


def test_a_rule_that_defers_says_how():
    tags = {"by": "rule"}
    rules = rule_set(
        then={"defer": {"answer": "job", "deadline": "6h", "lane": "flex", "tags": tags}}
    )

    assert rules.opinion(make_facts()) == Defer(
        answer=Answer.JOB,
        decided_by="rule:r",
        reason="rule 'r' matched",
        deadline=timedelta(hours=6),
        lane=Lane.FLEX,
        tags=(("by", "rule"),),
    )


def test_who_did_not_ask_for_a_job_gets_the_providers_answer():
    decision = rule_set(then="defer").opinion(make_facts())

    assert isinstance(decision, Defer)
    assert decision.answer is Answer.WAIT
    assert rule_set(then={"defer": {}}).opinion(make_facts()) == decision


def test_a_rule_can_refuse_or_forward():
    refusal = {"reject": {"message": "not here", "status": 429}}

    assert rule_set(then=refusal).opinion(make_facts()) == Reject(
        status=429, message="not here", decided_by="rule:r"
    )
    assert rule_set(then="interactive").opinion(make_facts(unread)) == Forward(
        decided_by="rule:r", reason="rule 'r' matched"
    )


@pytest.mark.parametrize(
    "facts",
    [
        make_facts(unread, obstacle="an upload"),
        make_facts({"background": True}),
        make_facts(None),
        make_facts({"stream": True}),
    ],
)
def test_what_cannot_run_later_is_left_to_later_rules(facts):
    rules = rule_set({"name": "d", "then": "defer"}, {"name": "i", "then": "interactive"})

    assert names(rules.opinion(facts)) == ("i", None)


def test_the_body_of_what_cannot_run_later_is_never_waited_for():
    upload = make_facts(unread, obstacle="an upload", body_bytes=10**9, tokens=unread)

    for when in ({"model": "x"}, {"body_bytes": {"min": 1}}, {"tokens": {"min": 1}}):
        rules = rule_set(when=when, then={"reject": {"message": "no"}})
        assert not rules.wants_body(upload)
        assert rules.opinion(upload) is None
    refusal = {"reject": {"message": "no"}}
    assert matches(upload, when={"path": "/v1/*"}, then=refusal)


def test_a_stream_is_diverted_only_by_a_rule_that_says_so():
    stream, plain = make_facts({"stream": True}), make_facts({})

    assert not matches(stream, then="defer")
    assert matches(stream, then="defer", when={"stream": True})
    assert not matches(plain, then="defer", when={"stream": True})
    for facts in (stream, plain):
        assert matches(facts, then="defer", when={"stream": [True, False]})


def test_a_rule_that_answers_in_the_background_takes_responses_only():
    then = {"defer": {"answer": "background"}}

    assert matches(make_facts(path="/v1/responses"), then=then)
    assert not matches(make_facts(path="/v1/messages"), then=then)


@pytest.mark.parametrize(
    ("rule", "needs"),
    [
        ({"when": {"headers": {"x": "*"}, "time": {"days": "mon"}}}, False),
        ({"sample": {"share": "5%", "by": "x"}}, False),
        ({"sample": "5%"}, True),
        ({"when": {"model": "a"}}, True),
        ({"when": {"tokens": {"max": 1}}}, True),
        ({"when": {"body": {"a": "*"}}}, True),
    ],
)
def test_which_rules_ask_for_the_body_is_known_beforehand(rule, needs):
    rules = rule_set(**{"then": "interactive", **rule})

    assert rules.compiled[0].wants_content is needs
    if not rule.get("when"):
        assert rules.wants_body(make_facts(unread)) is needs or "by" in rule["sample"]


def test_a_diversion_wants_the_body_and_a_shadow_of_the_head_does_not_end_the_search():
    shadow = {"name": "s", "then": "interactive", "mode": "shadow"}

    assert rule_set(shadow, {"name": "d", "then": "defer"}).wants_body(make_facts(unread))
    assert not rule_set(shadow).wants_body(make_facts(unread))
