"""Histories of a small fleet: crashes, frozen instances, lost answers, late news.

After each step: no job is lost, none changes once it ended, none has two owners'
batches. At the end, with all faults gone and a day passed: every job ended, with
its one right answer, and nothing was bought twice that is not booked as such.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.core.ids import JobId
from proxy.core.job import JobState
from tests.helpers.fake_provider import Fault, right_answer
from tests.helpers.fleet import Fleet, Instance

T = TypeVar("T")

INSTANCES = 2
PASSES = ("live", "flush", "submit", "collect", "escalate", "rescue")
CREDENTIALS = ("credential-1", "credential-2")
OPERATIONS = ("upload", "create", "find_batches", "retrieve", "cancel", "results", "call")


class FleetMachine(RuleBasedStateMachine):
    """What can happen to a fleet, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.fleet = self._make_fleet()
        self.frozen: dict[Instance, asyncio.Task[bool]] = {}
        self.ended: dict[JobId, tuple[JobState, datetime]] = {}

    def _make_fleet(self) -> Fleet:
        return Fleet(instances=INSTANCES)

    def go(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(
        count=st.integers(1, 12),
        minutes=st.sampled_from([5, 31, 40, 90, 600, 1560]),
        credential=st.sampled_from(CREDENTIALS),
    )
    def accept(self, count: int, minutes: int, credential: str) -> None:
        for _ in range(count):
            self.go(self.fleet.accept(deadline=timedelta(minutes=minutes), credential=credential))

    @rule(minutes=st.sampled_from([0.1, 1, 2, 8, 30, 240]))
    def time_passes(self, minutes: float) -> None:
        self.fleet.clock.advance(minutes=minutes)

    @rule(position=st.integers(0, INSTANCES - 1), name=st.sampled_from(PASSES))
    def a_pass_runs(self, position: int, name: str) -> None:
        self.go(self.fleet.instances[position].run(name))

    @rule(position=st.integers(0, INSTANCES - 1))
    def every_pass_runs(self, position: int) -> None:
        self.go(self.fleet.round(position))

    @rule(names=st.tuples(st.sampled_from(PASSES), st.sampled_from(PASSES)))
    def two_instances_run_at_once(self, names: tuple[str, str]) -> None:
        async def both() -> None:
            first, second = self.fleet.instances[:2]
            await asyncio.gather(first.run(names[0]), second.run(names[1]))

        self.go(both())

    @rule(
        position=st.integers(0, INSTANCES - 1),
        name=st.sampled_from(PASSES),
        steps=st.integers(0, 25),
    )
    def an_instance_dies_in_a_pass(self, position: int, name: str, steps: int) -> None:
        instance = self.fleet.instances[position]
        instance.steps_left = steps
        self.go(instance.run(name))
        self.fleet.kill(position)

    @rule(
        position=st.integers(0, INSTANCES - 1),
        name=st.sampled_from(PASSES),
        steps=st.integers(0, 25),
    )
    def an_instance_freezes_in_a_pass(self, position: int, name: str, steps: int) -> None:
        instance = self.fleet.instances[position]
        instance.frozen_after = steps
        task = self.loop.create_task(instance.run(name))

        async def until_it_stands_still() -> None:
            while not task.done() and not instance.is_frozen:
                await asyncio.sleep(0)

        self.go(until_it_stands_still())
        if task.done():
            instance.frozen_after = None
            return
        self.frozen[instance] = task
        # Another one takes its place; the frozen one wakes up one day, or never.
        self.fleet.kill(position)

    @rule()
    def the_frozen_wake_up(self) -> None:
        for instance, task in self.frozen.items():
            instance.thaw()
            self.go(_ended(task))
        self.frozen.clear()

    @rule(
        operation=st.sampled_from(OPERATIONS),
        fault=st.sampled_from(["lost_before", "lost_after", "busy", "unavailable"]),
    )
    def the_provider_will_fail(self, operation: str, fault: Fault) -> None:
        faults = self.fleet.provider.faults.setdefault(operation, deque())
        if len(faults) < 3:
            faults.append(fault)

    @rule(
        code=st.sampled_from(
            ["token_limit_exceeded", "model_not_found", "invalid_json_line", "strange"]
        )
    )
    def a_batch_will_fail_validation(self, code: str) -> None:
        if len(self.fleet.provider.fail_next) < 2:
            line = 1 if code == "invalid_json_line" else None
            self.fleet.provider.fail_next.append((code, line))

    @rule(stalled=st.booleans())
    def batches_take_their_time(self, stalled: bool) -> None:
        self.fleet.provider.stalled = stalled

    @rule(share=st.floats(0, 1))
    def a_batch_expires_early(self, share: float) -> None:
        for batch in self.fleet.provider.batches.values():
            if batch.status == "in_progress":
                executed = int(share * len(batch.lines))
                self.fleet.provider.finish(batch.id, "expired", executed=executed)
                return

    @rule(pick=st.integers(0, 10_000))
    def a_caller_cancels(self, pick: int) -> None:
        if self.fleet.bodies:
            job_ids = list(self.fleet.bodies)
            self.go(self.fleet.cancel(job_ids[pick % len(job_ids)]))

    @invariant()
    def no_job_is_lost_and_an_end_is_an_end(self) -> None:
        jobs = self.go(self.fleet.jobs())
        assert len(jobs) == len(self.fleet.bodies)
        for job in jobs:
            if job.id in self.ended:
                assert (job.state, job.finalized_at) == self.ended[job.id]
            elif job.state.is_terminal:
                assert job.finalized_at is not None
                self.ended[job.id] = (job.state, job.finalized_at)

    @invariant()
    def no_batch_holds_two_credentials(self) -> None:
        bodies = {body: job_id for job_id, body in self.fleet.bodies.items()}
        jobs = {job.id: job for job in self.go(self.fleet.jobs())}
        for batch in self.fleet.provider.batches.values():
            tokens = {f"Bearer {jobs[bodies[body]].key.credential}" for _, body in batch.lines}
            assert tokens <= {batch.owner_token}

    def teardown(self) -> None:
        try:
            self._let_all_end()
            self.no_job_is_lost_and_an_end_is_an_end()
            self._every_job_has_its_answer()
            extra, booked = self.fleet.doubles()
            assert extra <= booked, f"{extra} bought twice, {booked} booked"
        finally:
            self.loop.close()

    def _let_all_end(self) -> None:
        """Take all faults away and let up to two windows pass."""
        self.the_frozen_wake_up()
        provider = self.fleet.provider
        provider.faults.clear()
        provider.fail_next.clear()
        provider.stalled = False
        self.go(self.fleet.run_for(timedelta(minutes=3), step=timedelta(seconds=20)))
        for _ in range(60):
            if not self.go(self.fleet.stores.batches.live()) and all(
                job.state.is_terminal for job in self.go(self.fleet.jobs())
            ):
                return
            self.go(self.fleet.run_for(timedelta(hours=1), step=timedelta(minutes=20)))
        live = self.go(self.fleet.stores.batches.live())
        jobs = [job for job in self.go(self.fleet.jobs()) if not job.state.is_terminal]
        raise AssertionError(f"these never end: {live} {jobs}")

    def _every_job_has_its_answer(self) -> None:
        for job in self.go(self.fleet.jobs()):
            assert job.state.is_terminal, f"{job.id} is {job.state} for ever"
            result = self.go(self.fleet.stores.jobs.result(job.id))
            if job.state is JobState.COMPLETED:
                assert result is not None
                assert result.body == right_answer(self.fleet.bodies[job.id])
            else:
                assert job.state in (JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED)


async def _ended(task: asyncio.Task[bool]) -> None:
    await task


TestFleet = FleetMachine.TestCase
TestFleet.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
