"""What every `CredentialStore` must do."""

from dataclasses import replace
from datetime import timedelta

from proxy.core.batch import BatchState
from proxy.core.ids import CredentialId, InstanceId, OwnerId
from proxy.core.job import CancelRequested, Escalated, Outcome, Succeeded, advance
from proxy.ports.batches import ClaimLimits
from proxy.ports.jobs import JobWrite
from proxy.ports.stores import Stores
from tests.contract.steps import write
from tests.helpers.factories import (
    CREDENTIAL,
    OWNER,
    T0,
    make_batch,
    make_credential,
    new_job,
)

HOUR = timedelta(hours=1)
ONE = make_credential()
TWO = make_credential(
    id=CredentialId("credential-2"),
    headers=(("authorization", "Bearer sk-2"), ("openai-organization", "org-ü")),
)


async def forget(stores: Stores, *, limit: int = 9) -> int:
    """Let two passes go by: the first one only marks."""
    assert await stores.credentials.forget_unused(limit=limit) == 0
    return await stores.credentials.forget_unused(limit=limit)


async def test_a_credential_comes_back_as_it_was(stores):
    await stores.credentials.remember(TWO)

    assert await stores.credentials.get(TWO.id) == TWO
    assert await stores.credentials.get(CREDENTIAL) is None
    assert await stores.credentials.all() == [TWO]


async def test_a_known_credential_stays_as_it_is(stores):
    await stores.credentials.remember(ONE)
    await stores.credentials.pause(ONE.id, at=T0, status=401, body=b"{}")
    known = await stores.credentials.get(ONE.id)

    await stores.credentials.remember(replace(ONE, succeeded_at=T0))

    assert await stores.credentials.get(ONE.id) == known


async def test_an_owners_credentials_at_an_upstream_come_newest_success_first(stores):
    never = make_credential(id=CredentialId("never"))
    for credential in (
        ONE,
        never,
        TWO,
        make_credential(id=CredentialId("other-upstream"), upstream="anthropic"),
        make_credential(id=CredentialId("other-owner"), owner=OwnerId("owner-2")),
    ):
        await stores.credentials.remember(credential)
    await stores.credentials.accepted(ONE.id, at=T0)
    await stores.credentials.accepted(TWO.id, at=T0 + HOUR)

    found = await stores.credentials.of_owner(OWNER, "openai")

    assert [credential.id for credential in found] == [TWO.id, ONE.id, never.id]
    assert await stores.credentials.of_owner(OWNER, "gemini") == []


async def test_a_pause_keeps_its_time_until_the_upstream_accepts_again(stores):
    await stores.credentials.remember(ONE)
    await stores.credentials.pause(ONE.id, at=T0, status=401, body=b"no")
    await stores.credentials.pause(ONE.id, at=T0 + HOUR, status=403, body=b"never")

    assert await stores.credentials.get(ONE.id) == replace(
        ONE, paused_at=T0, pause_status=403, pause_body=b"never"
    )

    await stores.credentials.accepted(ONE.id, at=T0 + 2 * HOUR)
    assert await stores.credentials.get(ONE.id) == replace(ONE, succeeded_at=T0 + 2 * HOUR)

    await stores.credentials.pause(ONE.id, at=T0 + 3 * HOUR, status=None, body=None)
    assert await stores.credentials.get(ONE.id) == replace(
        ONE, succeeded_at=T0 + 2 * HOUR, paused_at=T0 + 3 * HOUR
    )


async def test_news_of_an_unknown_credential_is_ignored(stores):
    await stores.credentials.accepted(ONE.id, at=T0)
    await stores.credentials.pause(ONE.id, at=T0, status=401, body=None)

    assert await stores.credentials.all() == []


async def test_what_nothing_needs_at_two_passes_is_forgotten(stores):
    await stores.credentials.remember(ONE)

    assert await forget(stores) == 1

    assert await stores.credentials.all() == []


