"""Call jobs directly that no batch can answer in time.

The intent is durable before the call: a record in `ESCALATING` names who calls.
A direct call cannot be found again at a provider, so one that got no whole answer
is booked as a possible double: known, shown, never silent.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from proxy.core.errors import (
    CredentialRefusedError,
    JobNotFoundError,
    ProviderError,
    ProxyError,
    StoreError,
    StoreUnavailableError,
)
from proxy.core.ids import CredentialId
from proxy.core.job import Escalated, Failed, Job, JobEvent, Outcome, Released, Succeeded, advance
from proxy.core.lanes import Lane, LaneFacts, LaneTimes
from proxy.core.outcomes import MAX_FAILURES, Verdict, after_answer, backoff, verdict
from proxy.core.plan import fair_order
from proxy.ports.jobs import Credential, JobWrite, Result
from proxy.ports.tasks import TaskOwner
from proxy.services.access import Access
from proxy.services.bookkeeping import UselessAnswer
from proxy.services.call import CallAnswer, DirectCaller
from proxy.services.ground import Ground, count_doubles, count_end
from proxy.services.waiters import Waiters

log = structlog.get_logger()

UNREACHED_PAUSE: Final = timedelta(seconds=10)
"""Until the next try of a call that did not leave: an outage is no fault of the job."""


STORE_PAUSE_S: Final = 1.0
"""Between two attempts to write an answer down while the store is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationLimits:
    """How much may be called directly at once. No stampede: a whole batch may come back."""

    total: int = 64
    per_credential: int = 16
    timeout: timedelta = timedelta(minutes=10)
    """For one call: as long as the SDKs themselves wait by default."""


