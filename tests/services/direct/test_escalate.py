"""Direct calls: at full price, under caps, and every doubtful one is booked."""

import asyncio
from datetime import timedelta
from typing import Any

from proxy.core.ids import CredentialId, JobId
from proxy.core.job import JobState, Released, advance
from proxy.core.lanes import Lane
from proxy.core.outcomes import MAX_FAILURES
from proxy.ports.jobs import JobWrite
from proxy.services.direct.caps import EscalationLimits, LaneCaps
from proxy.services.direct.escalate import UNREACHED_PAUSE, Escalator
from tests.helpers.factories import make_key
from tests.helpers.fake_provider import FakeProvider, right_answer
from tests.helpers.fleet import Fleet
from tests.helpers.loops import settled

CREDENTIAL = CredentialId("credential-1")
SOON = timedelta(minutes=20)


class Line:
    """Holds direct calls at the provider until they are let go."""

    def __init__(self, provider: FakeProvider) -> None:
        self._provider = provider
        self._answer = provider.answer_call
        self.open = asyncio.Event()
        self.waiting = 0
        self.most = 0
        provider.in_the_middle["call"] = self._hold

    async def _hold(self) -> None:
        self._provider.in_the_middle["call"] = self._hold
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await self.open.wait()
        self.waiting -= 1


async def called(fleet: Fleet, rounds: int = 1) -> None:
    for _ in range(rounds):
        await fleet.run("live", "escalate")
        fleet.clock.advance(minutes=5)


async def abandoned(fleet: Fleet) -> Escalator:
    """Have the first instance call, and cut its calls off before they are answered."""
    Line(fleet.provider)
    async with asyncio.TaskGroup() as tasks:
        escalator = fleet.instances[0].make_escalator(tasks)
        await escalator.run_once()
        await settled()
        escalator.abandon()
    return escalator


async def test_an_urgent_job_is_called_directly_and_gets_the_exact_answer() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=SOON)

    await fleet.run("escalate")

    job = await fleet.job(job_id)
    result = await fleet.stores.jobs.result(job_id)
    assert (job.state, job.attempt, job.answered_by) == (JobState.COMPLETED, 1, 1)
    assert result is not None
    assert result.body == right_answer(fleet.bodies[job_id])
    assert fleet.tally.counts["job_ended"] == 1


async def test_the_intent_is_durable_before_the_call() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=SOON)
    seen = []

    async def look() -> None:
        job = await fleet.job(job_id)
        seen.append((job.state, job.holder, job.attempt))

    fleet.provider.in_the_middle["call"] = look
    await fleet.run("escalate")

    assert seen == [(JobState.ESCALATING, "instance-1", 1)]


async def test_jobs_of_the_batch_lane_and_of_paused_credentials_are_not_called() -> None:
    fleet = Fleet()
    await fleet.accept()
    await fleet.accept(deadline=SOON, credential="credential-2")
    await fleet.stores.credentials.pause(
        CredentialId("credential-2"), at=fleet.clock.now(), status=401, body=None
    )

    await fleet.run("escalate")

    assert fleet.provider.requests["call"] == 0


async def test_a_job_of_an_upstream_that_only_others_know_is_left_to_them() -> None:
    fleet = Fleet()
    key = make_key(upstream="new", lane=Lane.INTERACTIVE)
    job_id = await fleet.accept(deadline=SOON, key=key, lane=Lane.INTERACTIVE)

    await fleet.run("escalate")

    job = await fleet.job(job_id)
    assert (job.state, job.attempt) == (JobState.QUEUED, 0)


async def test_a_job_past_its_deadline_is_not_bought_any_more() -> None:
    fleet = Fleet()
    await fleet.accept(deadline=SOON)

    fleet.clock.advance(minutes=20)
    await fleet.run("live", "escalate")

    assert fleet.provider.requests["call"] == 0


async def test_a_job_that_pauses_is_not_called_before_its_time() -> None:
    fleet = Fleet()
    await fleet.accept(deadline=SOON)
    fleet.will("call", "unavailable")

    await fleet.run("escalate", "escalate")
    assert fleet.provider.requests["call"] == 1
    fleet.clock.advance(seconds=2)
    await fleet.run("live", "escalate")

    assert await fleet.states() == {JobState.COMPLETED: 1}


