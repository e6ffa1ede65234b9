from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from policies.headers import NOTHING_ASKED, read_headers
from policies.model import Answer, Defer, Forward, Lane, Reject
from policies.policy import Policy
from policies.rules import RuleSet
from tests.policies.facts import NOW, make_facts, raw, unread

CALLERS_WISHES = [
    {"X-Deferrable": "job"},
    {"X-Deferrable": "false"},
    {"Prefer": "respond-async"},
]
SHADOW = Forward(decided_by="rule:shadow", reason="r")


class Ruled(RuleSet):
    """Rules that decide every call alike."""

    def __init__(self, decision):
        self._decision = decision

    def __len__(self):
        return 1

    def concerns(self, **head):
        return True

    def wants_body(self, facts):
        return False

    def opinion(self, facts):
        return self._decision


def rule(**differences):
    return Defer(answer=Answer.WAIT, decided_by="rule:r", reason="r", **differences)


def decided(headers, ruled=None, facts=None):
    asked = read_headers(raw(headers), now=NOW)
    policy = Policy(Ruled(ruled)) if ruled else Policy()
    return policy.decide(asked, facts or make_facts())


def test_without_rules_and_headers_nobody_need_gather_facts():
    tagged = read_headers(raw({"X-Deferrable": "job"}), now=NOW)
    untagged = read_headers(raw({"X-Deferrable": "false"}), now=NOW)

    head: dict[str, Any] = {"headers": (), "path": "/v1/chat/completions", "upstream": "openai"}
    assert Policy().is_idle(NOTHING_ASKED, **head)
    assert Policy().is_idle(untagged, **head)
    assert not Policy().is_idle(tagged, **head)
    assert not Policy(Ruled(None)).is_idle(NOTHING_ASKED, **head)


def test_the_body_is_wanted_exactly_if_it_will_be_read():
    tagged = read_headers(raw({"X-Deferrable": "job"}), now=NOW)
    upload = make_facts(unread, obstacle="an upload")

    assert Policy().wants_body(tagged, make_facts())
    assert not Policy().wants_body(tagged, upload)
    assert not Policy().wants_body(NOTHING_ASKED, make_facts())
    assert isinstance(Policy().decide(tagged, upload), Reject)


def test_without_rules_a_call_is_forwarded():
    decision = decided({})

    assert isinstance(decision, Forward)
    assert decision.decided_by == "default"


def test_a_tag_comes_before_the_rules():
    assert decided({"X-Deferrable": "job"}, rule()).answer is Answer.JOB
    assert isinstance(decided({"X-Deferrable": "false"}, rule()), Forward)
    assert decided({}, rule()).answer is Answer.WAIT


def test_what_the_operator_refuses_is_refused_whatever_the_headers_say():
    refusal = Reject(status=403, message="m", decided_by="rule:no")

    assert decided({"X-Deferrable": "false"}, refusal) is refusal
    assert decided({"X-Deferrable": "job"}, refusal) is refusal


@pytest.mark.parametrize("tag", [{}, {"X-Deferrable": "true"}, {"Prefer": "respond-async"}])
def test_a_rule_fills_what_the_caller_left_open_and_nothing_else(tag):
    ruled = rule(deadline=timedelta(hours=6), lane=Lane.FLEX, tags=(("team", "r"), ("by", "r")))
    details = {"X-Deferrable-Deadline": "2h", "X-Deferrable-Tags": "team=me"}

    filled, overruled = decided(tag, ruled), decided({**tag, **details}, ruled)

    assert (filled.deadline, filled.lane) == (timedelta(hours=6), Lane.FLEX)
    assert dict(filled.tags) == {"team": "r", "by": "r"}
    assert (overruled.deadline, overruled.lane) == (timedelta(hours=2), Lane.FLEX)
    assert dict(overruled.tags) == {"team": "me", "by": "r"}


def test_a_rule_that_forwards_fills_nothing():
    ruled = Forward(decided_by="rule:humans", reason="r")

    decision = decided({"X-Deferrable": "job", "X-Deferrable-Deadline": "2h"}, ruled)

    assert (decision.deadline, decision.lane, decision.tags) == (timedelta(hours=2), None, ())
    assert decided({}, ruled) == ruled


@pytest.mark.parametrize("asked", [{}, *CALLERS_WISHES])
def test_a_shadow_is_told_of_where_the_rule_would_decide(asked):
    ruled = Forward(decided_by="default", reason="r", shadow=SHADOW)
    refusing = replace(ruled, shadow=Reject(status=400, message="m", decided_by="rule:shadow"))

    assert decided(asked, ruled).shadow is (SHADOW if not asked else None)
    assert decided(asked, refusing).shadow is refusing.shadow


def test_a_call_cannot_be_deferred_under_a_bad_key_but_forwarded():
    key = {"Idempotency-Key": "x" * 300}

    refused = decided({**key, "X-Deferrable": "job"})

    assert isinstance(decided(key), Forward)
    assert isinstance(refused, Reject)
    assert refused.status == 400
    assert "Idempotency-Key" in refused.message
    assert "xxx" not in refused.message


def test_a_bad_key_costs_a_call_that_nobody_tagged_its_job_and_nothing_else():
    ruled = replace(rule(), shadow=SHADOW)

    decision = decided({"Idempotency-Key": "x" * 300}, ruled)

    assert isinstance(decision, Forward)
    assert (decision.decided_by, decision.shadow) == ("rule:r", SHADOW)
    assert "Idempotency-Key" in decision.reason
