"""An audit of a week finds what nobody waits for, and nothing that somebody does."""

import json
import random
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from policies.headers import read_headers
from policies.load import load_policies
from policies.policy import Policy
from proxy.services.traffic.audit import Auditor, application_of
from proxy.services.traffic.facts import RecordedCall
from proxy.services.traffic.findings import Audit
from tests.helpers.books import fixed_price
from tests.helpers.traffic_week import PLANTED, Week, week

SEEDS = (2026,)
"""Any will do; more of them tell little more, and a week takes seconds."""


def audit(lines: list[bytes], zone: str = "UTC") -> Audit:
    return Auditor(fixed_price, ZoneInfo(zone)).audit(lines)


@pytest.fixture(scope="module", params=SEEDS)
def a_week(request: pytest.FixtureRequest) -> tuple[list[bytes], Audit]:
    lines = week(request.param)
    return lines, audit(lines)


def diverted(lines: list[bytes], text: str) -> list[RecordedCall]:
    """Return the calls that a service with these rules would divert."""
    policy = Policy(load_policies(text.replace("    mode: shadow\n", ""), "p").rules)
    taken = []
    for line in lines:
        recorded = RecordedCall.model_validate_json(line)
        facts = recorded.facts()
        decision = policy.decide(read_headers(facts.headers, now=facts.now), facts)
        if decision.decided_by.startswith("rule:"):
            taken.append(recorded)
    return taken


def is_night(recorded: RecordedCall) -> bool:
    hour = datetime.fromisoformat(recorded.time).hour
    return hour >= 22 or hour < 6


def test_it_finds_the_planted_segments_and_no_interactive_one(a_week):
    _, found = a_week

    nobody = {one.key.credential for one in found.segments if one.opinion.nobody_waits}

    assert nobody == PLANTED
    assert [one.key.credential for one in found.segments if one.nights_only] == ["mixed-reports"]


def test_its_rules_load_and_divert_exactly_what_was_planted(a_week):
    lines, found = a_week
    calls = [RecordedCall.model_validate_json(line) for line in lines]
    planted = [
        one
        for one in calls
        if one.credential in PLANTED and (one.credential != "mixed-reports" or is_night(one))
    ]

    taken = diverted(lines, found.rules)

    assert [one for one in found.proposals if one.also_matches] == []
    assert {one.credential for one in taken if one.decided_by == "default"} == PLANTED
    undecided = [one for one in taken if one.decided_by == "default"]
    assert undecided == planted
    assert sum(one.money.calls for one in found.proposals) == len(planted)


def test_a_rule_names_the_credential_only_where_nothing_else_tells_calls_apart(a_week):
    _, found = a_week

    named = {one.diversion.credential for one in found.proposals}

    assert named == {None, "batch-evals"}


def test_the_effect_is_priced_by_the_recorded_usage(a_week):
    lines, found = a_week
    (etl,) = [one for one in found.proposals if one.diversion.user_agent == "acme-etl/*"]
    usages = [call["usage"] for call in map(json.loads, lines) if call["credential"] == "batch-etl"]

    given = sum(one["prompt_tokens"] for one in usages)
    made = sum(one["completion_tokens"] for one in usages)

    assert etl.money.calls == etl.money.priced == len(usages)
    assert etl.money.list_nano == (given * 2 + made * 8) * 1_000
    assert etl.money.batch_nano == (given * 1 + made * 4) * 1_000


def test_what_shadow_rules_counted_stands_beside_what_is_proposed(a_week):
    _, found = a_week

    ((name, shadow),) = found.shadows.items()

    assert name == "etl-shadow"
    assert shadow.money.calls == shadow.proposed == 840


@pytest.fixture
def etl() -> list[dict[str, Any]]:
    return list(next(Week(random.Random(1)).scenes()))


def lines_of(calls: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(one).encode() for one in calls]


def test_an_unknown_model_is_found_and_has_no_price(etl):
    found = audit(lines_of([one | {"model": "unknown-7"} for one in etl]))

    (proposal,) = found.proposals
    assert (proposal.money.calls, proposal.money.priced) == (840, 0)
    assert (proposal.money.list_nano, proposal.money.saved_nano) == (0, 0)


def test_calls_that_cannot_run_later_are_not_proposed(etl):
    found = audit(lines_of([one | {"obstacle": "the path is not deferrable"} for one in etl]))

    assert found.proposals == ()
    assert found.rules == ""


def test_calls_in_another_tier_are_not_compared_with_a_batch(etl):
    found = audit(lines_of([one | {"tier": "flex"} for one in etl]))

    (proposal,) = found.proposals
    assert proposal.money.priced == 0


def test_several_models_of_one_program_are_one_rule(etl):
    other = [one | {"model": "gpt-5.4"} for one in etl]

    found = audit(lines_of(etl + other))

    (proposal,) = found.proposals
    assert proposal.diversion.models == ("gpt-5.4", "gpt-5.4-mini")


def test_a_rule_that_would_divert_others_is_not_to_be_pasted(etl):
    """A program without a name, beside people with the same key and names of their own."""
    nameless = [one | {"headers": [["authorization", None]]} for one in etl]
    people = [
        one
        | {
            "headers": [["user-agent", "web/1.0"]],
            "time": f"2026-11-{16 + n % 5}T{8 + n % 9:02}:{n * 7 % 60:02}:00Z",
        }
        for n, one in enumerate(etl[:300])
    ]

    found = audit(lines_of(nameless + people))

    (proposal,) = found.proposals
    assert proposal.also_matches == len(people)
    assert found.rules == ""


def test_night_is_where_the_zone_is(etl):
    tokyo = audit(lines_of(etl), "Asia/Tokyo")

    (segment,) = tokyo.segments
    assert not any("night" in reason for reason in segment.opinion.reasons)
    assert segment.opinion.nobody_waits


def test_lines_that_are_no_calls_are_counted_and_left_out(etl):
    found = audit([b"{", b"[]", b'{"kind": "offramp.call/9"}', *lines_of(etl)])

    assert (found.calls, found.unreadable) == (840, 3)


def test_an_empty_record_says_nothing():
    found = audit([])

    assert (found.calls, found.segments, found.proposals, found.rules) == (0, (), (), "")
    assert found.begun is None
    assert found.span.total_seconds() == 0


@pytest.mark.parametrize(
    ("user_agent", "pattern"),
    [
        ("acme-etl/1.2.3", "acme-etl/*"),
        ("OpenAI/Python 3.54.0", "OpenAI/Python *"),
        ("AsyncOpenAI/Python v3", "AsyncOpenAI/Python v*"),
        ("curl", "curl"),
        ("what? a* [x]", r"what\? a\* [x]"),
        ("", ""),
        (None, ""),
    ],
)
def test_an_application_is_its_name_without_the_version(user_agent, pattern):
    assert application_of(user_agent) == pattern
