"""What is booked of a job, and how a bill is broken down."""

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.job import Job, JobState, Outcome
from proxy.core.lanes import Lane
from proxy.core.ledger import (
    BY,
    OTHERS,
    TAGS_PER_JOB,
    Booking,
    LedgerKey,
    Sums,
    added,
    bookings,
    broken_down,
    decode_key,
    decode_sums,
    encode_key,
    encode_sums,
    ending,
    processing_of,
    total,
    useless,
)
from proxy.core.prices import Cost, Processing
from proxy.core.usage import Tokens
from tests.helpers.factories import make_job

DAY = date(2026, 11, 23)
TOKENS = Tokens(input=100, output=10, cached=64)
HALF = Cost(1_000, 500, 20)
FULL = Cost(1_000, 1_000)

amounts = st.builds(Sums, **{name: st.integers(0, 10**15) for name in Sums._fields})


def ended(state: JobState = JobState.COMPLETED, *, cost: Cost | None = None, **changes: Any) -> Job:
    outcome = Outcome(200, cost=cost) if state is JobState.COMPLETED else None
    return make_job(state=state, **{"outcome": outcome, **changes})


def test_an_answer_from_a_batch_is_booked_with_what_it_saved() -> None:
    sums = ending(ended(cost=HALF), TOKENS, batch=None)

    assert sums == Sums(
        jobs=1,
        answers=1,
        input_tokens=100,
        cached_tokens=64,
        output_tokens=10,
        list_nano=1_000,
        paid_nano=500,
        cache_lost_nano=20,
    )
    assert sums.saved_nano == 500


def test_a_call_at_full_price_is_booked_with_what_a_batch_would_have_saved() -> None:
    sums = ending(ended(cost=FULL, lane=Lane.INTERACTIVE), TOKENS, batch=HALF)

    assert (sums.escalated, sums.escalated_nano, sums.saved_nano) == (1, 500, 0)


def test_a_call_at_full_price_that_no_batch_makes_cheaper_lost_nothing() -> None:
    for batch in (None, FULL):
        sums = ending(ended(cost=FULL, lane=Lane.INTERACTIVE), TOKENS, batch=batch)
        assert (sums.escalated, sums.escalated_nano) == (0, 0)


def test_an_answer_without_a_price_is_counted_and_costs_no_known_money() -> None:
    sums = ending(ended(), TOKENS, batch=None)

    assert (sums.answers, sums.unpriced, sums.input_tokens) == (1, 1, 100)
    assert (sums.list_nano, sums.paid_nano, sums.saved_nano) == (0, 0, 0)


def test_a_job_without_an_answer_cost_nothing() -> None:
    for state in (JobState.FAILED, JobState.CANCELLED):
        assert ending(ended(state), None, batch=None) == Sums(jobs=1)
    assert ending(ended(JobState.EXPIRED), None, batch=None) == Sums(jobs=1, expired=1)


def test_possible_doubles_cost_at_most_the_standard_price_each() -> None:
    sums = ending(ended(cost=HALF, possible_doubles=2), TOKENS, batch=None)

    assert (sums.possible_doubles, sums.possible_nano, sums.possible_unpriced) == (2, 2_000, 0)
    assert sums.saved_nano == 500


def test_what_a_possible_double_costs_that_no_priced_answer_follows_is_not_known() -> None:
    unpriced = ending(ended(cost=None, possible_doubles=2), TOKENS, batch=None)
    gone = [
        ending(ended(state, possible_doubles=2), None, batch=None)
        for state in (JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED)
    ]

    for sums in (unpriced, *gone):
        assert (sums.possible_doubles, sums.possible_nano, sums.possible_unpriced) == (2, 0, 2)


def test_a_job_that_never_got_an_answer_may_have_been_bought_once_more() -> None:
    silent = ended(JobState.FAILED, possible_doubles=6, outcome=Outcome(None, "timeout"))
    refused = ended(JobState.FAILED, possible_doubles=6, outcome=Outcome(400))

    assert ending(silent, None, batch=None).possible_doubles == 7
    assert ending(refused, None, batch=None).possible_doubles == 6


def test_a_useless_answer_is_a_loss() -> None:
    assert useless(HALF) == Sums(useless=1, useless_nano=500)
    assert useless(HALF).saved_nano == -500
    assert useless(None) == Sums(useless=1, unpriced=1)


def test_a_job_stands_in_one_row_and_in_one_of_each_tag() -> None:
    job = ended(tags={"team": "etl", "run": "42"}, decided_by="rule:nightly")
    sums = ending(job, TOKENS, batch=None)

    key, *tags = (entry.key for entry in bookings(job, sums, day=DAY, lane=Lane.BATCH))

    assert key == LedgerKey(
        day=DAY,
        lane="batch",
        upstream=job.key.upstream,
        model=job.key.model,
        rule="rule:nightly",
        owner=job.owner,
        credential=job.key.credential,
    )
    assert tags == [LedgerKey(day=DAY, tag="run=42"), LedgerKey(day=DAY, tag="team=etl")]


