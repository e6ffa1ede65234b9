"""Result files that are late, are something else, or never come."""

from dataclasses import replace
from datetime import timedelta

import pytest

from proxy.core.batch import BatchState
from proxy.core.ids import BatchId
from proxy.core.job import JobState
from proxy.ports.provider import LineKind, ResultLine
from proxy.services.batches.result_files import EMPTY_FOR
from tests.helpers.fake_provider import FakeBatch, Fault
from tests.helpers.fleet import Fleet

TOKEN = "Bearer credential-1"


async def test_a_result_file_that_is_late_is_asked_for_again() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.will("results", "rejected", "rejected")

    await fleet.answer()
    assert (await fleet.batch()).state is BatchState.ENDED
    assert await fleet.states() == {JobState.BATCHED: 12}
    await fleet.poll(seconds=30)
    await fleet.poll(seconds=30)

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.doubles() == (0, 0)


async def test_a_result_file_that_is_elsewhere_keeps_no_job_for_ever() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.will("results", "redirected", times=1_000)
    await fleet.answer()
    assert await fleet.states() == {JobState.BATCHED: 12}

    await fleet.poll(minutes=61)

    assert await fleet.states() == {JobState.QUEUED: 12}
    assert fleet.tally.counts["possible_double"] == 12


NO_RESULT = ResultLine(kind=LineKind.UNREADABLE, custom_id=None)


@pytest.mark.parametrize(
    "lines", [[], [NO_RESULT]], ids=["no line", "an error in the place of results"]
)
async def test_a_file_without_results_is_read_again_and_costs_no_answer(
    lines: list[ResultLine],
) -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.mangle = lambda _: lines

    await fleet.answer()
    assert (await fleet.batch()).state is BatchState.ENDED
    assert await fleet.states() == {JobState.BATCHED: 12}
    await fleet.poll(seconds=30)
    assert await fleet.states() == {JobState.BATCHED: 12}
    fleet.provider.mangle = lambda lines: lines
    await fleet.poll(seconds=30)

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert set(fleet.provider.bought.values()) == {1}
    assert fleet.doubles() == (0, 0)


async def test_results_that_were_cut_off_between_two_lines_are_read_again() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    cut_off_after = [5, 12]
    fleet.provider.mangle = lambda lines: lines[: cut_off_after.pop(0)]

    await fleet.answer()

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert set(fleet.provider.bought.values()) == {1}
    assert fleet.doubles() == (0, 0)


async def test_empty_results_are_read_again_where_stopped_batches_have_none_too() -> None:
    fleet = Fleet()
    fleet.provider.keeps_partial_results = False
    await fleet.submit(12)
    fleet.provider.mangle = lambda _: []

    await fleet.answer()
    assert await fleet.states() == {JobState.BATCHED: 12}
    fleet.provider.mangle = lambda lines: lines
    await fleet.poll(seconds=30)

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.doubles() == (0, 0)


@pytest.mark.parametrize(
    ("lines", "after"),
    [([], EMPTY_FOR), ([NO_RESULT], timedelta(minutes=61))],
    ids=["no line", "an error in the place of results"],
)
async def test_a_file_that_never_holds_a_result_is_given_up_and_counted(
    lines: list[ResultLine], after: timedelta
) -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.mangle = lambda _: lines
    await fleet.answer()

    await fleet.poll(seconds=after.total_seconds())

    assert await fleet.states() == {JobState.QUEUED: 12}
    assert fleet.tally.counts["possible_double"] == 12


async def test_a_stopped_batch_with_empty_results_is_not_waited_for() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    fleet.provider.cancel_time = timedelta(seconds=5)
    await fleet.submit(12, deadline=timedelta(hours=2))
    fleet.provider.mangle = lambda _: []
    await fleet.poll(minutes=100)
    assert fleet.provider.requests["cancel"] == 1

    await fleet.poll(seconds=10)

    assert JobState.BATCHED not in await fleet.states()


