from datetime import timedelta

import pytest

from policies.conditions import Divert, Interactive, Refuse, Sample
from policies.grammar import MAX_RULES, RULES, WHEN
from policies.model import Answer, Lane
from policies.tree import BadNodeError
from tests.policies.facts import rule_set, tree


def refused(data, kind=RULES):
    with pytest.raises(BadNodeError) as caught:
        kind.read(tree(data))
    return str(caught.value)


def rule(**differences):
    return [{"name": "r", "then": "interactive", **differences}]


def read(**differences):
    return rule_set(*rule(**differences)).compiled[0].rule


@pytest.mark.parametrize(
    ("then", "outcome"),
    [
        ("interactive", Interactive()),
        ("defer", Divert()),
        ({"defer": {}}, Divert(answer=Answer.WAIT)),
        (
            {"defer": {"answer": "raise", "deadline": "6h", "tags": {"a": "b c"}, "lane": "flex"}},
            Divert(
                answer=Answer.RAISE,
                deadline=timedelta(hours=6),
                tags=(("a", "b c"),),
                lane=Lane.FLEX,
            ),
        ),
        ({"reject": {"message": "m"}}, Refuse(message="m", status=403)),
        ({"reject": {"message": "m", "status": 429}}, Refuse(message="m", status=429)),
    ],
)
def test_what_a_rule_does(then, outcome):
    assert read(then=then).then == outcome


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ("25%", Sample(0.25)),
        ("0.5 %", Sample(0.005)),
        ({"share": "100%", "by": "X-User"}, Sample(1.0, "x-user")),
    ],
)
def test_a_sample_is_a_share_and_maybe_a_header(sample, expected):
    assert read(sample=sample).sample == expected


def test_a_rule_is_live_unless_it_says_shadow():
    assert [read(**mode).shadow for mode in ({}, {"mode": "live"}, {"mode": "shadow"})] == [
        False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({}, "is not a list"),
        ([{}], "'name' is missing here; 'then' is missing here"),
        (rule(name=""), "1 to 256 characters"),
        (rule(name="a\nb"), "names have up to 64"),
        (rule(then="deferred"), "allowed: interactive, defer"),
        (rule(then=None), "one of interactive, defer"),
        (rule(then="reject"), "'reject' needs a message for the caller: reject: {message: "),
        (rule(then={}), "at least one is needed here of defer, reject"),
        (rule(then={"defer": {}, "reject": {"message": "m"}}), "only one of defer and reject"),
        (rule(then={"defer": {"answer": "later"}}), "job, wait, background, raise"),
        (rule(then={"defer": {"deadline": "0s"}}), "longer than 0s and at most 30d"),
        (rule(then={"defer": {"deadline": "31d"}}), "longer than 0s and at most 30d"),
        (rule(then={"defer": {"deadline": "soon"}}), "such as 10s, 6h"),
        (rule(then={"defer": {"lane": "fast"}}), "batch, flex, trickle, interactive"),
        (rule(then={"defer": {"tags": {"a,b": "c"}}}), "names of tags"),
        (rule(then={"defer": {"tags": {"a": "x,y"}}}), "values of tags"),
        (rule(then={"defer": {"tags": {"a": " x"}}}), "values of tags"),
        (rule(then={"reject": {}}), "'message' is missing"),
        (rule(then={"reject": {"message": "m", "status": 500}}), "400 to 499"),
        (rule(then={"defer": {"answer": "job"}}, when={"stream": True}), "only with wait"),
        (rule(sample="101%"), "at most 100%"),
        (rule(sample="some"), "a percentage such as 25%"),
        (rule(sample=0.25), "a percentage such as 25%"),
        (rule(sample={"by": "x"}), "'share' is missing"),
        (rule(mode="on"), "live, shadow"),
        (rule(when={"model": ""}), "characters"),
        (rule(when={"model": "!"}), "must not be empty"),
        (rule(when={"model": 5}), "is not a pattern"),
        (rule(when={"tags": {"run": 42}}), "quote numbers, true, false"),
        (rule(then={"defer": {"tags": {"run": 42}}}), "quote numbers, true and false"),
        (rule(name=7), "quote a number"),
        (rule(when={"path": "v1/responses"}), "a path begins with '/'"),
        (rule(when={"path": ["/v1/*", "!v1/files"]}), "a path begins with '/'"),
        (rule(when={"modle": "x"}), "did you mean 'model'?"),
        (rule(when={"headers": {"x y": "*"}}), "a header's name"),
        (rule(when={"headers": {"X-A": "1", "x-a": "2"}}), "mean the same"),
        (rule(when={"headers": {"Authorization": "Bearer *"}}), "carries a credential"),
        (rule(when={"headers": {"x-api-key": ["*", "!x"]}}), "carries a credential"),
        (rule(when={"body": {"a..b": "*"}}), "names with dots between them"),
        (rule(when={"body": {"a": None}}), "nothing is not a pattern, a number"),
        (rule(when={"body": {"a": [[]]}}), "a list is not a pattern, a number"),
        (rule(when={"body": {"a": 10**16}}), "more than 15 digits"),
        (rule(when={"body": {"a": {"min": float("inf")}}}), "more than 15 digits"),
        (rule(when={"body": {"a": {"min": 2, "max": 1}}}), "nothing would match"),
        (rule(when={"tokens": {}}), "at least one is needed here of min, max"),
        (rule(when={"tokens": {"min": -1}}), "must not be negative"),
        (rule(when={"tokens": {"min": 1.5}}), "is not a whole number"),
        (rule(when={"stream": "yes"}), "is not true or false"),
        (rule(when={"time": {}}), "at least one is needed here"),
        (rule(when={"time": {"between": "9-5"}}), "20:00-06:00"),
        (rule(when={"time": {"days": "today"}}), "mon, tue"),
        (rule(when={"time": {"zone": "Berlin"}}), "IANA"),
        (rule() + rule(), "the name 'r' is taken by the rule in line 1"),
        (rule() * (MAX_RULES + 1), f"more than {MAX_RULES} rules"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(data, complaint):
    assert complaint in refused(data)


def test_presence_of_a_credential_may_be_asked_for():
    assert read(when={"headers": {"Authorization": "*"}}).when.headers[0][0] == "authorization"


def test_every_key_of_when_is_read():
    written = {
        "upstream": "a", "method": "post", "path": "/a", "headers": {"a": "a"}, "tags": {"a": "a"},
        "owner": "a", "credential": "a", "time": {"days": ["mon-tue", "sun"]},
        "body_bytes": {"max": 1}, "model": "a", "stream": True, "has_tools": [True, False],
        "tokens": {"min": 1}, "body": {"a.b": [1, "a", True, {"min": 0}]},
    }  # fmt: skip

    when = WHEN.read(tree(written))

    assert set(WHEN.schema["properties"]) == set(written)  # type: ignore[call-overload]
    for key in written:
        assert getattr(when, key), key
    assert when.time[0].days == {0, 1, 6}
    assert when.method is not None
    assert when.method.texts == ("POST",)
