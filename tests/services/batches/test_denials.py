from datetime import timedelta

import pytest

from proxy.core.job import JobState
from proxy.services.batches.denials import DENIED_TIMES
from proxy.services.batches.submit import INPUT_TRIES
from tests.helpers.fake_provider import Fault
from tests.helpers.fleet import Fleet


@pytest.mark.parametrize("operation", ["upload", "create"])
@pytest.mark.parametrize("fault", ["refused", "forbidden"])
async def test_a_key_without_the_scope_of_batches_loses_that_lane_alone(
    operation: str, fault: Fault
) -> None:
    fleet = Fleet()
    fleet.will(operation, *[fault] * 1_000)
    await fleet.accept_many(12)

    await fleet.run_for(timedelta(minutes=30), step=timedelta(seconds=30))

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.provider.requests[operation] == DENIED_TIMES
    assert fleet.tally.counts["credential_paused"] == DENIED_TIMES


@pytest.mark.parametrize(
    ("operation", "fault"), [("upload", "unknown"), ("create", "unknown"), ("create", "no_path")]
)
async def test_an_account_without_batches_is_soon_asked_for_none(
    operation: str, fault: Fault
) -> None:
    fleet = Fleet()
    fleet.will(operation, *[fault] * 1_000)
    asked = []
    for _ in range(24):
        await fleet.accept_many(12)
        await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=2))
        asked.append(fleet.provider.requests[operation])

    assert await fleet.states() == {JobState.COMPLETED: 12 * len(asked)}
    # Half a day, and a batch or two.
    assert asked[-1] - asked[11] <= 2 * INPUT_TRIES
    assert fleet.tally.counts["credential_paused"] == 0


async def test_batches_that_were_not_found_for_minutes_are_not_given_up_for_a_day() -> None:
    fleet = Fleet()
    fleet.will("create", "unknown", times=1_000)
    for _ in range(10):
        await fleet.accept_many(12)
        await fleet.run_for(timedelta(minutes=1), step=timedelta(seconds=30))
    fleet.provider.faults["create"].clear()
    await fleet.run_for(timedelta(minutes=20), step=timedelta(seconds=30))
    called = fleet.provider.requests["call"]
    assert called

    await fleet.accept_many(12)
    await fleet.run_for(timedelta(minutes=20), step=timedelta(seconds=30))

    assert await fleet.states() == {JobState.COMPLETED: 12 * 11}
    assert fleet.provider.requests["call"] == called


@pytest.mark.parametrize("status", ["refused", "forbidden", "unknown"])
async def test_batches_that_are_refused_together_leave_the_lane_as_it_is(status: Fault) -> None:
    """As when a key is revoked: once it is good again, all goes on at half the price."""
    fleet = Fleet()
    for _ in range(2 * DENIED_TIMES):
        await fleet.flush(12)
    fleet.will("upload", *[status] * DENIED_TIMES)

    await fleet.run("submit")
    assert fleet.provider.requests["upload"] >= DENIED_TIMES
    await fleet.run_for(timedelta(hours=1), step=timedelta(seconds=30))

    assert await fleet.states() == {JobState.COMPLETED: 2 * DENIED_TIMES * 12}
    assert fleet.provider.requests["call"] == 0


async def test_a_key_that_is_let_into_batches_in_between_keeps_that_lane() -> None:
    fleet = Fleet()

    for _ in range(2 * DENIED_TIMES):
        fleet.will("create", "forbidden")
        await fleet.accept_many(12)
        await fleet.run_for(timedelta(minutes=20), step=timedelta(seconds=30))

    assert await fleet.states() == {JobState.COMPLETED: 12 * 2 * DENIED_TIMES}
    assert fleet.provider.requests["call"] == 0


async def test_a_key_without_means_keeps_the_lane_of_batches() -> None:
    fleet = Fleet()
    fleet.provider.forbids = b'{"error":{"code":"billing_not_active"}}'
    always: list[Fault] = ["forbidden"] * (2 * DENIED_TIMES)
    fleet.will("create", *always)
    await fleet.accept_many(12)

    await fleet.run_for(timedelta(hours=2), step=timedelta(seconds=30))

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.provider.requests["call"] == 0
