"""What is made of records before a template gets them."""

from dataclasses import replace
from datetime import timedelta

from proxy.core.batch import BatchState
from proxy.core.job import JobState
from proxy.core.ledger import Sums
from proxy.services.insight import Money
from proxy.web.dashboard.views import (
    batch_history,
    batch_life,
    job_history,
    lanes_chart,
    savings_chart,
)
from tests.helpers.factories import T0, make_batch, make_job

MINUTE = timedelta(minutes=1)
DAYS = {"2026-11-22": Sums(), "2026-11-23": Sums(jobs=2, list_nano=4 * 10**9, paid_nano=10**9)}
MONEY = Money(total=DAYS["2026-11-23"], days=DAYS, lanes={}, rules={})


def said(moments):
    return [moment.said for moment in moments]


def test_a_jobs_history_is_in_order_and_tells_of_its_batch():
    batch = make_batch(
        count=12,
        flush_reason="linger",
        created_at=T0 + MINUTE,
        submitted_at=T0 + 2 * MINUTE,
        ended_at=T0 + 5 * MINUTE,
        end_reason="completed",
    )
    job = make_job(state=JobState.COMPLETED, finalized_at=T0 + 6 * MINUTE)

    assert said(job_history(job, batch)) == [
        "accepted, decided by header",
        "put into a batch (linger)",
        "bought in a batch of 12 jobs",
        "its batch ended: completed",
        "completed",
    ]


def test_a_jobs_history_tells_of_a_missed_deadline_and_of_another_attempt():
    job = make_job(
        state=JobState.FAILED,
        deadline=T0 + MINUTE,
        last_reason="HTTP 503",
        not_before=T0 + 2 * MINUTE,
        finalized_at=T0 + 3 * MINUTE,
    )

    assert said(job_history(job, None))[1:] == [
        "free for another attempt after: HTTP 503",
        "failed, after its deadline",
    ]


def test_a_batchs_history_tells_what_went_wrong_on_the_way():
    batch = make_batch(
        state=BatchState.SETTLED,
        ambiguous_since=T0 + MINUTE,
        submitted_at=T0 + 2 * MINUTE,
        missing_since=T0 + 3 * MINUTE,
        settled_at=T0 + 9 * MINUTE,
    )

    assert said(batch_history(batch)) == [
        "begun: due",
        "its create got no clear answer",
        "taken by openai",
        "not found at the provider",
        "settled: files deleted, every job cared for",
    ]


def test_results_count_as_read_until_the_last_one_was_and_not_until_their_files_are_deleted():
    batch = make_batch(
        state=BatchState.SETTLED,
        submitted_at=T0 + MINUTE,
        ended_at=T0 + 2 * MINUTE,
        harvested_at=T0 + 3 * MINUTE,
        settled_at=T0 + 9 * MINUTE,
    )

    assert "its results are read: 1 min" in batch_life(batch, T0 + 10 * MINUTE)
    forsaken = replace(batch, harvested_at=None)
    assert "its results are read: 7 min" in batch_life(forsaken, T0 + 10 * MINUTE)


def test_the_savings_chart_says_each_days_sums():
    svg = savings_chart(MONEY)

    assert "23 Nov: 2 jobs, spent $1.00 instead of $4.00, saved $3.00" in svg
    assert "22 Nov: 0 jobs" in svg


def test_a_day_of_losses_draws_no_negative_bar():
    lossy = {"2026-11-23": Sums(jobs=1, list_nano=10**9, paid_nano=3 * 10**9)}

    svg = savings_chart(replace(MONEY, days=lossy))

    assert 'height="-' not in svg
    # The scale is as long as the bar.
    assert ">$3.00</text>" in svg


def test_lanes_without_jobs_make_no_chart():
    assert lanes_chart(MONEY) is None
    assert "batch: 3 jobs" in (lanes_chart(replace(MONEY, lanes={"batch": Sums(jobs=3)})) or "")
