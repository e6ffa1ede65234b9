"""Jobs of all owners are found, page by page, by what people know of them."""

from datetime import timedelta

from proxy.core.ids import OwnerId
from proxy.core.job import CancelRequested, JobState, Succeeded, advance
from proxy.core.ledger import Booking, LedgerKey, Receipt, Sums
from proxy.ports.jobs import JobWrite
from proxy.services.search import JOBS_PER_PAGE, JobQuery, JobSearch
from tests.contract.steps import OK, claim
from tests.helpers.factories import IDS, T0, make_key, new_job
from tests.helpers.fakes import FakeClock, MemoryStores

MINUTE = timedelta(minutes=1)


class World:
    def __init__(self):
        self.stores = MemoryStores()
        self.search = JobSearch(
            jobs=self.stores.jobs, ledger=self.stores.ledger, clock=FakeClock(T0)
        )

    async def accepted(self, **changes):
        return (await self.stores.jobs.accept(new_job(**changes))).job


async def test_jobs_of_all_owners_stand_newest_first():
    here = World()
    old = await here.accepted(accepted_at=T0 - MINUTE, owner=OwnerId("a"))
    new = await here.accepted(owner=OwnerId("b"))

    page = await here.search.find(JobQuery())

    assert [job.id for job in page.jobs] == [new.id, old.id]
    assert page.owners == ["a", "b"]


async def test_an_owner_whose_jobs_have_all_ended_is_known_by_the_ledger():
    here = World()
    job = await here.accepted()
    ended = advance(job, Succeeded(0, T0, OK))
    await here.stores.jobs.replace_many([JobWrite(ended)])
    assert (await here.search.find(JobQuery())).jobs == []

    key = LedgerKey(day=T0.date(), owner=job.owner)
    receipt = Receipt(id="r", job_id=job.id, bookings=(Booking(key, Sums(jobs=1)),))
    await here.stores.ledger.book([receipt])
    assert [one.id for one in (await here.search.find(JobQuery())).jobs] == [job.id]


async def test_jobs_are_found_by_state_tag_model_and_id():
    here = World()
    etl = await here.accepted(tags={"team": "etl"})
    other = await here.accepted(key=make_key(model="gpt-4.1"))
    gone = await here.accepted()
    await here.stores.jobs.replace_many([JobWrite(advance(gone, CancelRequested(T0)))])

    async def found(**query):
        return {job.id for job in (await here.search.find(JobQuery(**query))).jobs}

    assert await found(state=JobState.CANCELLED) == {gone.id}
    assert await found(text="team=etl") == {etl.id}
    assert await found(text="4.1") == {other.id}
    assert await found(text=etl.id) == {etl.id}
    assert await found(text=IDS.job()) == set()
    batch_id = await claim(here.stores, other.key)
    assert await found(text=batch_id) == {other.id}
    assert await found(text="nothing like it") == set()


async def test_one_owners_jobs_are_paged_to_their_end():
    here = World()
    ids = [
        (await here.accepted(accepted_at=T0 + MINUTE * n)).id for n in range(2 * JOBS_PER_PAGE + 1)
    ]

    seen, after = [], None
    while True:
        page = await here.search.find(JobQuery(after=after))
        seen += [job.id for job in page.jobs]
        after = page.more_after
        if after is None:
            break

    assert seen == ids[::-1]


async def test_a_page_after_a_job_that_is_gone_is_empty_and_no_error():
    here = World()
    await here.accepted()

    assert (await here.search.find(JobQuery(after=IDS.job()))).jobs == []


async def test_the_newest_of_many_owners_are_shown_and_that_there_are_more_is_said():
    here = World()
    for n in range(JOBS_PER_PAGE + 2):
        await here.accepted(accepted_at=T0 + MINUTE * n, owner=OwnerId(f"owner-{n % 2}"))

    page = await here.search.find(JobQuery())

    assert (len(page.jobs), page.is_cut, page.more_after) == (JOBS_PER_PAGE, True, None)
