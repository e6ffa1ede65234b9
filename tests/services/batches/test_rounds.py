"""What every step of a batch begins with, be it submitted or collected."""

from structlog.testing import capture_logs

from proxy.core.batch import Batch, BatchState, advance
from proxy.core.batch_events import Polled
from proxy.services.batches.rounds import BatchRounds
from tests.helpers.factories import T0, make_batch, make_key
from tests.helpers.fleet import Fleet, Instance


class Stepping:
    """Polls each batch that is due in `IN_PROGRESS`, and remembers which."""

    def __init__(self, instance: Instance) -> None:
        self.batches = instance.ground.batches
        self.stepped: list[Batch] = []
        self.rounds = BatchRounds(
            instance.ground,
            access=instance.access,
            states={BatchState.IN_PROGRESS},
            step=self._step,
            group=lambda _: "all",
        )

    async def _step(self, batch: Batch, *_: object) -> Batch:
        self.stepped.append(batch)
        after = advance(batch, Polled(T0))
        return after if await self.batches.replace(after) else batch


async def test_a_batch_that_is_due_moves_and_is_counted() -> None:
    fleet = Fleet()
    batch = make_batch(state=BatchState.IN_PROGRESS)
    await fleet.stores.batches.add(batch)
    await fleet.stores.batches.add(make_batch(state=BatchState.SEALED))
    here = Stepping(fleet.instances[0])

    assert await here.rounds.run_once() == 1

    assert here.stepped == [batch]


async def test_a_batch_that_another_instance_works_at_is_left_alone() -> None:
    fleet = Fleet(instances=2)
    batch = make_batch(state=BatchState.IN_PROGRESS)
    await fleet.stores.batches.add(batch)
    here = Stepping(fleet.instances[0])

    async with fleet.instances[1].leases.held(f"batch:{batch.id}"):
        assert await here.rounds.run_once() == 0

    assert here.stepped == []


async def test_a_batch_of_an_upstream_that_has_no_batches_here_is_told_of() -> None:
    fleet = Fleet()
    await fleet.stores.batches.add(
        make_batch(state=BatchState.IN_PROGRESS, key=make_key(upstream="new"))
    )
    here = Stepping(fleet.instances[0])

    with capture_logs() as said:
        assert await here.rounds.run_once() == 0

    assert here.stepped == []
    assert [(line["event"], line["upstream"]) for line in said] == [("batch.stranded", "new")]


async def test_a_batch_that_moved_on_since_it_was_listed_is_left_alone() -> None:
    fleet = Fleet()
    instance = fleet.instances[0]
    batch = make_batch(state=BatchState.IN_PROGRESS)
    await fleet.stores.batches.add(batch)
    here = Stepping(instance)
    moved = make_batch(id=batch.id, state=BatchState.ENDED)
    # As if the listing were older than the look under the lease.
    fleet.stores.batches.live = _listing(batch)  # type: ignore[method-assign]
    fleet.stores.batches._memory.batches[batch.id] = moved

    assert await here.rounds.run_once() == 0

    assert here.stepped == []


def _listing(batch: Batch):
    async def live() -> list[Batch]:
        return [batch]

    return live
