"""What is booked of jobs that ended, and of answers that nobody can use."""

from dataclasses import replace
from datetime import date, timedelta

import pytest

from proxy.core.job import Failed, Job, JobState, Outcome, Released, Succeeded, advance
from proxy.core.lanes import BatchKey, Lane, LaneChoice
from proxy.core.ledger import Booking, Sums, broken_down
from proxy.core.prices import Cost
from proxy.ports.jobs import JobWrite
from proxy.services.ledger.bookkeeping import UselessAnswer
from tests.helpers.books import make_books
from tests.helpers.factories import T0, make_batch, make_job, make_key
from tests.helpers.fake_provider import BATCH_NANO, CALL_NANO
from tests.helpers.fakes import FakeClock, MemoryStores
from tests.helpers.fleet import Fleet, TallyCounter

USAGE = {"prompt_tokens": 2, "completion_tokens": 1}


async def rows(fleet: Fleet) -> list[Booking]:
    return list(await fleet.stores.ledger.rows(since=date.min, until=date.max))


async def test_an_answered_batch_is_booked_at_half_and_stands_on_every_job() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(12)

    await fleet.answer()

    booked = await fleet.booked()
    assert booked == Sums(
        jobs=12,
        answers=12,
        input_tokens=24,
        output_tokens=12,
        list_nano=12 * CALL_NANO,
        paid_nano=12 * BATCH_NANO,
    )
    assert booked.paid_nano == fleet.provider.spent_nano
    for job_id in job_ids:
        outcome = (await fleet.job(job_id)).outcome
        assert outcome is not None
        assert outcome.cost == Cost(CALL_NANO, BATCH_NANO)


async def test_a_direct_call_is_booked_at_full_price_with_what_a_batch_would_have_saved() -> None:
    fleet = Fleet()
    await fleet.accept(lane=Lane.INTERACTIVE)

    await fleet.run("live", "escalate")

    booked = await fleet.booked()
    assert (booked.list_nano, booked.paid_nano) == (CALL_NANO, CALL_NANO)
    assert (booked.escalated, booked.escalated_nano) == (1, CALL_NANO - BATCH_NANO)


async def test_a_job_that_its_batch_answers_after_all_is_booked_at_the_price_of_the_batch() -> None:
    fleet = Fleet()
    (job_id, *_) = await fleet.submit(12)
    job = await fleet.job(job_id)
    given_up = Released(job.attempt, "lost", onto=LaneChoice(Lane.INTERACTIVE, "lost"))
    assert not await fleet.stores.jobs.replace_many([JobWrite(advance(job, given_up))])

    await fleet.answer()

    assert list(broken_down(await rows(fleet), ["lane"])) == [("batch",)]
    booked = await fleet.booked()
    assert (booked.answers, booked.paid_nano) == (12, fleet.provider.spent_nano)


async def test_what_a_cancelled_job_cost_is_booked_when_its_batch_is_read() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(12)
    await fleet.cancel(job_ids[0])
    assert (await fleet.booked()).useless == 0

    await fleet.answer()

    booked = await fleet.booked()
    assert (booked.jobs, booked.answers, booked.useless) == (12, 11, 1)
    assert booked.useless_nano == BATCH_NANO
    assert booked.paid_nano + booked.useless_nano == fleet.provider.spent_nano
    assert booked.saved_nano == 11 * (CALL_NANO - BATCH_NANO) - BATCH_NANO


async def test_what_an_erased_job_cost_is_booked_too() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(12)
    await fleet.cancel(job_ids[0])
    await fleet.stores.jobs.erase(job_ids[0])

    await fleet.answer()

    booked = await fleet.booked()
    assert (booked.useless, booked.useless_nano) == (1, BATCH_NANO)
    assert fleet.tally.counts["late_result"] == 1
    # Nothing is known any more of whose it was, but for the batch.
    (lost,) = [row for row in await rows(fleet) if row.sums.useless]
    assert (lost.key.owner, lost.key.rule) == ("", "")
    assert lost.key.credential == make_key().credential


async def test_reading_again_after_a_crash_books_nothing_again() -> None:
    for steps in range(2, 40):
        fleet = Fleet()
        job_ids = await fleet.submit(12)
        await fleet.cancel(job_ids[3])
        fleet.clock.advance(seconds=fleet.provider.turnaround.total_seconds())
        fleet.instances[0].steps_left = steps
        died = not await fleet.instances[0].run("collect")
        if died:
            fleet.kill(0)
        await fleet.run_for(timedelta(minutes=10), step=timedelta(seconds=30))

        booked = await fleet.booked()

        assert (booked.jobs, booked.answers, booked.useless) == (12, 11, 1), steps
        assert booked.paid_nano + booked.useless_nano == fleet.provider.spent_nano
        if not died:
            return
    pytest.fail("every step was a crash")


