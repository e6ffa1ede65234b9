"""Who is verified, and how much may be pending: of one owner, and of all unverified ones."""

import pytest

from proxy.core.dialects import Presented
from proxy.core.errors import OverloadedError, StoreUnavailableError
from proxy.core.ids import OwnerId
from proxy.core.job import CancelRequested, advance
from proxy.ports.jobs import JobWrite
from proxy.services.callers.accounts import (
    CHECKS_PER_PASS,
    RECHECK_AFTER,
    Accounts,
    CredentialVerdict,
)
from proxy.services.callers.owners import Owners
from proxy.services.callers.quota import Limits, Quota
from tests.helpers.factories import T0, make_job, new_job
from tests.helpers.fakes import FakeClock, FakeHash, MemoryStores

LIMITS = Limits(owner_jobs=4, owner_bytes=1000, unverified_jobs=3, unverified_bytes=300)


class World:
    """Accounts over stores in memory, and an upstream whose verdicts a test chooses."""

    def __init__(self, limits=LIMITS):
        self.stores = MemoryStores()
        self.clock = FakeClock(T0)
        self.verdicts = {}
        self.asked = []
        self.owners = Owners(keyed_hash=FakeHash(), names={})
        self.accounts = Accounts(
            credentials=self.stores.credentials,
            jobs=self.stores.jobs,
            clock=self.clock,
            verify=self._verify,
            limits=limits,
        )

    async def _verify(self, credential):
        self.asked.append(credential.id)
        return self.verdicts.get(credential.id, CredentialVerdict.UNKNOWN)

    def caller(self, token):
        return self.owners.identify(
            Presented(token, (("authorization", f"Bearer {token}"),), ()), "openai"
        )

    async def accept(self, caller, body_bytes=10):
        with self.accounts.reserve(caller, body_bytes):
            await self.stores.credentials.remember(caller.credential)
            job = make_job(owner=caller.owner, body_bytes=body_bytes)
            await self.stores.jobs.accept(new_job(job))
        return job

    async def verified(self, token):
        caller = self.caller(token)
        await self.stores.credentials.remember(caller.credential)
        await self.stores.credentials.accepted(caller.credential.id, at=T0)
        await self.accounts.run_once()
        return caller


@pytest.fixture
def world():
    return World()


async def test_all_unverified_owners_share_one_small_pool(world):
    for token in "abc":
        await world.accept(world.caller(token))

    with pytest.raises(OverloadedError) as refusal:
        await world.accept(world.caller("d"))

    assert refusal.value.http_status == 429
    assert refusal.value.code == "credential_unverified"


async def test_the_pool_is_bounded_in_bytes_too(world):
    await world.accept(world.caller("a"), 200)

    with pytest.raises(OverloadedError):
        await world.accept(world.caller("b"), 101)
    await world.accept(world.caller("b"), 100)


async def test_a_full_pool_stops_no_verified_owner(world):
    trusted = await world.verified("t")
    for token in "abc":
        await world.accept(world.caller(token))
    with pytest.raises(OverloadedError):
        await world.accept(world.caller("d"))

    await world.accept(trusted, 500)


async def test_the_pool_has_room_again_as_soon_as_one_in_it_is_verified(world):
    first = world.caller("a")
    for _ in range(3):
        await world.accept(first)
    await world.accounts.run_once()
    with pytest.raises(OverloadedError):
        await world.accept(world.caller("b"))

    world.accounts.note_accepted(first.credential.id)

    await world.accept(world.caller("b"))


async def test_what_is_stored_of_the_pool_is_counted_anew_by_each_pass():
    stores, verified = MemoryStores(), frozenset({OwnerId("v")})
    quota = Quota(Limits(unverified_jobs=2))
    quota.reserve(OwnerId("a"), 10, verified=verified)
    await stores.jobs.accept(new_job(make_job(owner="b")))
    await quota.refresh(stores.jobs)

    with pytest.raises(OverloadedError):
        quota.reserve(OwnerId("c"), 10, verified=verified)


async def test_a_verified_owner_has_caps_of_its_own_in_jobs_and_bytes(world):
    caller = await world.verified("t")
    for _ in range(4):
        await world.accept(caller)

    with pytest.raises(OverloadedError, match="4 jobs with 40 bytes are pending"):
        await world.accept(caller)
    other = await world.verified("u")
    with pytest.raises(OverloadedError):
        await world.accept(other, 1001)
    await world.accept(other, 1000)


async def test_what_is_refused_or_fails_is_not_counted(world):
    caller = world.caller("a")
    for _ in range(5):
        with pytest.raises(StoreUnavailableError), world.accounts.reserve(caller, 10):
            raise StoreUnavailableError("away")

    for _ in range(3):
        await world.accept(caller)


async def test_jobs_that_are_being_made_durable_count_already(world):
    first, second, third, fourth = (world.caller(token) for token in "abcd")
    accounts = world.accounts

    with (
        accounts.reserve(first, 10),
        accounts.reserve(second, 10),
        accounts.reserve(third, 10),
        pytest.raises(OverloadedError),
        accounts.reserve(fourth, 10),
    ):
        pass


