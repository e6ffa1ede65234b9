"""What a batch left at its provider is deleted, whoever may and whatever fails on the way."""

from datetime import timedelta

import pytest

from proxy.core.batch import BatchState
from proxy.core.ids import CredentialId
from proxy.services.batches.clean_up import GIVE_UP_DELETING_AFTER
from proxy.services.batches.twins import SWEEP_FOR
from tests.helpers.fake_provider import Fault
from tests.helpers.fleet import Fleet

HOUR = timedelta(hours=1)


async def test_the_input_and_the_results_of_a_batch_are_deleted() -> None:
    fleet = Fleet()
    await fleet.submit(12)

    await fleet.answer()

    assert fleet.provider.files == {}
    assert [batch.deleted for batch in fleet.provider.batches.values()] == [True]


async def test_the_results_of_a_twin_are_deleted_too() -> None:
    fleet = Fleet()
    fleet.will("create", "lost_after")
    await fleet.submit(12)
    fleet.appear_twice()

    await fleet.run_for(SWEEP_FOR + HOUR, step=timedelta(minutes=5))

    assert (await fleet.batch()).twins == ("batch_2",)
    assert [batch.deleted for batch in fleet.provider.batches.values()] == [True, True]


async def test_a_twin_that_is_gone_keeps_no_batch_from_being_settled() -> None:
    fleet = Fleet()
    fleet.will("create", "lost_after")
    await fleet.submit(12)
    fleet.appear_twice()
    await fleet.run_for(SWEEP_FOR - HOUR, step=timedelta(minutes=5))
    fleet.provider.hidden.add("batch_2")

    await fleet.run_for(2 * HOUR, step=timedelta(minutes=5))

    assert (await fleet.batch()).state is BatchState.SETTLED


async def test_a_twin_that_cannot_be_asked_for_keeps_no_file_of_its_batch() -> None:
    fleet = Fleet()
    fleet.will("create", "lost_after")
    await fleet.submit(12)
    fleet.appear_twice()
    await fleet.run_for(SWEEP_FOR - HOUR, step=timedelta(minutes=10))
    assert (await fleet.batch()).twins_read == ("batch_2",)
    fleet.will("retrieve", "unavailable", times=1_000)

    await fleet.run_for(GIVE_UP_DELETING_AFTER + 2 * HOUR, step=timedelta(minutes=10))

    assert (await fleet.batch()).state is BatchState.SETTLED
    assert fleet.provider.files == {}
    assert fleet.provider.batches["batch_1"].deleted


async def test_a_key_that_may_not_delete_is_not_paused() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.will("delete_file", "refused", "refused")

    await fleet.answer()

    assert (await fleet.batch()).state is BatchState.SETTLED
    credential = await fleet.stores.credentials.get(CredentialId("credential-1"))
    assert credential is not None
    assert credential.paused_at is None


@pytest.mark.parametrize("fault", ["unavailable", "busy"])
async def test_a_deletion_that_never_succeeds_keeps_no_batch_for_ever(fault: Fault) -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.will("delete_file", fault, times=1_000)

    await fleet.run_for(GIVE_UP_DELETING_AFTER, step=timedelta(minutes=10))
    assert (await fleet.batch()).state is BatchState.ENDED
    await fleet.run_for(HOUR, step=timedelta(minutes=10))

    assert (await fleet.batch()).state is BatchState.SETTLED


async def test_after_a_search_for_twins_deletions_have_their_day_as_well() -> None:
    fleet = Fleet()
    fleet.will("create", "lost_after")
    await fleet.submit(12)
    await fleet.run_for(SWEEP_FOR - HOUR, step=timedelta(minutes=10))
    fleet.will("delete_file", "unavailable", times=3)

    await fleet.run_for(6 * HOUR, step=timedelta(minutes=10))

    assert (await fleet.batch()).state is BatchState.SETTLED
    assert fleet.provider.files == {}