async def test_a_job_that_expired_is_booked_without_money() -> None:
    fleet = Fleet()
    await fleet.accept(deadline=timedelta(seconds=1))
    fleet.clock.advance(seconds=2)

    await fleet.run("live", "rescue")

    assert await fleet.booked() == Sums(jobs=1, expired=1)


class Desk:
    """A bookkeeper by itself."""

    def __init__(self) -> None:
        self.stores = MemoryStores()
        self.tally = TallyCounter()
        self.books = make_books(self.stores.ledger, FakeClock(T0), self.tally)

    async def rows(self) -> list[Booking]:
        return list(await self.stores.ledger.rows(since=date.min, until=date.max))


def completed(**changes: object) -> Job:
    outcome = Outcome(200, usage=USAGE)
    fields = {"state": JobState.COMPLETED, "finalized_at": T0, "outcome": outcome, **changes}
    return make_job(**fields)


def priced(key: BatchKey, outcome: Outcome) -> Cost | None:
    event = Desk().books.priced(Succeeded(1, T0, outcome), key)
    assert isinstance(event, Succeeded)
    assert replace(event.outcome, cost=None) == outcome
    return event.outcome.cost


def test_a_job_that_goes_on_is_written_as_it_is_and_books_nothing() -> None:
    job = make_job()

    write = Desk().books.write(job)

    assert (write.after, write.result, write.bookings) == (job, None, ())


def test_what_brings_no_answer_has_no_price() -> None:
    failed = Failed(1, T0, Outcome(400, usage=USAGE))

    assert Desk().books.priced(failed, make_key()) is failed


def test_an_unknown_model_has_no_cost_and_is_counted() -> None:
    key = make_key(model="unknown-1")
    assert priced(key, Outcome(200, usage=USAGE)) is None

    (booked,) = Desk().books.write(completed(key=key)).bookings

    assert (booked.sums.answers, booked.sums.unpriced, booked.sums.list_nano) == (1, 1, 0)
    assert booked.sums.input_tokens == 2


def test_an_answer_that_a_batch_brought_is_booked_as_such_wherever_its_job_is_by_then() -> None:
    write = Desk().books.write(completed(lane=Lane.INTERACTIVE), lane=Lane.BATCH)

    assert [booked.key.lane for booked in write.bookings] == ["batch"]


@pytest.mark.parametrize(
    ("lane", "tier", "paid"),
    [
        (Lane.BATCH, None, BATCH_NANO),
        (Lane.INTERACTIVE, None, CALL_NANO),
        (Lane.INTERACTIVE, "default", CALL_NANO),
        (Lane.INTERACTIVE, "priority", None),
        (Lane.INTERACTIVE, "flex", BATCH_NANO),
    ],
)
def test_an_answer_is_priced_by_its_lane_and_by_what_it_says_of_itself(
    lane: Lane, tier: str | None, paid: int | None
) -> None:
    cost = priced(make_key(lane=lane), Outcome(200, usage=USAGE, tier=tier))

    assert (cost.paid_nano if cost else None) == paid


async def test_a_useless_answer_is_booked_once_under_its_receipt() -> None:
    desk = Desk()
    job = completed(state=JobState.CANCELLED, tags={"team": "etl"})
    answer = UselessAnswer(
        receipt="r1",
        job_id=job.id,
        job=job,
        key=job.key,
        attempt=1,
        outcome=Outcome(200, usage=USAGE),
    )

    for _ in range(3):
        await desk.books.book_useless([answer, answer])

    assert desk.tally.counts["late_result"] == 1
    by_tag = broken_down(await desk.rows(), ["tag"])
    assert by_tag == {("team=etl",): Sums(useless=1, useless_nano=BATCH_NANO)}


async def test_what_may_have_been_bought_unseen_is_booked_once_for_each_reason() -> None:
    desk = Desk()
    batch = make_batch()

    for why in ("create:1", "create:1", "create:2"):
        await desk.books.book_possible(batch, 12, why=why)

    assert [row.sums for row in await desk.rows()] == [
        Sums(possible_doubles=24, possible_unpriced=24)
    ]
    assert desk.tally.counts["possible_double"] == 24