async def test_a_pass_counts_what_is_pending_and_forgets_what_ended(world):
    caller = world.caller("a")
    jobs = [await world.accept(caller) for _ in range(3)]
    await world.accounts.run_once()
    with pytest.raises(OverloadedError):
        await world.accept(caller)

    await world.stores.jobs.replace_many([JobWrite(advance(jobs[0], CancelRequested(T0)))])
    await world.accounts.run_once()

    await world.accept(caller)


async def test_what_is_accepted_while_the_store_counts_is_not_forgotten(world):
    caller = world.caller("a")
    counting = world.stores.jobs.pending

    async def pending(owners=None):
        counted = await counting(owners)
        await world.accept(caller)
        return counted

    world.stores.jobs.pending = pending
    await world.accept(caller)
    await world.accounts.run_once()
    world.stores.jobs.pending = counting
    await world.accept(caller)

    with pytest.raises(OverloadedError):
        await world.accept(caller)


async def test_a_pass_that_fails_leaves_the_counts(world):
    caller = world.caller("a")
    for _ in range(3):
        await world.accept(caller)

    async def pending(owners=None):
        raise StoreUnavailableError("away")

    world.stores.jobs.pending = pending
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            await world.accounts.run_once()

    with pytest.raises(OverloadedError):
        await world.accept(caller)


async def test_a_new_credential_is_asked_about_once_and_accepted(world):
    caller = world.caller("a")
    world.verdicts[caller.credential.id] = CredentialVerdict.ACCEPTED
    await world.accept(caller)

    assert await world.accounts.verify_once() == 1
    assert await world.accounts.verify_once() == 0

    stored = await world.stores.credentials.get(caller.credential.id)
    assert stored.succeeded_at == T0
    await world.accept(caller, 500)
    await world.accounts.run_once()
    await world.accept(caller, 400)


async def test_the_accepted_owner_frees_the_pool_for_others(world):
    caller = world.caller("a")
    for _ in range(3):
        await world.accept(caller)
    with pytest.raises(OverloadedError):
        await world.accept(world.caller("b"))
    world.verdicts[caller.credential.id] = CredentialVerdict.ACCEPTED
    await world.accounts.verify_once()

    await world.accept(world.caller("b"))


@pytest.mark.parametrize("verdict", [CredentialVerdict.REFUSED, CredentialVerdict.UNKNOWN])
async def test_a_credential_that_is_not_accepted_is_asked_about_again_later(world, verdict):
    caller = world.caller("a")
    world.verdicts[caller.credential.id] = verdict
    await world.accept(caller)

    await world.accounts.verify_once()
    assert await world.accounts.verify_once() == 0
    world.clock.advance(seconds=RECHECK_AFTER[verdict].total_seconds())
    assert await world.accounts.verify_once() == 1


async def test_a_pass_asks_about_a_bounded_number():
    world = World(Limits(unverified_jobs=1000))
    for token in range(CHECKS_PER_PASS + 1):
        await world.accept(world.caller(str(token)))

    assert await world.accounts.verify_once() == CHECKS_PER_PASS
    assert await world.accounts.verify_once() == 1
    assert len(set(world.asked)) == CHECKS_PER_PASS + 1


async def test_after_a_restart_unverified_credentials_are_asked_about_still(world):
    await world.accept(world.caller("a"))
    after = World()
    after.stores = world.stores
    accounts = Accounts(
        credentials=world.stores.credentials,
        jobs=world.stores.jobs,
        clock=world.clock,
        verify=world._verify,
        limits=LIMITS,
    )

    await accounts.run_once()

    assert await accounts.verify_once() == 1


async def test_a_call_that_its_upstream_served_verifies_and_lifts_a_pause(world):
    caller = world.caller("a")
    assert not world.accounts.wants_news
    await world.accept(caller)
    assert world.accounts.wants_news
    assert world.accounts.wants_news_of(lambda: caller)
    assert not world.accounts.wants_news_of(lambda: world.caller("b"))

    world.accounts.note_accepted(caller.credential.id)
    await world.accept(caller, 500)
    await world.accounts.run_once()
    stored = await world.stores.credentials.get(caller.credential.id)
    assert stored.succeeded_at == T0

    await world.stores.credentials.pause(caller.credential.id, at=T0, status=401, body=b"")
    await world.accounts.run_once()
    assert world.accounts.paused_at(caller.credential.id) == T0
    assert world.accounts.wants_news_of(lambda: caller)
    world.accounts.note_accepted(caller.credential.id)
    await world.accounts.verify_once()

    assert world.accounts.paused_at(caller.credential.id) is None
    assert not world.accounts.wants_news_of(lambda: caller)
    assert (await world.stores.credentials.get(caller.credential.id)).paused_at is None


async def test_news_of_unknown_credentials_are_not_kept(world):
    world.accounts.note_accepted(world.caller("x").credential.id)

    await world.accounts.run_once()

    assert await world.stores.credentials.all() == []


async def test_anonymous_calls_take_nothing_from_the_pool(world):
    nobody = world.owners.identify(None, "vllm")
    for _ in range(4):
        await world.accept(nobody, 200)

    assert await world.accounts.verify_once() == 0
    await world.accounts.run_once()
    assert await world.accounts.verify_once() == 0
    await world.accept(world.caller("a"))