def test_what_callers_choose_is_bounded() -> None:
    job = ended(tags={f"t{n:02}": "v" * 999 for n in range(50)})
    job = replace(job, key=replace(job.key, model="m" * 999))

    entries = bookings(job, Sums(jobs=1), day=DAY, lane=Lane.BATCH)

    assert len(entries) == 1 + TAGS_PER_JOB
    assert max(len(text) for entry in entries for text in encode_key(entry.key)) <= 128


def test_many_rows_add_up_to_what_they_would_one_after_the_other() -> None:
    rows = [Booking(LedgerKey(day=DAY, model=str(n % 7)), Sums(jobs=n)) for n in range(2_345)]

    assert total(rows) == Sums(jobs=sum(range(2_345)))
    assert broken_down(rows, ["model"])[("3",)] == Sums(jobs=sum(range(3, 2_345, 7)))


def test_totals_leave_out_tags_and_breakdowns_by_tag_leave_out_the_rest() -> None:
    job = ended(tags={"team": "etl", "run": "42"})
    rows = bookings(job, Sums(jobs=1, list_nano=7), day=DAY, lane=Lane.BATCH)

    assert total(rows) == Sums(jobs=1, list_nano=7)
    assert broken_down(rows, ["model"]) == {(job.key.model,): Sums(jobs=1, list_nano=7)}
    assert list(broken_down(rows, ["tag"])) == [("run=42",), ("team=etl",)]


def test_a_bill_can_be_broken_down_by_every_dimension_the_dearest_first() -> None:
    keys = [
        LedgerKey(day=DAY, **{name: f"{name}{n}" for name in BY if name not in ("day", "tag")})
        for n in range(3)
    ]
    rows = [Booking(key, Sums(list_nano=n)) for n, key in enumerate(keys)]

    for name in set(BY) - {"day", "tag"}:
        assert list(broken_down(rows, [name])) == [(f"{name}{n}",) for n in (2, 1, 0)]
    assert list(broken_down(rows, ["day"])) == [("2026-11-23",)]
    assert len(broken_down(rows, ["lane", "model"])) == 3


@given(st.lists(amounts, max_size=4))
def test_rows_that_are_alike_become_one_and_lose_nothing(sums: list[Sums]) -> None:
    key = LedgerKey(day=DAY, model="m")

    found = added(Booking(key, one) for one in sums)

    assert found.get(key, Sums()) == sum(sums, Sums())


@given(amounts)
def test_sums_come_back_from_their_text(sums: Sums) -> None:
    assert decode_sums(encode_sums(sums)) == sums


def test_sums_of_an_older_version_lack_what_it_did_not_know() -> None:
    assert decode_sums("3 1") == Sums(jobs=3, expired=1)


def test_of_sums_of_a_newer_version_what_is_known_is_read() -> None:
    assert decode_sums(encode_sums(Sums(jobs=3, possible_unpriced=2)) + " 7") == Sums(
        jobs=3, possible_unpriced=2
    )


@given(st.lists(st.text(max_size=9), min_size=7, max_size=7))
def test_keys_come_back_from_their_texts(texts: list[str]) -> None:
    key = decode_key(DAY, texts)

    assert encode_key(key) == texts
    assert key.day == DAY


def test_what_a_day_has_no_room_for_stays_apart_by_lane_and_from_rows_of_tags() -> None:
    row = LedgerKey(day=DAY, lane="batch", upstream="openai", model="m", rule="r", owner="o")
    rest = dict.fromkeys(("upstream", "model", "rule", "owner", "credential"), OTHERS)

    assert row.others() == LedgerKey(day=DAY, lane="batch", **rest)
    assert LedgerKey(day=DAY, tag="team=etl").others() == LedgerKey(day=DAY, tag=OTHERS)


@pytest.mark.parametrize(
    ("lane", "tier", "processing"),
    [
        (Lane.BATCH, None, Processing.BATCH),
        (Lane.BATCH, "default", Processing.BATCH),
        (Lane.INTERACTIVE, None, Processing.STANDARD),
        (Lane.INTERACTIVE, "auto", Processing.STANDARD),
        (Lane.INTERACTIVE, "default", Processing.STANDARD),
        (Lane.INTERACTIVE, "standard", Processing.STANDARD),
        (Lane.INTERACTIVE, "standard_only", Processing.STANDARD),
        (Lane.INTERACTIVE, "on_demand", Processing.STANDARD),
        (Lane.INTERACTIVE, "flex", Processing.FLEX),
        (Lane.FLEX, "flex", Processing.FLEX),
        (Lane.FLEX, None, Processing.FLEX),
        # Asked for flex and told otherwise: the answer says what is billed.
        (Lane.FLEX, "default", Processing.STANDARD),
        (Lane.INTERACTIVE, "priority", None),
    ],
)
def test_an_answer_says_itself_how_it_was_made_but_for_batches(
    lane: Lane, tier: str | None, processing: Processing | None
) -> None:
    assert processing_of(lane, tier) is processing
