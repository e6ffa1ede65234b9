"""What a batch may hold, and how it is claimed."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from proxy.core.batch import BatchState
from proxy.core.job import JobState
from proxy.core.lanes import Lane
from proxy.ports.provider import BatchLimits
from tests.helpers.factories import IDS, make_credential, make_job, make_key, new_job
from tests.helpers.fake_provider import FakeProvider
from tests.helpers.fleet import Fleet

KEY = make_key(endpoint="/v1/embeddings", model="text-embedding-3-small")
HOUR = timedelta(hours=1)


class CountingProvider(FakeProvider):
    """Refuses batches with more than 50,000 inputs, without a line to blame."""

    most = 50_000
    """How many calls a batch may have."""

    def limits(self, endpoint: str) -> BatchLimits:
        return replace(super().limits(endpoint), max_requests=self.most, max_inputs=50_000)

    async def create(self, credential: Any, submission: Any, file_id: Any) -> Any:
        content = self.files[file_id][1]
        lines = [json.loads(line)["body"] for line in content.splitlines()]
        if sum(len(line.get("input", "")) for line in lines) > 50_000:
            self.fail_next.append(("too_many_tasks", None))
        return await super().create(credential, submission, file_id)


async def embed(fleet: Fleet, calls: int, *, inputs: int) -> None:
    now = fleet.clock.now()
    await fleet.stores.credentials.remember(make_credential())
    for _ in range(calls):
        body = json.dumps({"input": ["x"] * inputs, "n": len(fleet.bodies)}).encode()
        job = make_job(
            id=IDS.job(now),
            key=KEY,
            accepted_at=now,
            deadline=now + 26 * HOUR,
            body_bytes=len(body),
        )
        await fleet.stores.jobs.accept(new_job(job, body=body))
        fleet.bodies[job.id] = body


def counting_fleet(*, most: int = CountingProvider.most) -> Fleet:
    fleet = Fleet()
    # Each instance holds the provider that it was born with.
    fleet.provider = provider = CountingProvider(fleet.clock)
    provider.most = most
    fleet.provider.max_bytes = 200_000_000
    fleet.kill(0)
    return fleet


async def test_embeddings_of_many_inputs_are_all_bought_in_batches_that_hold_them() -> None:
    fleet = counting_fleet()
    # Longer than what a refusal is remembered for.
    fleet.provider.turnaround = HOUR
    await embed(fleet, 700, inputs=2_048)

    await fleet.run_for(6 * HOUR, step=timedelta(minutes=1))

    jobs = await fleet.jobs()
    assert {(job.state, job.lane) for job in jobs} == {(JobState.COMPLETED, Lane.BATCH)}
    assert {job.failures for job in jobs} == {0}
    batches = await fleet.stores.batches.recent(limit=100)
    assert {batch.end_reason for batch in batches} == {"completed"}
    assert len(batches) == 30  # of 24 calls each


async def test_a_call_that_cannot_be_read_keeps_no_batch_from_being_filled() -> None:
    fleet = counting_fleet()
    await embed(fleet, 30, inputs=1)
    damaged, *others = fleet.bodies
    fleet.stores.jobs.damaged_bodies.add(damaged)
    fine = await fleet.accept_many(12)

    await fleet.run_for(HOUR, step=timedelta(minutes=1))
    assert {(await fleet.job(one)).state for one in fine} == {JobState.COMPLETED}

    await fleet.run_for(26 * HOUR, step=timedelta(minutes=5))
    assert {(await fleet.job(one)).state for one in others} == {JobState.COMPLETED}
    assert (await fleet.job(damaged)).state is JobState.EXPIRED


async def test_calls_of_one_input_each_share_one_batch() -> None:
    fleet = counting_fleet()
    await embed(fleet, 1_000, inputs=1)
    fleet.clock.advance(seconds=60)

    await fleet.run("live", "flush")

    assert (await fleet.batch()).count == 1_000


async def test_calls_of_few_inputs_fill_no_batch_beyond_its_calls() -> None:
    fleet = counting_fleet(most=100)
    await embed(fleet, 300, inputs=1)
    fleet.clock.advance(seconds=60)

    await fleet.run("live", "flush")

    batches = await fleet.stores.batches.recent(limit=10)
    assert [batch.count for batch in batches] == [100] * 3


async def test_a_batch_that_a_dead_instance_was_filling_is_filled_with_inputs_in_mind() -> None:
    fleet = counting_fleet()
    await embed(fleet, 60, inputs=2_048)
    fleet.clock.advance(seconds=60)
    fleet.instances[0].steps_left = 8

    assert not await fleet.instances[0].run("flush")
    fleet.kill(0)
    fleet.clock.advance(seconds=60)
    await fleet.run("live", "flush")

    batches = await fleet.stores.batches.recent(limit=10)
    assert {batch.state for batch in batches} == {BatchState.SEALED}
    assert sorted(batch.count for batch in batches) == [12, 24, 24]