async def test_a_credential_that_was_just_remembered_survives_one_pass(stores):
    await stores.credentials.remember(ONE)
    assert await stores.credentials.forget_unused(limit=9) == 0
    await stores.credentials.remember(ONE)

    assert await stores.credentials.forget_unused(limit=9) == 0

    assert await stores.credentials.get(ONE.id) == ONE


async def test_no_more_credentials_are_forgotten_than_asked(stores):
    for number in range(5):
        await stores.credentials.remember(make_credential(id=CredentialId(f"c{number}")))

    assert await forget(stores, limit=3) == 3

    assert len(await stores.credentials.all()) == 2
    assert await stores.credentials.forget_unused(limit=3) == 2


async def test_a_queued_job_keeps_its_credential(stores):
    await stores.credentials.remember(ONE)
    job = (await stores.jobs.accept(new_job())).job

    assert await forget(stores) == 0

    await stores.jobs.replace_many([JobWrite(advance(job, CancelRequested(T0)))])
    assert await forget(stores) == 1


async def test_a_job_that_is_being_called_keeps_its_credential(stores):
    await stores.credentials.remember(ONE)
    job = (await stores.jobs.accept(new_job())).job
    called = advance(job, Escalated(InstanceId("i")))
    await stores.jobs.replace_many([JobWrite(called)])

    assert await forget(stores) == 0

    await stores.jobs.replace_many([JobWrite(advance(called, Succeeded(1, T0, Outcome(200))))])
    assert await forget(stores) == 1


async def test_a_batch_keeps_its_credential_until_it_is_settled(stores):
    await stores.credentials.remember(ONE)
    await stores.jobs.accept(new_job())
    batch = make_batch()
    await stores.batches.add(batch)
    limits = ClaimLimits(max_requests=9, max_bytes=10**6)
    await stores.batches.claim(batch.key, batch.id, limits, ready_at=T0)

    assert await forget(stores) == 0

    (item,) = [one async for page in stores.batches.items(batch.id) for one in page]
    job = await stores.jobs.get(item.job_id)
    await stores.jobs.replace_many([JobWrite(advance(job, Succeeded(1, T0, Outcome(200))))])
    assert await stores.credentials.forget_unused(limit=9) == 0
    settled = replace(batch, state=BatchState.SETTLED, settled_at=T0, version=1)
    assert await stores.batches.replace(settled)
    assert await forget(stores) == 1


async def test_an_owners_other_credentials_are_kept_for_the_harvest(stores):
    await stores.credentials.remember(ONE)
    await stores.credentials.remember(TWO)
    elsewhere = make_credential(id=CredentialId("elsewhere"), upstream="anthropic")
    await stores.credentials.remember(elsewhere)
    await stores.jobs.accept(new_job())

    assert await forget(stores) == 1

    assert {one.id for one in await stores.credentials.all()} == {ONE.id, TWO.id}


async def test_the_credential_of_an_accepted_job_is_remembered_with_it(stores):
    await stores.jobs.accept(replace(new_job(), credential=ONE))

    assert await stores.credentials.get(ONE.id) == ONE


async def test_a_known_credential_stays_as_it_is_when_a_job_comes_with_it(stores):
    await stores.credentials.remember(ONE)
    await stores.credentials.accepted(ONE.id, at=T0)

    await stores.jobs.accept(replace(new_job(), credential=ONE))

    known = await stores.credentials.get(ONE.id)
    assert known is not None
    assert known.succeeded_at == T0


async def test_an_accepted_job_keeps_a_credential_that_was_about_to_be_forgotten(stores):
    await stores.credentials.remember(ONE)
    assert await stores.credentials.forget_unused(limit=10) == 0

    job = (await stores.jobs.accept(replace(new_job(), credential=ONE))).job
    await write(stores, advance(job, CancelRequested(T0)))

    assert await stores.credentials.forget_unused(limit=10) == 0
    assert await stores.credentials.forget_unused(limit=10) == 1
