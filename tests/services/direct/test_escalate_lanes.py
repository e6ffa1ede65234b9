"""The discount tier, the trickle and the budget: lanes that call, each with its own terms."""

import json
from datetime import timedelta

import pytest

from policies.windows import Window, parse_span
from proxy.core.job import JobState
from proxy.core.lanes import Lane, Urgency
from proxy.ports.notes import Note
from proxy.services.direct.budget import HourlyLimits
from proxy.services.direct.caps import EscalationLimits, LaneCaps
from proxy.services.trickle import TrickleHours
from tests.helpers.fake_provider import right_answer
from tests.helpers.fleet import Fleet

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def with_tier(answers):
    """Answer calls that ask for the discount tier by `answers`, the others as usual."""

    def answer(body: bytes) -> tuple[int, bytes]:
        content = json.loads(body)
        if content.get("service_tier") != "flex":
            return 200, right_answer(body)
        status, extra = answers.pop(0) if len(answers) > 1 else answers[0]
        if status != 200:
            return status, json.dumps({"error": extra}).encode()
        return 200, json.dumps(json.loads(right_answer(body)) | extra).encode()

    return answer


GRANTED = (200, {"service_tier": "flex"})
FULL = (429, {"code": "resource_unavailable"})


async def test_few_jobs_go_to_the_discount_tier_and_are_billed_there() -> None:
    fleet = Fleet(has_flex=True)
    fleet.provider.answer_call = with_tier([GRANTED])
    job_ids = await fleet.flush(9)

    await fleet.run("escalate", "escalate")
    fleet.clock.advance(seconds=2)
    await fleet.run("escalate")

    jobs = [await fleet.job(job_id) for job_id in job_ids]
    assert {(job.state, job.lane) for job in jobs} == {(JobState.COMPLETED, Lane.FLEX)}
    assert {job.lane_reason for job in jobs} == {"fewer than 10 jobs are no batch"}
    assert {job.outcome.tier for job in jobs if job.outcome} == {"flex"}
    assert await fleet.stores.batches.recent(limit=1) == []


async def test_ten_jobs_are_a_batch() -> None:
    fleet = Fleet(has_flex=True)

    await fleet.flush(10)

    assert (await fleet.batch()).count == 10


async def test_a_full_tier_costs_nothing_and_a_batch_takes_its_jobs() -> None:
    fleet = Fleet(has_flex=True)
    fleet.provider.answer_call = with_tier([FULL])
    job_ids = await fleet.flush(3)

    await fleet.run("escalate")

    jobs = [await fleet.job(job_id) for job_id in job_ids]
    assert {(job.state, job.lane, job.failures) for job in jobs} == {
        (JobState.QUEUED, Lane.BATCH, 0)
    }
    assert fleet.tally.counts["flex_full"] == 3
    assert fleet.provider.bought.total() == 0
    fleet.clock.advance(seconds=5)
    await fleet.run("flush", "submit")
    await fleet.answer()
    assert await fleet.states() == {JobState.COMPLETED: 3}
    assert max(fleet.provider.bought.values()) == 1


async def test_an_account_that_may_spend_nothing_is_no_full_tier() -> None:
    fleet = Fleet(has_flex=True)
    fleet.provider.answer_call = with_tier(
        [(429, {"code": "project_spend_limit_exceeded"}), GRANTED]
    )
    job_id = await fleet.accept(deadline=45 * MINUTE, lane=Lane.FLEX)

    await fleet.run_for(30 * MINUTE, step=timedelta(seconds=30))

    job = await fleet.job(job_id)
    assert (job.state, job.lane) == (JobState.COMPLETED, Lane.FLEX)
    assert fleet.tally.counts["credential_paused"] == 1
    assert fleet.tally.counts["flex_full"] == 0


async def test_one_refusal_keeps_all_others_from_asking_for_a_while() -> None:
    fleet = Fleet(
        has_flex=True,
        escalation=EscalationLimits(flex=LaneCaps(concurrent=1)),
    )
    fleet.provider.answer_call = with_tier([FULL])
    await fleet.accept_many(40, deadline=25 * MINUTE, lane=Lane.FLEX)

    for _ in range(5):
        await fleet.run("escalate")

    assert fleet.provider.requests["call"] == 1


async def test_a_job_too_urgent_for_a_batch_asks_again_and_is_called_at_full_price_in_the_end():
    fleet = Fleet(has_flex=True)
    fleet.provider.answer_call = with_tier([FULL])
    job_id = await fleet.accept(deadline=25 * MINUTE, lane=Lane.FLEX)

    for _ in range(25):
        await fleet.run("live", "flush", "escalate")
        fleet.clock.advance(minutes=1)

    job = await fleet.job(job_id)
    assert (job.state, job.lane, job.deadline_missed) == (
        JobState.COMPLETED,
        Lane.INTERACTIVE,
        False,
    )
    assert 2 <= fleet.tally.counts["flex_full"] <= 4


@pytest.mark.parametrize(
    "error",
    [
        {"message": "Invalid service_tier argument", "param": "service_tier"},
        {"message": "Flex is not available for this model", "type": "invalid_request_error"},
    ],
)
async def test_a_model_without_the_tier_is_not_asked_for_it_again(error) -> None:
    fleet = Fleet(has_flex=True)
    fleet.provider.answer_call = with_tier([(400, error)])
    await fleet.flush(1)
    await fleet.run("escalate")
    assert {job.lane for job in await fleet.jobs()} == {Lane.BATCH}

    await fleet.flush(2)

    assert fleet.provider.requests["call"] == 1
    assert (await fleet.batch()).count == 3