async def test_a_result_file_that_is_gone_for_an_hour_is_given_up_and_counted() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    await _ended_without_its_file(fleet)

    await fleet.poll(minutes=58)
    assert await fleet.states() == {JobState.BATCHED: 12}
    await fleet.poll(minutes=3)

    assert {(job.state, job.possible_doubles) for job in await fleet.jobs()} == {
        (JobState.QUEUED, 1)
    }
    assert fleet.tally.counts["possible_double"] == 12
    assert (await fleet.batch()).state is BatchState.SETTLED


@pytest.mark.parametrize("first", ["out-elsewhere", "out-batch_empty"], ids=["moved", "empty"])
async def test_results_are_read_by_the_names_that_their_provider_gives_them_later(
    first: str,
) -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.batches["batch_empty"] = FakeBatch(
        id="batch_empty",
        ours=BatchId("another"),
        owner_token=TOKEN,
        lines=[],
        created_at=fleet.clock.now(),
    )
    fleet.provider.misreport = lambda batch: (
        replace(batch, output_file_ids=(first,)) if batch.output_file_ids else batch
    )

    await fleet.answer()
    assert await fleet.states() == {JobState.BATCHED: 12}
    fleet.provider.misreport = lambda batch: batch
    await fleet.poll(seconds=30)
    await fleet.poll(seconds=30)

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert set(fleet.provider.bought.values()) == {1}
    assert fleet.doubles() == (0, 0)


async def _ended_without_its_file(fleet: Fleet) -> None:
    fleet.clock.advance(minutes=7)
    fleet.will("results", "rejected", times=10)
    await fleet.run("live", "collect")
    assert (await fleet.batch()).state is BatchState.ENDED


async def test_a_file_that_always_breaks_off_gives_all_that_comes_before() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.will("results", "lost_after", times=1_000)

    await fleet.answer()

    assert await fleet.states() == {JobState.COMPLETED: 12}


@pytest.mark.parametrize("fault", ["unavailable", "busy"])
async def test_results_that_are_never_answered_keep_no_job_for_ever(fault: Fault) -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.will("results", fault, times=1_000)
    await fleet.answer()

    await fleet.poll(hours=24)
    assert await fleet.states() == {JobState.BATCHED: 12}
    await fleet.poll(hours=1)

    assert JobState.BATCHED not in await fleet.states()
    assert fleet.tally.counts["possible_double"] == 12


async def test_results_that_cannot_be_connected_to_are_not_given_up() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.will("results", "lost_before", times=2)
    await fleet.answer()

    await fleet.poll(days=3)
    assert await fleet.states() == {JobState.BATCHED: 12}
    await fleet.poll(minutes=1)

    assert await fleet.states() == {JobState.COMPLETED: 12}


@pytest.mark.parametrize("fault", ["unavailable", "busy"])
async def test_results_are_not_given_up_for_one_bad_answer_after_a_long_sleep(fault: Fault) -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.will("results", "lost_before", fault)
    await fleet.answer()

    await fleet.poll(days=3)
    assert await fleet.states() == {JobState.BATCHED: 12}
    await fleet.poll(minutes=1)

    assert await fleet.states() == {JobState.COMPLETED: 12}


async def test_of_a_broken_file_that_is_given_up_only_what_it_lacks_is_doubtful() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(12)
    for job_id in job_ids[8:]:
        await fleet.cancel(job_id)
    lost = tuple(job_ids[10:])
    fleet.provider.mangle = lambda lines: [
        line for line in lines if not (line.custom_id or "").startswith(lost)
    ]
    fleet.will("results", "lost_after", times=1_000)
    await fleet.answer()

    await fleet.poll(hours=26)

    # Two lines are missing: both are of jobs that were cancelled.
    booked = await fleet.booked()
    assert (booked.answers, booked.useless, booked.possible_doubles) == (8, 2, 2)
