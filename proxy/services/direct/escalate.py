"""Call jobs one by one: those that no batch can answer in time, or not any cheaper.

The intent is durable before the call: a record in `ESCALATING` names who calls.
A direct call cannot be found again at a provider, so one that got no whole answer
is booked as a possible double: known, shown, never silent.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import structlog

from proxy.core.errors import (
    JobNotFoundError,
    ProviderError,
    ProxyError,
    StoreCorruptError,
    StoreError,
)
from proxy.core.ids import JobId
from proxy.core.job import (
    Escalated,
    Failed,
    Job,
    JobEvent,
    Outcome,
    Released,
    advance,
)
from proxy.core.lanes import CALL_LANES, Lane
from proxy.core.outcomes import (
    ANSWER_TOO_LONG,
    MAX_FAILURES,
    after_answer,
    after_overlong,
    backoff,
)
from proxy.core.plan import Head, fair_order
from proxy.ports.jobs import Credential, JobWrite, Result
from proxy.ports.tasks import TaskOwner
from proxy.services.access import Access
from proxy.services.direct.budget import Budget
from proxy.services.direct.call import DirectCaller
from proxy.services.direct.caps import EscalationLimits, LaneUse, Rate
from proxy.services.direct.finish import Finisher
from proxy.services.direct.lessons import Lessons
from proxy.services.ground import Ground
from proxy.services.outlook import Outlook
from proxy.services.unread import UnreadQueues
from proxy.services.waiters import Waiters

log = structlog.get_logger()

UNREACHED_PAUSE: Final = timedelta(seconds=10)
"""Until the next try of a call that did not leave: an outage is no fault of the job."""

UNREAD_PARTS: Final = 20
"""A call that cannot be read is tried again after this part of the time to its deadline (a
twentieth): thousands of such calls may have been sealed with a key that is gone."""

CALLS_LOOKED_AT: Final = 10_000
"""More than all instances of a fleet make at once: the others' calls must not hide a lost one."""


