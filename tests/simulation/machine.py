"""What can happen to a small fleet, in any order, and what must hold all the same.

`FleetMachine` knows everything that happens in a fleet whose instances live and whose
paid answers arrive: refusals, unclear creates, revoked keys, failed and expired
batches. In it nothing is bought twice, and nothing is booked as if it might have been.

`WildFleetMachine` adds what makes a purchase doubtful: instances that die or stand still
at any step, lost answers of direct calls, lost lines, lost batches. In it whatever is
bought twice is booked.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar, get_args

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.core.batch import BatchState
from proxy.core.ids import JobId
from proxy.core.job import Failed, Job, JobState, Outcome, Released, advance
from proxy.ports.jobs import JobWrite
from proxy.ports.provider import LineKind, ResultLine
from proxy.services.batches.ingest import Ingested
from tests.helpers.fake_provider import FakeBatch, Fault, right_answer
from tests.helpers.fleet import Fleet, Instance

T = TypeVar("T")

INSTANCES = 2
PASSES = ("live", "flush", "submit", "collect", "escalate", "rescue")
CREDENTIALS = ("credential-1", "credential-2")
# Before anything was done, or at no cost: none of them makes a purchase doubtful.
HARMLESS: tuple[Fault, ...] = ("lost_before", "busy", "unavailable")
LOSSY: tuple[Fault, ...] = (*HARMLESS, "lost_after")
FREE = ("upload", "create", "find_batches", "retrieve", "cancel", "delete_file")

Trouble = tuple[str, Fault | None]


def troubles(operations: Sequence[str], faults: Sequence[Fault]) -> st.SearchStrategy[Trouble]:
    """Draw an operation and what will befall it: often nothing."""
    return st.tuples(st.sampled_from(operations), st.sampled_from((None, *faults)))


positions = st.integers(0, INSTANCES - 1)
picks = st.integers(0, 10_000)
passes = st.sampled_from(PASSES)
busy = st.sampled_from(("flush", "submit", "submit", "collect", "escalate"))


class FleetMachine(RuleBasedStateMachine):
    """A fleet whose instances live and whose paid answers arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.fleet = Fleet(stores=self.go(self.open_stores()), instances=INSTANCES)
        self.ended: dict[JobId, tuple[JobState, datetime | None]] = {}
        self.handed_over: set[tuple[JobId, int]] = set()
        self.line_faults: deque[int | None] = deque()
        self.fleet.provider.answer_line = self._answer_line

    async def open_stores(self) -> Any:
        """Return the stores of the fleet; nothing means: in memory."""
        return None

    async def close_stores(self) -> None:
        """Close what `open_stores` opened."""

    def go(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def _answer_line(self, _: str, body: bytes) -> tuple[int, bytes] | None:
        fault = self.line_faults.popleft() if self.line_faults else 200
        if fault is None:
            return None
        return fault, right_answer(body) if fault == 200 else b'{"error":{"code":"server_error"}}'

    @initialize(count=st.integers(1, 12))
    def some_jobs_are_there(self, count: int) -> None:
        self._accept(count, timedelta(hours=26), CREDENTIALS[0])

    @rule(
        count=st.integers(1, 12),
        minutes=st.sampled_from([31, 40, 90, 600, 1560]),
        credential=st.sampled_from(CREDENTIALS),
        position=positions,
        fault=troubles(("upload", "create"), LOSSY),
    )
    def a_batch_goes_out(
        self, count: int, minutes: int, credential: str, position: int, fault: Trouble
    ) -> None:
        self._accept(count, timedelta(minutes=minutes), credential)
        self._will_fail(*fault)
        self._run_after(61, position, "flush", "submit")

    @rule(
        count=st.integers(1, 4),
        minutes=st.sampled_from([5, 31]),
        credential=st.sampled_from(CREDENTIALS),
        position=positions,
        fault=troubles(("call",), HARMLESS),
    )
    def urgent_calls_go_out(
        self, count: int, minutes: int, credential: str, position: int, fault: Trouble
    ) -> None:
        self._accept(count, timedelta(minutes=minutes), credential)
        self._will_fail(*fault)
        self._run_after(0, position, "escalate")

    @rule(
        seconds=st.sampled_from([10, 31, 31, 61, 150, 500, 1_800, 14_400]),
        fault=troubles(FREE, LOSSY),
    )
    def time_passes_and_all_run(self, seconds: int, fault: Trouble) -> None:
        self._will_fail(*fault)
        self.fleet.clock.advance(seconds=seconds)
        for position in range(INSTANCES):
            self.go(self.fleet.round(position))

    @rule(seconds=st.sampled_from([6, 61, 1_800, 14_400]), names=st.tuples(passes, passes))
    def two_instances_run_at_once(self, seconds: int, names: tuple[str, str]) -> None:
        self.fleet.clock.advance(seconds=seconds)

        async def both() -> None:
            first, second = self.fleet.instances[:2]
            await asyncio.gather(first.run(names[0]), second.run(names[1]))

        self.go(both())

    def _accept(self, count: int, deadline: timedelta, credential: str) -> None:
        self.go(self.fleet.accept_many(count, deadline=deadline, credential=credential))

    def _run_after(self, seconds: float, position: int, *names: str) -> None:
        self.fleet.clock.advance(seconds=seconds)
        for name in ("live", *names):
            self.go(self.fleet.instances[position].run(name))

    @rule(fault=troubles(("results", *FREE), HARMLESS))
    def the_provider_will_fail(self, fault: Trouble) -> None:
        self._will_fail(*fault)

    def _will_fail(self, operation: str, fault: Fault | None) -> None:
        faults = self.fleet.provider.faults.setdefault(operation, deque())
        if fault is not None and len(faults) < 3:
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

    @rule(
        stalled=st.booleans(),
        cancel_minutes=st.sampled_from([0, 5, 25]),
        twice=st.booleans(),
        lines=st.lists(st.sampled_from([200, 500]), max_size=6),
    )
    def batches_will_behave_so(
        self, stalled: bool, cancel_minutes: int, twice: bool, lines: list[int]
    ) -> None:
        self.fleet.provider.stalled = stalled
        self.fleet.provider.cancel_time = timedelta(minutes=cancel_minutes)
        self.fleet.provider.mangle = lambda found: found + found[:4] if twice else found
        self.line_faults.extend(lines)

    @rule(pick=picks, share=st.floats(0, 1))
    def a_batch_expires_early(self, pick: int, share: float) -> None:
        running = self.running()
        if running:
            batch = running[pick % len(running)]
            executed = int(share * len(batch.lines))
            self.fleet.provider.finish(batch.id, "expired", executed=executed)

    @rule(credential=st.sampled_from(CREDENTIALS), revoked=st.booleans())
    def a_key_is_revoked_or_restored(self, credential: str, revoked: bool) -> None:
        keys = self.fleet.provider.revoked
        (keys.add if revoked else keys.discard)(f"Bearer {credential}")

    @rule(pick=picks)
    def a_caller_cancels(self, pick: int) -> None:
        pending = [job_id for job_id in self.fleet.bodies if job_id not in self.ended]
        if pending:
            self.go(self.fleet.cancel(pending[pick % len(pending)]))

    @rule()
    def a_caller_will_cancel_in_the_middle_of_a_call(self) -> None:
        async def cancel() -> None:
            for job in await self.fleet.jobs():
                if job.state is JobState.ESCALATING:
                    await self.fleet.cancel(job.id)

        self.fleet.provider.in_the_middle["call"] = cancel

    @rule(
        pick=picks,
        failed=st.booleans(),
    )
    def late_news_of_an_old_attempt_arrives(self, pick: int, failed: bool) -> None:
        """Whoever held an old attempt says that it ended badly, when another one runs."""
        known = sorted(self.handed_over)
        if not known:
            return
        job_id, attempt = known[pick % len(known)]
        job = self.go(self.fleet.job(job_id))
        if job.attempt == attempt:
            return
        now = self.fleet.clock.now()
        event = Failed(attempt, now, Outcome(500)) if failed else Released(attempt, "late news")
        after = advance(job, event)
        if after is not job:
            self.go(self.fleet.stores.jobs.replace_many([JobWrite(after)]))

    def running(self) -> list[FakeBatch]:
        batches = self.fleet.provider.batches.values()
        return [batch for batch in batches if batch.status == "in_progress"]

    @invariant()
    def no_job_is_lost_and_an_end_is_an_end(self) -> None:
        jobs = self.go(self.fleet.jobs())
        assert len(jobs) == len(self.fleet.bodies)
        for job in jobs:
            if job.state in (JobState.BATCHED, JobState.ESCALATING):
                self.handed_over.add((job.id, job.attempt))
            if job.id in self.ended:
                assert (job.state, job.finalized_at) == self.ended[job.id]
            elif job.state.is_terminal:
                self.ended[job.id] = (job.state, job.finalized_at)
                self.has_ended(job)

    def has_ended(self, job: Job) -> None:
        """Check a job in the step that ended it."""
        if job.state is JobState.EXPIRED:
            assert job.finalized_at is not None
            assert job.finalized_at >= job.deadline
            if job.possible_doubles == 0:
                assert not self._in_flight(job), "an expired job was being computed"
        if job.state is JobState.FAILED:
            self._has_failed_for_a_reason(job)

    def _in_flight(self, job: Job) -> bool:
        body = self.fleet.bodies[job.id]
        return any(
            body in [line for _, line in batch.lines]
            for batch in self.fleet.provider.batches.values()
            if batch.status in ("in_progress", "cancelling")
        )

    def _has_failed_for_a_reason(self, job: Job) -> None:
        assert job.outcome is not None
        assert job.finalized_at is not None
        if job.outcome.error_code == "credential_paused":
            assert job.outcome.status_code == 401
            assert job.finalized_at >= job.deadline, "a refused key may be restored until then"
        else:
            assert job.failures >= 6, f"{job.id} failed too soon: {job.outcome}"

    @invariant()
    def no_batch_holds_two_credentials(self) -> None:
        bodies = {body: job_id for job_id, body in self.fleet.bodies.items()}
        jobs = {job.id: job for job in self.go(self.fleet.jobs())}
        for batch in self.fleet.provider.batches.values():
            tokens = {f"Bearer {jobs[bodies[body]].key.credential}" for _, body in batch.lines}
            assert tokens <= {batch.owner_token}

    @invariant()
    def what_is_bought_is_booked(self) -> None:
        assert set(self.fleet.provider.bought.values()) <= {0, 1}
        assert self.fleet.tally.counts["possible_double"] == 0
        assert self.fleet.tally.counts["batch_twin"] == 0

    def teardown(self) -> None:
        try:
            self._let_all_end()
            self.no_job_is_lost_and_an_end_is_an_end()
            self._every_job_has_its_answer()
            self.what_is_bought_is_booked()
            self.the_bill_is_known()
        finally:
            self.go(self.close_stores())
            self.loop.close()

    def the_bill_is_known(self) -> None:
        """Every answer was of use to its job, or is counted as one that was not."""
        bought = self.fleet.provider.bought
        useless = 0
        for job in self.go(self.fleet.jobs()):
            times = bought[self.fleet.bodies[job.id]]
            if job.state is JobState.COMPLETED:
                assert times == 1
            else:
                useless += times
        assert self.fleet.tally.counts["late_result"] == useless
        booked = self.go(self.fleet.booked())
        ended = [job for job in self.go(self.fleet.jobs()) if job.state.is_terminal]
        assert (booked.jobs, booked.answers, booked.useless) == (
            len(ended),
            sum(job.state is JobState.COMPLETED for job in ended),
            useless,
        )
        assert booked.paid_nano + booked.useless_nano == self.fleet.provider.spent_nano

    def _let_all_end(self) -> None:
        """Take all faults away, restore the keys, and let up to two windows pass."""
        provider = self.fleet.provider
        for fault in (provider.faults, provider.fail_next, provider.revoked, self.line_faults):
            fault.clear()
        provider.stalled = False
        self.go(self.fleet.run_for(timedelta(minutes=3), step=timedelta(seconds=20)))
        for _ in range(60):
            live = self.go(self.fleet.stores.batches.live())
            pending = [job for job in self.go(self.fleet.jobs()) if not job.state.is_terminal]
            if not live and not pending:
                return
            self.go(self.fleet.run_for(timedelta(hours=1), step=timedelta(minutes=20)))
        raise AssertionError(f"these never end: {live} {pending}")

    def _every_job_has_its_answer(self) -> None:
        for job in self.go(self.fleet.jobs()):
            assert job.state.is_terminal, f"{job.id} is {job.state} for ever"
            if job.state is JobState.COMPLETED:
                result = self.go(self.fleet.stores.jobs.result(job.id))
                assert result is not None
                assert result.body == right_answer(self.fleet.bodies[job.id])


class WildFleetMachine(FleetMachine):
    """The same, with all that makes a purchase doubtful."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen: dict[Instance, asyncio.Task[bool]] = {}
        self.has_frozen = False

    @rule(position=positions, name=busy, steps=st.integers(0, 30))
    def an_instance_dies_in_a_pass(self, position: int, name: str, steps: int) -> None:
        instance = self._prepared(position, name)
        instance.steps_left = steps
        self.go(instance.run(name))
        self.fleet.kill(position)

    @rule(position=positions, name=busy, steps=st.integers(0, 30))
    def an_instance_freezes_in_a_pass(self, position: int, name: str, steps: int) -> None:
        instance = self._prepared(position, name)
        instance.frozen_after = steps
        task = self.loop.create_task(instance.run(name))

        async def until_it_stands_still() -> None:
            while not task.done() and not instance.is_frozen:
                await asyncio.sleep(0.001 if self.fleet.has_threads else 0)

        self.go(until_it_stands_still())
        if task.done():
            instance.frozen_after = None
            return
        self.has_frozen = True
        self.frozen[instance] = task
        # Another one takes its place; the frozen one wakes up one day, or never.
        self.fleet.kill(position)

    def _prepared(self, position: int, name: str) -> Instance:
        """Let there be something to do: a pass without work is no place to die."""
        urgent = name == "escalate"
        self._accept(2, timedelta(minutes=31 if urgent else 600), CREDENTIALS[0])
        waits = {"flush": 61, "submit": 61, "collect": 450}
        self._run_after(waits.get(name, 0), position, *(["flush"] if name == "submit" else []))
        return self.fleet.instances[position]

    @rule()
    def the_frozen_wake_up(self) -> None:
        for instance, task in self.frozen.items():
            instance.thaw()
            self.go(_ended(task))
        self.frozen.clear()

    @rule(
        operation=st.sampled_from(("results", "call")),
        lines=st.lists(st.sampled_from([200, 500, None]), max_size=6),
    )
    def paid_answers_will_be_lost(self, operation: str, lines: list[int | None]) -> None:
        self._will_fail(operation, "lost_after")
        self.line_faults.extend(lines)

    @rule(pick=picks, lag_minutes=st.sampled_from([0, 1, 20]))
    def the_provider_forgets_or_remembers(self, pick: int, lag_minutes: int) -> None:
        self.fleet.provider.listing_lag = timedelta(minutes=lag_minutes)
        running = self.running()
        if self.fleet.provider.hidden or not running:
            self.fleet.provider.hidden.clear()
        else:
            self.fleet.provider.hidden.add(running[pick % len(running)].id)

    @rule(pick=picks, position=positions)
    def a_result_file_is_read_again(self, pick: int, position: int) -> None:
        """What an instance that died or stood still read is read once more, much later."""
        live = self.go(self.fleet.stores.batches.live())
        ended = [one for one in live if one.state is BatchState.ENDED and one.provider_batch_id]
        if not ended:
            return
        batch = ended[pick % len(ended)]
        assert batch.provider_batch_id is not None
        lines = self.fleet.provider.batches[batch.provider_batch_id].results
        here = self.fleet.instances[position]
        source = f"out-{batch.provider_batch_id}"
        self.go(here.ingestor.ingest(batch, _chunks(lines), Ingested(), source=source))

    def has_ended(self, job: Job) -> None:
        # A call or a create that stands still in the sender's hands is seen by nobody.
        if not (self.has_frozen and job.state is JobState.EXPIRED):
            super().has_ended(job)

    @invariant()
    def what_is_bought_is_booked(self) -> None:
        """Nothing can be said before the end: what is in flight is not read yet."""

    def the_bill_is_known(self) -> None:
        sums = self.go(self.fleet.booked())
        known, spent = sums.paid_nano + sums.useless_nano, self.fleet.provider.spent_nano
        assert known <= spent
        # A twin that nobody could read is counted, and has no known price.
        assert spent <= known + sums.possible_nano or sums.possible_unpriced
        # By the ledger alone: counters of a process that died amid a booking miss it.
        bought = self.fleet.provider.bought.total()
        booked = sums.answers + sums.useless + sums.possible_doubles
        assert bought <= booked, f"{bought} bought, {booked} booked"

    def _let_all_end(self) -> None:
        self.the_frozen_wake_up()
        self.fleet.provider.hidden.clear()
        self.fleet.provider.listing_lag = timedelta(0)
        super()._let_all_end()


async def _chunks(lines: Sequence[ResultLine]) -> AsyncIterator[Sequence[ResultLine]]:
    yield [line for line in lines if line.kind is LineKind.ANSWERED]


async def _ended(task: asyncio.Task[bool]) -> None:
    await task


assert set(LOSSY) <= set(get_args(Fault))
