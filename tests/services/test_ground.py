"""What every pass stands on: merged news, and counts with their causes."""

from datetime import timedelta

import pytest

from proxy.core.batch import BatchState, advance
from proxy.core.batch_events import BatchEnded, Delayed, Missing, Polled, Sealed
from proxy.core.errors import StoreForgotError
from proxy.core.job import InvalidTransitionError, JobState
from proxy.services.ground import FORSAKE_AFTER, Ground, count_ends
from tests.helpers.factories import T0, make_batch, make_job
from tests.helpers.fleet import Fleet

LATER = T0 + timedelta(minutes=1)


@pytest.fixture
def ground() -> Ground:
    return Fleet().instances[0].ground


async def test_an_event_becomes_durable(ground: Ground) -> None:
    batch = make_batch(state=BatchState.IN_PROGRESS)
    await ground.batches.add(batch)

    after = await ground.write_batch(batch, Polled(LATER))

    assert await ground.batches.get(batch.id) == after
    assert (after.version, after.polls) == (1, 1)


async def test_news_is_merged_into_what_another_instance_wrote_meanwhile(ground: Ground) -> None:
    batch = make_batch(state=BatchState.IN_PROGRESS)
    await ground.batches.add(batch)
    await ground.batches.replace(advance(batch, Missing(T0, LATER)))

    after = await ground.write_batch(batch, BatchEnded(T0, "completed"))

    assert (after.state, after.version, after.missing_since) == (BatchState.ENDED, 2, T0)


async def test_news_that_means_nothing_any_more_changes_nothing(ground: Ground) -> None:
    batch = make_batch(state=BatchState.IN_PROGRESS)
    await ground.batches.add(batch)
    ended = advance(batch, BatchEnded(T0, "completed"))
    await ground.batches.replace(ended)

    assert await ground.write_batch(batch, BatchEnded(LATER, "expired")) == ended
    assert await ground.batches.get(batch.id) == ended


async def test_an_event_that_no_state_explains_is_a_bug(ground: Ground) -> None:
    batch = make_batch(state=BatchState.IN_PROGRESS)
    await ground.batches.add(batch)

    with pytest.raises(InvalidTransitionError):
        await ground.write_batch(batch, Sealed(1, 1, 1, None))


@pytest.mark.parametrize("keeps_an_older_one", [False, True])
async def test_a_store_that_lost_what_it_had_taken_is_no_bug_of_ours(
    ground: Ground, keeps_an_older_one: bool
) -> None:
    old = make_batch(state=BatchState.SUBMITTING, version=3)
    if keeps_an_older_one:
        await ground.batches.add(old)
    batch = make_batch(id=old.id, state=BatchState.IN_PROGRESS, version=4)

    with pytest.raises(StoreForgotError):
        await ground.write_batch(batch, BatchEnded(T0, "completed"))

    assert await ground.batches.get(old.id) == (old if keeps_an_older_one else None)


def ended(**changes):
    job = {"state": JobState.COMPLETED, "deadline": T0, "finalized_at": LATER, "attempt": 1}
    return make_job(**(job | changes))


@pytest.mark.parametrize(
    ("job", "missed"),
    [
        (ended(finalized_at=T0), 0),
        (ended(), 1),
        (ended(state=JobState.EXPIRED, finalized_at=T0), 1),
    ],
)
def test_every_end_is_counted_and_those_that_came_too_late_twice(job, missed) -> None:
    fleet = Fleet()

    count_ends(fleet.tally, [job])

    assert fleet.tally.counts["job_ended"] == 1
    assert fleet.tally.counts["deadline_missed"] == missed


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"attempt": 0, "state": JobState.EXPIRED}, "queued"),
        ({"failures": 2}, "retried"),
        ({}, "in_flight"),
    ],
)
def test_a_missed_deadline_has_a_cause(changes, cause: str) -> None:
    labels: dict[str, dict[str, str]] = {}

    class Labels:
        def count(self, name: str, amount: float = 1, /, **given: str) -> None:
            labels[name] = given

    count_ends(Labels(), [ended(**changes)])

    assert labels["deadline_missed"] == {"cause": cause}


def test_ends_of_a_group_are_counted_by_what_they_have_in_common() -> None:
    counted: list[tuple[str, float, dict[str, str]]] = []

    class Counts:
        def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
            counted.append((name, amount, labels))

    group = [ended(), ended(finalized_at=T0), ended(state=JobState.FAILED, failures=1), ended()]
    count_ends(Counts(), group)

    assert counted == [
        ("job_ended", 3, {"state": "completed", "lane": "batch"}),
        ("job_ended", 1, {"state": "failed", "lane": "batch"}),
        ("deadline_missed", 2, {"cause": "in_flight"}),
        ("deadline_missed", 1, {"cause": "retried"}),
    ]


async def test_a_batch_is_forsaken_a_week_after_the_last_key_was_refused() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    (job_id,) = await fleet.submit(1)
    ground = fleet.instances[0].ground
    since = fleet.clock.now()
    batch = await ground.write_batch(await fleet.batch(), Delayed(LATER, since))
    fleet.clock.advance(seconds=FORSAKE_AFTER.total_seconds())
    assert not await ground.is_forsaken(batch), "somebody waits for it"

    await fleet.cancel(job_id)

    assert await ground.is_forsaken(batch)
    assert not await ground.is_forsaken(make_batch(id=batch.id)), "nobody was refused"
    fleet.clock.advance(seconds=-1)
    assert not await ground.is_forsaken(batch)