async def test_a_call_that_is_wrong_gets_the_answer_of_an_ordinary_call() -> None:
    fleet = Fleet(has_flex=True)
    fleet.provider.answer_call = lambda _: (400, b'{"error":{"code":"invalid_value"}}')
    job_id = (await fleet.flush(1))[0]

    await fleet.run("escalate", "escalate")

    job = await fleet.job(job_id)
    assert (job.state, job.lane) == (JobState.FAILED, Lane.INTERACTIVE)
    assert job.outcome is not None
    assert job.outcome.error_code == "invalid_value"
    assert fleet.provider.requests["call"] == 2
    # The tier is there for the others as before.
    (other,) = await fleet.flush(1)
    assert (await fleet.job(other)).lane is Lane.FLEX


async def test_a_tier_that_is_billed_in_full_is_none_and_is_not_asked_again() -> None:
    fleet = Fleet(has_flex=True)
    fleet.provider.answer_call = with_tier([(200, {"service_tier": "default"})])
    await fleet.flush(1)
    await fleet.run("escalate")

    await fleet.flush(2)

    assert fleet.provider.requests["call"] == 1
    assert (await fleet.batch()).count == 2


async def test_what_a_stopped_batch_left_open_goes_to_the_cheapest_lane_that_makes_it() -> None:
    fleet = Fleet(has_flex=True)
    fleet.provider.answer_call = with_tier([GRANTED])
    fleet.provider.stalled = True
    await fleet.submit(12, deadline=2 * HOUR)

    await fleet.run_for(100 * MINUTE, step=MINUTE)

    jobs = await fleet.jobs()
    assert {job.state for job in jobs} == {JobState.COMPLETED}
    assert [job.lane for job in jobs].count(Lane.FLEX) == 6
    assert max(fleet.provider.bought.values()) == 1
    assert not any(job.deadline_missed for job in jobs)


@pytest.mark.parametrize(("lane", "calls"), [(Lane.TRICKLE, 2), (Lane.FLEX, 3)])
async def test_each_lane_has_caps_of_its_own(lane: Lane, calls: int) -> None:
    fleet = Fleet(
        has_flex=True,
        trickle=TrickleHours(),
        escalation=EscalationLimits(
            trickle=LaneCaps(concurrent=2), flex=LaneCaps(concurrent=8, calls_per_s=3)
        ),
    )
    fleet.provider.answer_call = with_tier([GRANTED])
    await fleet.accept_many(10, lane=lane)
    await fleet.accept_many(10, deadline=10 * MINUTE)

    await fleet.run("escalate")

    assert fleet.provider.requests["call"] == 10 + calls


async def test_outside_its_hours_a_trickle_waits_and_near_the_deadline_it_does_not() -> None:
    night = TrickleHours(window=Window(span=parse_span("20:00-06:00")))
    fleet = Fleet(trickle=night)
    patient = await fleet.accept(deadline=26 * HOUR, lane=Lane.TRICKLE)
    pressing = await fleet.accept(deadline=HOUR, lane=Lane.TRICKLE)

    await fleet.run_for(HOUR, step=MINUTE)

    assert (await fleet.job(pressing)).lane is Lane.INTERACTIVE
    assert (await fleet.job(pressing)).state is JobState.COMPLETED
    assert (await fleet.job(patient)).state is JobState.QUEUED
    await fleet.run_for(8 * HOUR, step=10 * MINUTE)
    assert (await fleet.job(patient)).state is JobState.COMPLETED
    assert (await fleet.job(patient)).lane is Lane.TRICKLE


async def test_a_budget_holds_back_what_the_hour_has_no_room_for() -> None:
    fleet = Fleet(budget=HourlyLimits(calls=4))
    await fleet.accept_many(10, deadline=30 * MINUTE)

    await fleet.run_for(40 * MINUTE, step=MINUTE)

    assert await fleet.states() == {JobState.COMPLETED: 4, JobState.EXPIRED: 6}
    assert fleet.provider.requests["call"] == 4
    assert fleet.tally.counts["deadline_missed"] == 6


async def test_what_another_instance_calls_first_is_not_counted_twice() -> None:
    fleet = Fleet(instances=2, budget=HourlyLimits(calls=12))
    await fleet.accept_many(10, deadline=30 * MINUTE)
    write, first = fleet.stores.notes.write, iter([True])

    async def written(name: str, note: Note) -> bool:
        done = await write(name, note)
        if next(first, False):
            # The other takes the same jobs at this very moment, and calls two of them.
            await fleet.run("escalate", position=1)
        return done

    fleet.stores.notes.write = written  # type: ignore[method-assign]
    await fleet.run("escalate")
    await fleet.accept_many(2, deadline=30 * MINUTE)
    await fleet.run_for(40 * MINUTE, step=MINUTE)

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.provider.requests["call"] == 12


async def test_the_discount_tier_is_outside_of_the_budget() -> None:
    fleet = Fleet(has_flex=True, budget=HourlyLimits(calls=1))
    fleet.provider.answer_call = with_tier([GRANTED])
    await fleet.flush(5)

    await fleet.run("escalate")

    assert await fleet.states() == {JobState.COMPLETED: 5}


async def test_urgent_jobs_do_not_stop_a_batch_of_patient_ones() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    await fleet.accept_many(2, deadline=80 * MINUTE)
    await fleet.submit(40)
    batches = {one.key.urgency: one for one in await fleet.stores.batches.recent(limit=5)}
    assert {urgency: batch.count for urgency, batch in batches.items()} == {
        Urgency.TIGHT: 2,
        Urgency.LOOSE: 40,
    }

    await fleet.run_for(80 * MINUTE, step=MINUTE)

    assert fleet.tally.counts["batch_cancelled"] == 1
    assert fleet.provider.requests["call"] == 1
    assert (await fleet.states())[JobState.BATCHED] == 40
    assert not any(job.deadline_missed for job in await fleet.jobs())
