"""When a call is offered the job of an earlier one, and that asking never harms it."""

import asyncio
from contextlib import suppress

import pytest

from policies.fields import Run
from proxy.core.errors import StoreUnavailableError
from proxy.ports.jobs import DeliveryNote
from proxy.services.deferral.repeats import (
    BROKEN_HERE_S,
    BROKEN_IN_RUN_S,
    CLAIM_TIMEOUT_S,
    LeftJob,
    Repeats,
)
from proxy.services.pauses import REMEMBERED
from tests.helpers.factories import OWNER, T0, make_job, new_job
from tests.helpers.fakes import FakeClock, MemoryStores

OTHER = "owner-2"
LEFT = LeftJob(make_job().id, "call")


class CountingTally:
    def __init__(self):
        self.counts = []

    def count(self, name, amount=1, /, **labels):
        self.counts.append((name, labels))


class Fixture:
    def __init__(self):
        self.stores = MemoryStores()
        self.clock = FakeClock(T0)
        self.tally = CountingTally()
        self.repeats = self.over(self.stores.deliveries)

    def over(self, deliveries, **options):
        return Repeats(
            deliveries=deliveries,
            jobs=self.stores.jobs,
            clock=self.clock,
            tally=self.tally,
            **options,
        )

    async def broken_job(self, **changes):
        job = make_job(**changes)
        await self.stores.jobs.accept(new_job(job))
        await self.stores.deliveries.finish([DeliveryNote(job.id, flushed=False, retry_count=0)])
        return job


@pytest.fixture
def world():
    return Fixture()


async def test_a_call_whose_owner_lost_no_connection_does_not_ask(world):
    await world.repeats.run_once()

    assert not world.repeats.expects_any
    assert not world.repeats.expects(OWNER)


async def test_after_a_pass_the_owner_of_a_broken_connection_asks(world):
    await world.broken_job()

    await world.repeats.run_once()

    assert world.repeats.expects_any
    assert world.repeats.expects(OWNER)
    assert not world.repeats.expects(OTHER)


async def test_a_connection_that_broke_here_is_known_at_once_and_over_some_passes(world):
    world.repeats.note_broken(OWNER, "call", LEFT)
    assert world.repeats.expects(OWNER)

    await world.repeats.run_once()
    assert world.repeats.expects(OWNER)

    world.clock.advance(seconds=BROKEN_HERE_S)
    await world.repeats.run_once()
    assert not world.repeats.expects(OWNER)


@pytest.mark.parametrize(("run", "ends"), [(Run("r", "s"), False), (Run("r"), True)])
async def test_in_a_session_of_a_run_its_own_breaks_alone_are_repeated(world, run, ends):
    repeats = world.over(world.stores.deliveries, ends_sessions=ends)
    earlier, own = [await world.broken_job(fingerprint=name) for name in ("earlier", "own")]
    await repeats.run_once()
    assert not repeats.expects(OWNER, run)

    repeats.note_broken(OWNER, "own", LeftJob(own.id, "own"), run)

    assert repeats.expects(OWNER, run)
    assert await repeats.claim(OWNER, "earlier", retry_count=0, run=run) is None
    assert await repeats.claim(OWNER, "own", retry_count=0, run=run) == own
    # As often as it broke: what comes now is one more of the same.
    assert not repeats.expects(OWNER, run)
    assert await repeats.claim(OWNER, "earlier", retry_count=1, run=run) == earlier


@pytest.mark.parametrize(("retry_count", "is_given"), [(1, True), (0, False)])
async def test_a_repeat_in_a_session_gets_what_is_no_delivery_any_more(
    world, retry_count, is_given
):
    """Of a call that counts no retries nobody can tell whether it is the next of its kind."""
    run, job = Run("r", "s"), make_job(fingerprint="long ago")
    await world.stores.jobs.accept(new_job(job))
    await world.stores.deliveries.finish([DeliveryNote(job.id, flushed=True, retry_count=0)])
    world.clock.advance(hours=1)
    world.repeats.note_broken(OWNER, "call", LeftJob(job.id, "long ago"), run)

    given = await world.repeats.claim(OWNER, "call", retry_count=retry_count, run=run)

    assert given == (job if is_given else None)


async def test_a_job_that_was_never_made_is_no_repeats_failure(world):
    run = Run("r", "s")
    world.repeats.note_broken(OWNER, "call", LEFT, run)

    assert await world.repeats.claim(OWNER, "call", retry_count=1, run=run) is None
    assert [name for name, _ in world.tally.counts] == ["claims"]


async def test_what_broke_twice_in_a_session_is_repeated_twice(world):
    jobs, run = [await world.broken_job() for _ in range(2)], Run("r", "s")
    call = jobs[0].fingerprint
    for job in jobs:
        world.repeats.note_broken(OWNER, call, LeftJob(job.id, call), run)

    claims = [await world.repeats.claim(OWNER, call, retry_count=0, run=run) for _ in range(3)]

    assert claims == [*jobs, None]


async def test_where_no_session_ends_a_run_repeats_what_any_call_of_it_lost(world):
    job = await world.broken_job()
    await world.repeats.run_once()

    assert world.repeats.expects(OWNER, Run("r"))
    claimed = await world.repeats.claim(OWNER, job.fingerprint, retry_count=0, run=Run("r"))
    assert claimed == job