class Rate:
    """How many calls each credential may begin: so many a second, a second's worth at once."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second)
        self._seen: dict[CredentialId, tuple[float, float]] = {}

    def left(self, credential: CredentialId, now: float) -> int:
        """Return how many may begin; `now` is monotonic, in seconds."""
        left, since = self._seen.get(credential, (self._most, now))
        left = min(self._most, left + (now - since) * self._per_second)
        self._seen[credential] = left, now
        return int(left)

    def spend(self, credential: CredentialId) -> None:
        """Note that one begins."""
        left, since = self._seen[credential]
        self._seen[credential] = left - 1, since


class Escalator:
    """Calls due jobs; `run_once` starts calls, and they end at their own pace.

    `tasks` owns the calls. After `stop()` no new one is started.
    """

    def __init__(
        self,
        ground: Ground,
        *,
        access: Access,
        caller: DirectCaller,
        waiters: Waiters,
        limits: EscalationLimits,
        times: LaneTimes,
        tasks: TaskOwner,
    ) -> None:
        self._on = ground
        self._access = access
        self._caller = caller
        self._waiters = waiters
        self._limits = limits
        self._facts = LaneFacts(has_batch=True, times=times)
        self._tasks = tasks
        self._calls: set[asyncio.Task[None]] = set()
        self._running: Counter[CredentialId] = Counter()
        self._rate = Rate(times.calls_per_s)
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
        for call in self._calls:
            call.cancel()

    async def run_once(self) -> int:
        """Start as many due calls as the caps allow; return how many."""
        if self._stopping:
            return 0
        heads = await self._on.batches.heads()
        started = 0
        for head in fair_order([h for h in heads if h.key.lane is Lane.INTERACTIVE]):
            free = self._free(head.key.credential)
            if head.paused or free <= 0:
                continue
            now = self._on.clock.now()
            for job in await self._on.queue.take(head.key, ready_at=now, limit=free):
                # An overdue one is no use to anybody, and ends by itself.
                if job.deadline > now:
                    started += await self._start(job)
        return started

    def _free(self, credential: CredentialId) -> int:
        return min(
            self._limits.total - self.running,
            self._limits.per_credential - self._running[credential],
            self._rate.left(credential, self._on.clock.monotonic()),
        )

    async def _start(self, job: Job) -> bool:
        credential = await self._access.own(job.key.credential)
        if credential is None or self._stopping:
            return False
        event = Escalated(self._on.leases.instance, self._now())
        escalating = advance(job, event)
        if escalating is job or await self._on.jobs.replace_many([JobWrite(escalating)]):
            return False
        self._running[credential.id] += 1
        self._rate.spend(credential.id)
        task = self._tasks.create_task(self._run(escalating, credential), name=f"call {job.id}")
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return True

    async def _run(self, job: Job, credential: Credential) -> None:
        try:
            await self._record(job, *await self._call(job, credential))
        finally:
            self._running[credential.id] -= 1

    async def _record(self, job: Job, event: JobEvent, result: Result | None) -> None:
        """Make the answer durable, however long the store is away: it is paid for.

        Nobody else will: the record says that this instance, which lives, is calling.
        """
        while True:
            try:
                return await self._finish(job, event, result)
            except StoreUnavailableError as exc:
                log.warning("call.unrecorded", job_id=job.id, code=exc.code)
            await self._on.clock.sleep(STORE_PAUSE_S)

    async def _call(self, job: Job, credential: Credential) -> tuple[JobEvent, Result | None]:
        try:
            body = await self._on.jobs.body(job.id)
        except JobNotFoundError:
            # Cancelled and erased since: whatever is written now is refused.
            return Released(job.attempt, "cancelled", uncharged=True), None
        except StoreError as exc:
            # Nothing was sent, and so nothing bought.
            return Released(job.attempt, exc.code, uncharged=True), None
        begun = self._on.clock.monotonic()
        try:
            async with asyncio.timeout(self._limits.timeout.total_seconds()):
                answer = await self._caller.call(job, credential, body)
        except (ProviderError, TimeoutError) as exc:
            return self._unanswered(job, exc), None
        log.info(
            "job.called",
            job_id=job.id,
            attempt=job.attempt,
            status_code=answer.answer.status,
            duration_s=round(self._on.clock.monotonic() - begun, 3),
        )
        await self._note_credential(credential, answer)
        event = after_answer(
            job,
            job.attempt,
            answer.answer,
            facts=self._facts,
            now=self._now(),
            retry_after=answer.retry_after,
        )
        return event, answer.result

    def _unanswered(self, job: Job, exc: Exception) -> Released | Failed:
        reason = exc.code if isinstance(exc, ProxyError) else "timeout"
        log.warning("call.unanswered", job_id=job.id, attempt=job.attempt, reason=reason)
        now = self._now()
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

    async def _note_credential(self, credential: Credential, answer: CallAnswer) -> None:
        status = answer.answer.status
        meaning = verdict(status, answer.answer.error_code)
        if meaning is Verdict.SUCCESS:
            if credential.succeeded_at is None:
                await self._on.credentials.accepted(credential.id, at=self._now())
        elif meaning is Verdict.CREDENTIAL:
            refusal = CredentialRefusedError(
                f"a direct call was refused with {status}",
                status_code=status,
                body=answer.result.body,
            )
            await self._access.pause(credential.id, refusal)

    async def _finish(self, called: Job, event: JobEvent, result: Result | None) -> None:
        job = called
        while (after := advance(job, event)) is not job:
            write = self._on.books.write(after, result)
            if not await self._on.jobs.replace_many([write]):
                self._count(job, after)
                self._waiters.wake([job.id])
                return
            # Changed meanwhile. If this instance was taken for dead and the job given
            # back, its answer is as good as ever.
            current = await self._on.jobs.get_many([job.id])
            if not current:
                break
            job = current[0]
        if isinstance(event, Succeeded):
            # Bought, and of no use: the job ended in another way meanwhile.
            answer = UselessAnswer(
                receipt=f"{called.id}:{called.attempt}",
                job_id=called.id,
                job=job,
                key=called.key,
                attempt=called.attempt,
                outcome=event.outcome,
            )
            await self._on.books.book_useless([answer])

    def _count(self, before: Job, after: Job) -> None:
        if after.state.is_terminal:
            count_end(self._on, after)
        elif after.possible_doubles > before.possible_doubles:
            count_doubles(self._on, [after])

    def _now(self) -> datetime:
        return self._on.clock.now()
