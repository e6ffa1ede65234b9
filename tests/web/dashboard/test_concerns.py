"""What is wrong is said, gravest first; what is well is not."""

from dataclasses import replace
from datetime import timedelta

import pytest

from proxy.core.batch import BatchState
from proxy.core.ledger import Sums
from proxy.core.plan import Head
from proxy.ports.notices import Standing
from proxy.services.insight import Money, Overview
from proxy.web.dashboard.about import About
from proxy.web.dashboard.concerns import STUCK_AFTER, concerns
from tests.helpers.factories import CREDENTIAL, T0, make_batch, make_credential, make_key

HOUR = timedelta(hours=1)
WELL = Overview(
    money=Money(total=Sums(jobs=5), days={}, lanes={}, rules={}),
    heads=(),
    live=(),
    paused=(),
    webhooks={"done": Standing(delivered=3, delivered_at=T0)},
    missed={},
    policies_refused=False,
)
HERE = About(
    instance="i",
    store="sqlite",
    durability="durable",
    is_durable=True,
    is_ephemeral=False,
    base_url="http://127.0.0.1:8080",
    webhook_hosts={},
    upstreams={"openai"},
)


def head(**changes):
    usual = Head(
        key=make_key(),
        count=4,
        body_bytes=100,
        tokens=10,
        oldest_at=T0,
        newest_at=T0,
        nearest_deadline=T0 + HOUR,
        held=0,
        small_batches=0,
        paused=False,
    )
    return replace(usual, **changes)


def test_nothing_is_said_of_what_is_well():
    ended = make_batch(state=BatchState.ENDED, ended_at=T0)
    searched = replace(ended, ended_at=T0 - 9 * HOUR, harvested_at=T0 - 9 * HOUR)
    live = [make_batch(), ended, searched]
    seen = replace(WELL, heads=[head()], live=live, silent={"nobody waits for it": T0})

    assert concerns(seen, T0, HERE) == []


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"policies_refused": True}, "odd", "rules from before hold"),
        ({"takes_writes": False}, "bad", "takes nothing that is written"),
        (
            {
                "silent": {"openai": T0},
                "heads": [head(count=1)],
                "live": [make_batch(state=BatchState.SEALED, count=2)],
            },
            "odd",
            "last asked, at 23 Nov 2026, 12:00:00 UTC; waiting for it: 3 jobs.",
        ),
        (
            {"paused": [make_credential(paused_at=T0, pause_status=401)], "heads": [head(count=1)]},
            "bad",
            "a credential with 401 since 23 Nov 2026, 12:00:00 UTC; waiting for it: 1 job.",
        ),
        ({"heads": [head(nearest_deadline=T0 - HOUR)]}, "bad", "deadline was 1 h ago"),
        (
            {"heads": [head(oldest_at=T0 - STUCK_AFTER - HOUR)]},
            "odd",
            "lane batch of openai was ready 3 h ago",
        ),
        ({"live": [make_batch(state=BatchState.LOST)]}, "bad", "1 batch cannot be found"),
        (
            {"live": [make_batch(state=BatchState.ENDED, ended_at=T0 - STUCK_AFTER - HOUR)]},
            "bad",
            "1 batch ended hours ago",
        ),
        ({"missed": {"in_flight": 2}}, "odd", "2 deadlines missed"),
        ({"missed": {"other": 1}}, "odd", "(other)"),
        (
            {"webhooks": {"done": Standing(given_up=2, failed_at=T0)}},
            "bad",
            "never told of 2 jobs",
        ),
        (
            {"webhooks": {"done": Standing(pending=1, failed_at=T0, last_failure="HTTP 503")}},
            "odd",
            "HTTP 503); it never did so far",
        ),
        (
            {
                "webhooks": {
                    "done": Standing(pending=1, delivered_at=T0 - HOUR, failed_at=T0, failed=1)
                }
            },
            "odd",
            "it last did 1 h ago",
        ),
    ],
)
def test_what_is_wrong_is_said(changes, level, words):
    (one,) = concerns(replace(WELL, **changes), T0, HERE)

    assert one.level == level
    assert words in one.said
    assert one.advice


def test_many_failures_of_a_day_are_told_and_single_ones_are_not():
    def said(**sums):
        days = {T0.date().isoformat(): Sums(**sums)}
        money = replace(WELL.money, days=days)
        return [one.said for one in concerns(replace(WELL, money=money), T0, HERE)]

    (many,) = said(jobs=411, answers=353)
    assert many == "58 of 411 jobs that ended today failed or were cancelled."
    assert said(jobs=1_000, answers=901) == []
    assert said(jobs=12, answers=3) == []
    assert said(jobs=400, answers=300, expired=100) == []


def test_possible_doubles_and_answers_bought_in_vain_are_never_silent():
    sums = Sums(jobs=5, possible_doubles=2, possible_nano=10**9, useless=1, useless_nano=10**7)

    said = [
        one.said for one in concerns(replace(WELL, money=replace(WELL.money, total=sums)), T0, HERE)
    ]

    assert said == [
        "2 calls may have been paid for twice or in vain, for at most $1.00.",
        "1 answer bought in vain, for $0.010.",
    ]


@pytest.mark.parametrize(
    ("nano", "unpriced", "said"),
    [
        (10**9, 1, "for at most $1.00 (1 of them: unknown)."),
        (0, 2, "for what is not known."),
    ],
)
def test_possible_doubles_without_a_price_are_not_shown_as_free(nano, unpriced, said):
    sums = Sums(jobs=5, possible_doubles=2, possible_nano=nano, possible_unpriced=unpriced)

    (one,) = concerns(replace(WELL, money=replace(WELL.money, total=sums)), T0, HERE)

    assert one.said == f"2 calls may have been paid for twice or in vain, {said}"


def test_the_gravest_stand_first_and_no_credential_is_named():
    seen = replace(
        WELL,
        policies_refused=True,
        heads=[head(key=make_key(credential=CREDENTIAL))],
        paused=[make_credential(paused_at=T0)],
    )

    found = concerns(seen, T0, HERE)

    assert [one.level for one in found] == ["bad", "odd"]
    assert CREDENTIAL not in repr(found)
    assert "4 jobs" in found[0].said


def test_a_store_that_may_lose_jobs_is_never_silent():
    here = replace(HERE, is_durable=False, durability="memory only: everything can be lost")

    (one,) = concerns(WELL, T0, here)

    assert one.level == "bad"
    assert "everything can be lost" in one.said


def test_a_store_that_is_meant_to_go_is_no_alarm():
    (one,) = concerns(WELL, T0, replace(HERE, is_ephemeral=True, durability="ephemeral"))

    assert one.level == "odd"


def test_jobs_of_an_upstream_that_was_taken_out_are_told_once_for_each():
    key = make_key(upstream="groq")
    seen = replace(WELL, heads=[head(), head(key=key), head(key=key, count=3)])

    (found,) = concerns(seen, T0, HERE)

    assert found.level == "bad"
    assert found.said == "Upstream groq is not configured here; waiting for it: 7 jobs."
    assert "until their deadlines" in found.advice