async def test_no_credential_has_more_calls_than_its_cap() -> None:
    fleet = Fleet(escalation=EscalationLimits(interactive=LaneCaps(concurrent=3)))
    await fleet.accept_many(10, deadline=SOON)
    line = Line(fleet.provider)

    async with asyncio.TaskGroup() as tasks:
        escalator = fleet.instances[0].make_escalator(tasks)
        assert await escalator.run_once() == 3
        await settled()
        assert await escalator.run_once() == 0
        assert (escalator.running, line.waiting) == (3, 3)
        line.open.set()
        await settled()
        assert escalator.running == 0
        for _ in range(4):
            await escalator.run_once()
            await settled()

    assert line.most == 3
    assert await fleet.states() == {JobState.COMPLETED: 10}


async def test_all_credentials_together_stay_within_the_total() -> None:
    fleet = Fleet(escalation=EscalationLimits(total=5, interactive=LaneCaps(concurrent=4)))
    await fleet.accept_many(6, deadline=SOON)
    await fleet.accept_many(6, deadline=SOON, credential="credential-2")
    line = Line(fleet.provider)

    async with asyncio.TaskGroup() as tasks:
        escalator = fleet.instances[0].make_escalator(tasks)
        assert await escalator.run_once() == 5
        await settled()
        assert line.waiting == 5
        line.open.set()


async def test_the_nearest_deadline_is_called_first() -> None:
    fleet = Fleet(escalation=EscalationLimits(interactive=LaneCaps(concurrent=1)))
    late = await fleet.accept(deadline=timedelta(minutes=30))
    soon = await fleet.accept(deadline=timedelta(minutes=10))

    await fleet.run("escalate")

    assert (await fleet.job(soon)).state is JobState.COMPLETED
    assert (await fleet.job(late)).state is JobState.QUEUED


async def test_after_stop_no_call_is_started_and_those_under_way_end() -> None:
    fleet = Fleet()
    await fleet.accept(deadline=SOON)
    line = Line(fleet.provider)

    async with asyncio.TaskGroup() as tasks:
        escalator = fleet.instances[0].make_escalator(tasks)
        await escalator.run_once()
        await settled()
        escalator.stop()
        await fleet.accept(deadline=SOON)
        assert await escalator.run_once() == 0
        line.open.set()

    assert await fleet.states() == {JobState.COMPLETED: 1, JobState.QUEUED: 1}


async def test_an_abandoned_call_is_taken_over_as_a_possible_double() -> None:
    fleet = Fleet(instances=2)
    job_id = await fleet.accept(deadline=SOON)
    escalator = await abandoned(fleet)
    assert escalator.running == 0
    assert (await fleet.job(job_id)).state is JobState.ESCALATING

    await fleet.instances[0].leases.leave()
    await fleet.run("live", "rescue", position=1)

    job = await fleet.job(job_id)
    assert (job.state, job.possible_doubles) == (JobState.QUEUED, 1)
    assert fleet.tally.counts["possible_double"] == 1


async def test_a_lost_answer_is_a_possible_double_and_called_again() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=SOON)
    fleet.will("call", "lost_after")

    await fleet.run("escalate")
    job = await fleet.job(job_id)
    assert (job.state, job.possible_doubles, job.failures) == (JobState.QUEUED, 1, 1)
    fleet.clock.advance(seconds=2)
    await fleet.run("live", "escalate")

    assert (await fleet.job(job_id)).state is JobState.COMPLETED
    assert fleet.doubles() == (1, 1)


async def test_a_call_that_takes_too_long_is_cut_off_and_may_be_paid() -> None:
    fleet = Fleet(escalation=EscalationLimits(interactive=LaneCaps(timeout=timedelta(0))))
    job_id = await fleet.accept(lane=Lane.INTERACTIVE)

    async def never() -> None:
        await asyncio.Event().wait()

    fleet.provider.in_the_middle["call"] = never
    await fleet.run("live", "escalate")

    job = await fleet.job(job_id)
    assert (job.state, job.last_reason) == (JobState.QUEUED, "timeout")
    assert (job.failures, job.possible_doubles) == (1, 1)


