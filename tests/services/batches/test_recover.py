"""Begun creates of which nobody knows: searched for, adopted, or proved absent."""

from datetime import timedelta

import pytest

from proxy.core.batch import BatchState
from proxy.core.ids import CredentialId
from proxy.core.job import JobState
from proxy.services.batches.recover import GIVE_UP_SEARCHING_AFTER
from tests.helpers.fake_provider import Fault
from tests.helpers.fleet import LEASE, Fleet

CREDENTIAL = CredentialId("credential-1")
TOKEN = "Bearer credential-1"
PATIENCE = LEASE + timedelta(seconds=120)
"""How long another instance leaves a create to a sender that may be alive."""


async def test_an_ambiguous_create_is_adopted_by_search_and_never_repeated() -> None:
    fleet = Fleet()
    fleet.will("create", "lost_after")

    await fleet.submit(12)
    assert (await fleet.batch()).state is BatchState.SUBMITTING
    await fleet.wait(timedelta(seconds=29), "submit")
    assert fleet.provider.requests["find_batches"] == 0
    await fleet.wait(timedelta(seconds=1), "submit")

    batch = await fleet.batch()
    assert (batch.state, batch.provider_batch_id) == (BatchState.IN_PROGRESS, "batch_1")
    await fleet.everything_ends()
    assert fleet.provider.requests["create"] == 1
    assert set(fleet.provider.bought.values()) == {1}
    assert fleet.tally.counts["create_unclear"] == 1
    assert fleet.tally.counts["batch_adopted"] == 1
    assert fleet.doubles() == (0, 0)