class Escalator:
    """Calls due jobs; `run_once` starts calls, and they end at their own pace.

    `tasks` owns the calls. After `stop()` no new one is started.
    """

    def __init__(  # noqa: PLR0913 - collaborators, each by its name
        self,
        ground: Ground,
        *,
        access: Access,
        caller: DirectCaller,
        waiters: Waiters,
        limits: EscalationLimits,
        outlook: Outlook,
        budget: Budget,
        tasks: TaskOwner,
    ) -> None:
        self._ground = ground
        self._access = access
        self._caller = caller
        self._finisher = Finisher(ground, waiters=waiters)
        self._limits = limits
        self._outlook = outlook
        self._lessons = Lessons(ground, access=access, outlook=outlook)
        self._budget = budget
        self._tasks = tasks
        self._calls: set[asyncio.Task[None]] = set()
        self._own: set[tuple[JobId, int]] = set()
        """Job and attempt of every call that begins here, is under way, or cannot be recorded.
        Given back, a job of the last kind would be bought again and again."""

        self._running: Counter[LaneUse] = Counter()
        self._rate = Rate()
        self._unread = UnreadQueues()
        self._stopping = False

    @property
    def running(self) -> int:
        """How many calls are under way."""
        return self._running.total()

    def stop(self) -> None:
        """Start no further calls."""
        self._stopping = True

    def abandon(self) -> None:
        """Cut off what is under way; another instance books it as a possible double."""
        self.stop()
        for call in self._calls:
            call.cancel()

    async def run_once(self) -> int:
        """Start as many due calls as the caps allow; return how many."""
        if self._stopping:
            return 0
        heads = await self._ground.batches.heads()
        # Every instance accepts calls, and only one of them flushes.
        self._outlook.saw_heads(heads)
        heads = [head for head in heads if self._outlook.knows(head.key.upstream)]
        started = 0
        for lane in CALL_LANES:
            for head in fair_order([head for head in heads if head.key.lane is lane]):
                # Where something cannot be read, calls wait for another instance, or the operator.
                begun = self._start_some(head)
                started += await self._unread.apart(head.key, begun, jobs=head.count) or 0
        return started

    async def release_lost(self) -> int:
        """Give back jobs that the store says we are calling and we are not; return how many.

        Where the store's answer to the intent was lost, the intent may have been written
        all the same. Nothing was sent then, and nobody else cares for the job while this
        instance lives.
        """
        if self._stopping:
            return 0
        said = await self._ground.queue.escalating(limit=CALLS_LOOKED_AT)
        mine = [job for job in said if job.holder == self._ground.leases.instance]
        lost = [job for job in mine if (job.id, job.attempt) not in self._own]
        for job in lost:
            event = Released(job.attempt, "its call did not begin", uncharged=True)
            await self._finisher.finish(job, event, None)
        if lost:
            log.warning("job.rescued", jobs=len(lost))
        return len(lost)

    async def _start_some(self, head: Head) -> int:
        """Start the most urgent calls of `head`, as many as its caps leave room for."""
        now = self._ground.now()
        if head.paused or not self._lessons.may_call(head.key, now):
            return 0
        free = self._free((head.key.lane, head.key.credential))
        if free <= 0:
            return 0
        ready = await self._ground.queue.take(head.key, ready_at=now, limit=free)
        # An overdue one is no use to anybody, and ends by itself.
        jobs = [job for job in ready if job.deadline > now]
        if head.key.lane is Lane.FLEX:
            return sum([await self._start(job, now) for job in jobs])
        # What the budget bounds are calls at full price.
        reserved = jobs[: await self._budget.reserve(head.key.credential, jobs)]
        started: set[JobId] = set()
        try:
            for job in reserved:
                if await self._start(job, now):
                    started.add(job.id)
        finally:
            # Instances take the same jobs at the same moment, and each is called by one.
            left = [job for job in reserved if job.id not in started]
            await self._budget.give_back(head.key.credential, left, reserved_at=now)
        return len(started)

    def _free(self, use: LaneUse) -> int:
        """Return how many calls may begin in this use of a lane now; none if negative."""
        caps = self._limits.of(use[0])
        return min(
            self._limits.total - self.running,
            caps.concurrent - self._running[use],
            self._rate.left(use, caps.calls_per_s, self._ground.clock.monotonic()),
        )

    async def _start(self, job: Job, reserved_at: datetime) -> bool:
        """Begin the call of a job, if it is ours; return whether it began.

        The call goes on as a task, and gives back what the budget had reserved for it at
        `reserved_at` if it turns out to have bought nothing.
        """
        credential = await self._access.own(job.key.credential)
        if credential is None or self._stopping:
            return False
        event = Escalated(self._ground.leases.instance)
        escalating = advance(job, event)
        if escalating is job or not await self._intend(escalating):
            return False
        use = (job.lane, credential.id)
        self._running[use] += 1
        self._rate.spend(use)
        call = self._run(escalating, credential, reserved_at)
        task = self._tasks.create_task(call, name=f"call {job.id}")
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return True

    async def _intend(self, escalating: Job) -> bool:
        """Make durable that the call is ours; return whether it is."""
        call = (escalating.id, escalating.attempt)
        # Before the write: a call that begins is none that was lost.
        self._own.add(call)
        is_ours = False
        try:
            is_ours = not await self._ground.jobs.replace_many([JobWrite(escalating)])
        finally:
            if not is_ours:
                self._own.discard(call)
        return is_ours

    async def _run(self, job: Job, credential: Credential, reserved_at: datetime) -> None:
        is_recorded = True
        try:
            event, result = await self._call(job, credential)
            write = partial(self._finisher.finish, job, event, result)
            is_recorded = await self._finisher.insist(job.id, write)
            if not is_recorded:
                await self._finisher.insist(job.id, partial(self._finisher.give_up, job, event))
            if isinstance(event, Released) and event.uncharged and job.lane is not Lane.FLEX:
                # Refused, or never sent: it has spent nothing. Kept, an outage or a rate
                # limit would use up the hour's budget without a single answer.
                with suppress(StoreError):
                    await self._budget.give_back(credential.id, [job], reserved_at=reserved_at)
        finally:
            if is_recorded:
                self._own.discard((job.id, job.attempt))
            self._running[job.lane, credential.id] -= 1
            # There is room for the next one.
            self._ground.wake("escalate")

    async def _call(self, job: Job, credential: Credential) -> tuple[JobEvent, Result | None]:
        """Make the call once; return what it means for the job, and what the job gets of it.

        What the answer says of the credential is durable by then, and the rest of what it
        teaches is learned. Nothing is raised for the provider's sake, nor for the store's.
        """
        body = await self._body(job)
        if isinstance(body, Released):
            return body, None
        begun = self._ground.clock.monotonic()
        try:
            async with asyncio.timeout(self._limits.of(job.lane).timeout.total_seconds()):
                field = self._outlook.flex.field(job.key) if job.lane is Lane.FLEX else None
                answer = await self._caller.call(job, credential, body, tier_field=field)
        except (ProviderError, TimeoutError) as exc:
            return self._unanswered(job, exc), None
        took = self._ground.clock.monotonic() - begun
        self._ground.troubles.are_over(job.key.upstream)
        log.info(
            "job.called",
            job_id=job.id,
            attempt=job.attempt,
            status_code=answer.answer.status,
            lane=job.lane.value,
            duration_s=round(took, 3),
        )
        # Before the answer: no pass may find the job in a lane that is not paused yet.
        note = partial(self._lessons.note_credential, credential, answer)
        await self._finisher.insist(job.id, note)
        self._lessons.note_answer(job, answer, took=timedelta(seconds=took))
        event = after_answer(
            job,
            job.attempt,
            answer.answer,
            facts=partial(self._outlook.facts, job.key),
            now=self._ground.now(),
            retry_after=answer.retry_after,
        )
        return self._ground.books.priced(event, job.key), answer.result

    async def _body(self, job: Job) -> bytes | Released:
        """Return what is to be sent for the job, or what it means that this is not to be had.

        Nothing was sent then, and so nothing bought.
        """
        try:
            return await self._ground.jobs.body(job.id)
        except JobNotFoundError:
            # Cancelled and erased since: whatever is written now is refused.
            return Released(job.attempt, "cancelled", uncharged=True)
        except StoreError as exc:
            now, pause = self._ground.now(), UNREACHED_PAUSE
            if isinstance(exc, StoreCorruptError):
                # It stays so, unless another instance has the key that it is sealed with.
                pause = max(pause, (job.deadline - now) / UNREAD_PARTS)
            return Released(job.attempt, exc.code, not_before=now + pause, uncharged=True)

    def _unanswered(self, job: Job, exc: Exception) -> Released | Failed:
        """Return what it means for the job that its call got no whole answer."""
        reason = exc.code if isinstance(exc, ProxyError) else "timeout"
        log.warning(
            "call.unanswered",
            job_id=job.id,
            upstream=job.key.upstream,
            attempt=job.attempt,
            reason=reason,
            error=str(exc) or "timed out",
        )
        now = self._ground.now()
        if reason == ANSWER_TOO_LONG:
            return after_overlong(job.attempt, now=now)
        self._ground.troubles.note(job.key.upstream, exc, at=now)
        if isinstance(exc, ProviderError) and not exc.sent:
            # Nothing was bought and nothing says that the call is at fault.
            return Released(job.attempt, reason, not_before=now + UNREACHED_PAUSE, uncharged=True)
        if job.failures + 1 >= MAX_FAILURES:
            # Each of them may have been paid for.
            return Failed(job.attempt, now, Outcome(None, reason, "the provider gave no answer"))
        return Released(
            job.attempt,
            reason,
            not_before=now + backoff(job.failures + 1),
            possible_double=True,
        )