async def test_a_call_that_did_not_leave_is_no_double_and_no_fault_of_the_job() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(minutes=30))
    fleet.will("call", "lost_before", times=20)

    for _ in range(20):
        await fleet.run("live", "escalate")
        job = await fleet.job(job_id)
        assert job.not_before == fleet.clock.now() + UNREACHED_PAUSE
        fleet.clock.advance(seconds=UNREACHED_PAUSE.total_seconds())
    await fleet.run("live", "escalate")

    job = await fleet.job(job_id)
    assert (job.state, job.failures, job.possible_doubles) == (JobState.COMPLETED, 0, 0)
    assert fleet.doubles() == (0, 0)


async def test_a_provider_that_never_answers_is_not_paid_for_ever() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(hours=20), lane=Lane.INTERACTIVE)
    fleet.will("call", "lost_after", times=50)

    await called(fleet, 50)

    job = await fleet.job(job_id)
    assert job.state is JobState.FAILED
    assert job.outcome is not None
    assert (job.outcome.status_code, job.outcome.error_code) == (None, "provider_unavailable")
    assert fleet.provider.requests["call"] == MAX_FAILURES
    assert fleet.doubles() == (MAX_FAILURES - 1, MAX_FAILURES)


async def test_an_answer_too_long_to_be_read_is_bought_once(monkeypatch) -> None:
    monkeypatch.setattr("proxy.services.direct.call.ANSWER_BYTES_MAX", 1_000)
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(hours=20), lane=Lane.INTERACTIVE)
    fleet.provider.answer_call = lambda _: (200, b"x" * 1_001)

    await called(fleet, 20)

    outcome = (await fleet.job(job_id)).outcome
    assert await fleet.states() == {JobState.FAILED: 1}
    assert outcome is not None
    assert outcome.error_code == "answer_too_long"
    assert outcome.error_message == "the provider's answer is longer than 64 MiB"
    assert fleet.provider.requests["call"] == 1
    assert fleet.doubles() == (0, 1)


async def test_the_last_transient_answer_becomes_the_jobs_own() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(hours=20), lane=Lane.INTERACTIVE)
    fleet.provider.answer_call = lambda _: (503, b'{"error":{"code":"overloaded"}}')

    await called(fleet, 20)

    result = await fleet.stores.jobs.result(job_id)
    assert await fleet.states() == {JobState.FAILED: 1}
    assert result is not None
    assert (result.status_code, result.body) == (503, b'{"error":{"code":"overloaded"}}')
    assert fleet.provider.requests["call"] == MAX_FAILURES


async def test_a_busy_provider_costs_a_job_nothing_but_time() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(hours=20), lane=Lane.INTERACTIVE)
    fleet.will("call", "busy", times=15)

    await called(fleet, 16)

    job = await fleet.job(job_id)
    assert (job.state, job.failures) == (JobState.COMPLETED, 0)


async def test_a_permanent_error_is_final() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=SOON)
    fleet.provider.answer_call = lambda _: (400, b'{"error":{"code":"bad"}}')

    await fleet.run("escalate")

    job = await fleet.job(job_id)
    assert job.state is JobState.FAILED
    assert job.outcome is not None
    assert (job.outcome.status_code, job.outcome.error_code) == (400, "bad")
    assert fleet.provider.requests["call"] == 1


async def test_a_model_that_is_not_open_to_the_account_pauses_nobody() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=SOON)
    refusal = b'{"error":{"code":"model_not_found","message":"no access to model `m`"}}'
    fleet.provider.answer_call = lambda _: (403, refusal)

    await fleet.run("escalate")

    result = await fleet.stores.jobs.result(job_id)
    assert await fleet.states() == {JobState.FAILED: 1}
    assert result is not None
    assert (result.status_code, result.body) == (403, refusal)
    assert fleet.tally.counts["credential_paused"] == 0