async def test_a_break_in_a_session_is_forgotten_in_time(world):
    world.repeats.note_broken(OWNER, "call", LEFT, Run("r", "s"))
    world.clock.advance(seconds=BROKEN_IN_RUN_S)

    await world.repeats.run_once()

    assert not world.repeats.expects_any


async def test_of_calls_that_nobody_repeats_a_session_keeps_the_last_ones(world):
    run = Run("nightly", session="1")
    for number in range(REMEMBERED + 9):
        name = f"call {number}"
        world.repeats.note_broken(OWNER, name, LEFT._replace(fingerprint=name), run)
    # Each keeps the time of all from running out.
    assert len(world.repeats._broken_in_runs[OWNER, run].calls) == REMEMBERED

    job = await world.broken_job(fingerprint=f"call {REMEMBERED}")
    assert await world.repeats.claim(OWNER, "call 0", retry_count=0, run=run) is None
    assert await world.repeats.claim(OWNER, job.fingerprint, retry_count=0, run=run) == job


async def test_two_repeats_claim_two_jobs_and_a_third_none(world):
    jobs = [await world.broken_job() for _ in range(2)]

    claims = [
        await world.repeats.claim(OWNER, jobs[0].fingerprint, retry_count=0) for _ in range(3)
    ]

    assert [job and job.id for job in claims] == [jobs[0].id, jobs[1].id, None]
    names = [name for name, _ in world.tally.counts]
    assert (names.count("claims"), names.count("job_claimed")) == (3, 2)


async def test_another_owner_claims_nothing(world):
    job = await world.broken_job()

    assert await world.repeats.claim(OTHER, job.fingerprint, retry_count=3) is None


async def test_a_job_that_is_not_the_callers_is_never_served_whatever_the_store_says(world):
    job = await world.broken_job(owner=OTHER)

    class Confused:
        async def claim(self, owner, fingerprint, *, retry_count, now):
            return job.id

    assert await world.over(Confused()).claim(OWNER, job.fingerprint, retry_count=1) is None


async def test_a_silent_store_costs_a_call_little_and_no_error(world):
    class Silent:
        async def claim(self, owner, fingerprint, *, retry_count, now):
            await asyncio.Event().wait()

    async with asyncio.timeout(30):
        assert await world.over(Silent()).claim(OWNER, "f", retry_count=1) is None

    assert world.tally.counts[1:] == [("claims_failed", {"reason": "timeout"})]


async def test_a_slow_store_is_waited_for_by_a_call_that_is_not_forwarded_anyway(world):
    """Otherwise it would be a second job and bought twice, or be refused and lose the first."""
    job = await world.broken_job()

    class Slow:
        async def claim(self, owner, fingerprint, *, retry_count, now):
            await asyncio.sleep(CLAIM_TIMEOUT_S * 2)
            return job.id

    hurried, patient = [
        await world.over(Slow()).claim(
            OWNER, job.fingerprint, retry_count=1, is_forwarded=is_forwarded
        )
        for is_forwarded in (True, False)
    ]

    assert hurried is None
    assert patient == job


async def test_a_failing_store_is_no_error_of_the_call(world):
    class Failing:
        async def claim(self, owner, fingerprint, *, retry_count, now):
            raise StoreUnavailableError("away")

    assert await world.over(Failing()).claim(OWNER, "f", retry_count=1) is None

    assert world.tally.counts[1:] == [("claims_failed", {"reason": "store_unavailable"})]


@pytest.mark.parametrize("failure", [StoreUnavailableError("away"), asyncio.CancelledError()])
async def test_a_session_asks_again_for_a_job_that_could_not_be_claimed(world, failure):
    """A store that fails over refuses the first repeat as well, and whatever it asked for."""
    job, run = await world.broken_job(fingerprint="named"), Run("r", "s")

    failures = [failure]

    class FailsOnce:
        async def claim(self, *args, **options):
            if failures:
                raise failures.pop()
            return await world.stores.deliveries.claim(*args, **options)

    repeats = world.over(FailsOnce())
    repeats.note_broken(OWNER, "call", LeftJob(job.id, job.fingerprint), run)

    with suppress(asyncio.CancelledError):
        assert await repeats.claim(OWNER, "call", retry_count=0, run=run) is None

    assert repeats.expects(OWNER, run)
    assert await repeats.claim(OWNER, "call", retry_count=0, run=run) == job
    assert not repeats.expects(OWNER, run)


async def test_a_job_that_was_erased_meanwhile_is_no_error(world):
    class Late:
        async def claim(self, owner, fingerprint, *, retry_count, now):
            return make_job().id

    assert await world.over(Late()).claim(OWNER, "f", retry_count=1) is None


async def test_a_failed_pass_keeps_what_was_known(world):
    class Failing:
        async def claimable_owners(self, *, now):
            raise StoreUnavailableError("away")

    repeats = world.over(Failing())
    repeats.note_broken(OWNER, "call", LEFT)

    with pytest.raises(StoreUnavailableError):
        await repeats.run_once()

    assert repeats.expects(OWNER)

    # Though the store stays away, not for longer than otherwise.
    world.clock.advance(seconds=BROKEN_HERE_S)
    with pytest.raises(StoreUnavailableError):
        await repeats.run_once()

    assert not repeats.expects_any