async def test_only_after_two_searches_in_vain_is_an_ambiguous_create_sent_again() -> None:
    fleet = Fleet()
    fleet.will("create", "unavailable")

    await fleet.submit(12)
    await fleet.wait(timedelta(seconds=30), "submit")
    assert (await fleet.batch()).searches == 1
    await fleet.run("submit")
    assert fleet.provider.requests["find_batches"] == 1
    assert fleet.provider.requests["create"] == 1

    await fleet.wait(timedelta(seconds=30), "submit")
    assert (await fleet.batch()).state is BatchState.SEALED
    await fleet.run("submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert fleet.provider.requests["find_batches"] == 2
    assert fleet.provider.requests["create"] == 2
    assert fleet.provider.requests["upload"] == 1


async def test_a_search_that_fails_proves_nothing_and_comes_again_later() -> None:
    fleet = Fleet()
    fleet.will("create", "lost_after")
    fleet.will("find_batches", "unavailable", "busy")

    await fleet.submit(12)
    await fleet.wait(timedelta(seconds=30), "submit", "submit", "submit")
    assert fleet.provider.requests["find_batches"] == 1
    await fleet.recovered()

    assert (await fleet.batch()).provider_batch_id == "batch_1"
    assert fleet.provider.requests["create"] == 1


async def test_the_silence_of_another_keys_lists_proves_nothing() -> None:
    fleet = Fleet()
    await fleet.add_credential("credential-9")
    fleet.will("create", "lost_after")
    await fleet.submit(12)
    fleet.provider.revoked.add(TOKEN)

    await fleet.wait(timedelta(seconds=30), "submit")
    for _ in range(5):
        await fleet.wait(timedelta(minutes=5), "submit")
    assert (await fleet.batch()).state is BatchState.SUBMITTING
    assert (await fleet.batch()).searches == 0
    fleet.provider.revoked.clear()
    await fleet.wait(timedelta(minutes=5), "submit")

    assert (await fleet.batch()).provider_batch_id == "batch_1"
    assert fleet.provider.requests["create"] == 1


async def test_another_key_of_the_same_project_may_find_what_was_created() -> None:
    fleet = Fleet()
    await fleet.add_credential("credential-9")
    fleet.provider.projects = {TOKEN: "p", "Bearer credential-9": "p"}
    fleet.will("create", "lost_after")
    await fleet.submit(12)
    fleet.provider.revoked.add(TOKEN)

    await fleet.wait(timedelta(seconds=30), "submit")

    assert (await fleet.batch()).provider_batch_id == "batch_1"


async def test_a_crash_before_the_answer_is_noted_ends_in_an_adoption() -> None:
    fleet = Fleet(instances=2)
    await fleet.flush(12)
    await _dies_after_its_create(fleet)

    await fleet.wait(PATIENCE - timedelta(seconds=1), "submit", position=1)
    assert fleet.provider.requests["find_batches"] == 0
    await fleet.wait(timedelta(seconds=1), "submit", position=1)

    batch = await fleet.batch()
    assert (batch.state, batch.provider_batch_id) == (BatchState.IN_PROGRESS, "batch_1")
    assert fleet.provider.requests["create"] == 1


async def test_the_doubt_of_an_earlier_create_does_not_hurry_the_search_for_the_next() -> None:
    """A create may take longer than a lease: its sender lives, and must not be overtaken."""
    fleet = Fleet(instances=2)
    fleet.will("create", "unavailable")
    await fleet.submit(12)
    await fleet.wait(timedelta(seconds=30), "submit")
    await fleet.wait(timedelta(seconds=30), "submit")
    assert (await fleet.batch()).state is BatchState.SEALED

    async def it_takes_long() -> None:
        for _ in range(9):
            fleet.clock.advance(seconds=10)
            await fleet.run("live", "submit", position=1)

    fleet.provider.in_the_middle["create"] = it_takes_long
    await fleet.run("submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert fleet.provider.requests["create"] == 2
    assert len(fleet.provider.batches) == 1


async def test_of_two_batches_found_the_older_is_adopted_and_the_younger_stopped() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    await fleet.flush(12)
    await _dies_after_its_create(fleet)
    assert fleet.provider.batches["batch_1"].ours == (await fleet.batch()).id
    fleet.appear_twice()

    await fleet.wait(PATIENCE, "submit")

    batch = await fleet.batch()
    assert (batch.provider_batch_id, batch.twins) == ("batch_1", ("batch_2",))
    assert fleet.provider.requests["create"] == 1
    fleet.provider.finish("batch_1", "completed", executed=12)
    await fleet.wait(timedelta(seconds=30), "collect")
    assert fleet.provider.batches["batch_2"].status == "cancelled"
    assert fleet.tally.counts["late_result"] == 6


@pytest.mark.parametrize("fault", ["unavailable", "rejected", "busy"])
async def test_a_search_that_never_succeeds_keeps_no_job_for_ever(fault: Fault) -> None:
    fleet = Fleet()
    fleet.will("create", "unavailable")
    fleet.will("find_batches", fault, times=1_000)
    await fleet.submit(12)

    await fleet.run_for(GIVE_UP_SEARCHING_AFTER - timedelta(hours=1), step=timedelta(minutes=20))
    assert await fleet.states() == {JobState.BATCHED: 12}
    await fleet.run_for(timedelta(hours=3), step=timedelta(minutes=20))

    assert await fleet.states() == {JobState.COMPLETED: 12}
    # Nobody knows whether the create was done.
    assert fleet.tally.counts["possible_double"] == 12
    assert (await fleet.batch()).state is BatchState.SETTLED


async def test_a_search_that_is_refused_for_ever_ends_once_nobody_waits() -> None:
    fleet = Fleet()
    fleet.will("create", "lost_after")
    await fleet.submit(12)
    fleet.provider.revoked.add(TOKEN)

    await fleet.run_for(timedelta(days=1, hours=4), step=timedelta(minutes=20))
    assert await fleet.states() == {JobState.FAILED: 12}
    assert (await fleet.batch()).state is BatchState.SUBMITTING
    await fleet.run_for(timedelta(days=15), step=timedelta(hours=6))

    assert (await fleet.batch()).state is BatchState.SETTLED
    assert fleet.tally.counts["possible_double"] == 12
    assert (await fleet.booked()).possible_doubles == 12


async def _dies_after_its_create(fleet: Fleet) -> None:
    async def count_down() -> None:
        # One more call of a port comes before the answer would be noted.
        fleet.instances[0].steps_left = 0

    fleet.provider.in_the_middle["create"] = count_down
    assert not await fleet.instances[0].run("submit")
    fleet.kill(0)
    await fleet.run("live")