async def test_a_call_without_credit_pauses_the_credential_and_burns_no_job() -> None:
    fleet = Fleet()
    await fleet.accept(deadline=SOON)
    fleet.provider.answer_call = lambda _: (402, b'{"error":{"code":402,"message":"credits"}}')

    await fleet.run("escalate")

    assert await fleet.states() == {JobState.QUEUED: 1}
    assert fleet.tally.counts["credential_paused"] == 1


async def test_a_refused_call_pauses_the_credential_and_burns_no_job() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=SOON)
    fleet.provider.revoked.add("Bearer credential-1")

    await fleet.run("escalate")

    job = await fleet.job(job_id)
    credential = await fleet.stores.credentials.get(CREDENTIAL)
    assert credential is not None
    assert (job.state, job.failures) == (JobState.QUEUED, 0)
    assert (credential.pause_status, credential.paused_at) == (401, fleet.clock.now())
    assert credential.pause_body == b'{"error":{"code":"invalid_api_key"}}'


async def test_the_first_success_of_a_credential_verifies_it() -> None:
    fleet = Fleet()
    await fleet.accept(deadline=SOON)

    await fleet.run("escalate")

    credential = await fleet.stores.credentials.get(CREDENTIAL)
    assert credential is not None
    assert credential.succeeded_at == fleet.clock.now()


async def test_an_answer_to_a_cancelled_job_is_counted() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=SOON)
    fleet.provider.in_the_middle["call"] = lambda: fleet.cancel(job_id)

    await fleet.run("escalate")

    assert (await fleet.job(job_id)).state is JobState.CANCELLED
    assert fleet.tally.counts["late_result"] == 1
    assert fleet.tally.counts["job_ended"] == 0


async def test_a_job_erased_during_its_call_is_counted_too() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=SOON)

    async def erased() -> None:
        await fleet.cancel(job_id)
        await fleet.stores.jobs.erase(job_id)

    fleet.provider.in_the_middle["call"] = erased
    await fleet.run("escalate")

    assert fleet.tally.counts["late_result"] == 1


async def test_an_error_for_a_cancelled_job_was_not_bought() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=SOON)
    fleet.provider.answer_call = lambda _: (500, b"{}")
    fleet.provider.in_the_middle["call"] = lambda: fleet.cancel(job_id)

    await fleet.run("escalate")

    assert fleet.tally.counts["late_result"] == 0


async def test_a_job_cancelled_before_its_body_is_read_is_not_called() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=SOON)
    jobs: Any = fleet.instances[0].ground.jobs
    read = jobs.body

    async def cancelled_first(asked: JobId) -> bytes:
        await fleet.cancel(job_id)
        return bytes(await read(asked))

    jobs.body = cancelled_first
    await fleet.run("escalate")

    assert fleet.provider.requests["call"] == 0
    assert await fleet.states() == {JobState.CANCELLED: 1}


async def test_the_answer_of_an_instance_that_was_taken_for_dead_is_still_the_answer() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=SOON)

    async def given_back() -> None:
        job = await fleet.job(job_id)
        released = advance(job, Released(job.attempt, "dead", possible_double=True))
        await fleet.stores.jobs.replace_many([JobWrite(released)])

    fleet.provider.in_the_middle["call"] = given_back
    await fleet.run("escalate")

    job = await fleet.job(job_id)
    assert (job.state, job.answered_by, job.possible_doubles) == (JobState.COMPLETED, 1, 1)
    assert fleet.tally.counts["late_result"] == 0
    await fleet.run("escalate")
    assert fleet.provider.requests["call"] == 1


async def test_two_instances_never_call_the_same_job() -> None:
    fleet = Fleet(instances=2)
    await fleet.accept_many(8, deadline=SOON)

    async with asyncio.TaskGroup() as tasks:
        escalators: list[Escalator] = [one.make_escalator(tasks) for one in fleet.instances]
        await asyncio.gather(*[one.run_once() for one in escalators])

    assert await fleet.states() == {JobState.COMPLETED: 8}
    assert set(fleet.provider.bought.values()) == {1}


async def test_whoever_waits_is_woken_by_the_answer() -> None:
    fleet = Fleet()
    here = fleet.instances[0]
    woken = here.watch_wakes()
    job_id = await fleet.accept(deadline=SOON)

    await fleet.run("escalate")

    assert woken == [job_id]
