"""Make durable what the call of a job came to, and book it."""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from proxy.core.errors import StoreCorruptError, StoreError
from proxy.core.ids import JobId
from proxy.core.job import Failed, Job, JobEvent, JobState, Released, Succeeded, advance
from proxy.ports.jobs import Result
from proxy.services.ground import Ground, count_doubles, count_ends
from proxy.services.ledger.bookkeeping import UselessAnswer
from proxy.services.waiters import Waiters

log = structlog.get_logger()

STORE_PAUSE_S: Final = 1.0
"""Between two attempts to write an answer down while the store is away. Each call has its own,
and there are dozens at the most."""

DAMAGED_TRIES: Final = 60
"""How often we try to write an answer down whose job is damaged: for a minute, since a server may
call damaged what it merely cannot reach."""


class Finisher:
    """Finishes calls, whatever has become of their jobs meanwhile."""

    def __init__(self, ground: Ground, *, waiters: Waiters) -> None:
        self._ground = ground
        self._waiters = waiters

    async def insist(self, job_id: JobId, write: Callable[[], Awaitable[None]]) -> bool:
        """Make durable what an answer says, however long the store is away; return whether it is.

        The answer is paid for, and nobody else will record it: the job says that this instance is
        calling, and this instance lives. So `write` must bear being repeated after its effect. It
        is given up only if the job is damaged.
        """
        damaged = 0
        while True:
            try:
                await write()
            except StoreCorruptError as exc:
                damaged += 1
                if damaged == DAMAGED_TRIES:
                    _tell_of_damage(job_id, exc)
                    return False
            except StoreError as exc:
                log.warning("call.unrecorded", job_id=job_id, code=exc.code)
            else:
                return True
            await self._ground.clock.sleep(STORE_PAUSE_S)

    async def finish(self, called: Job, event: JobEvent, result: Result | None) -> None:
        """Let `event` happen to the job, or book what it came to if the job has ended otherwise.

        `called` is the job as its call began: its attempt is that of the event. May be
        repeated: what was written is known again.

        Raises:
            StoreError: if the store fails; some of it may be written.
        """
        job = called
        while (after := advance(job, event)) is not job:
            write = self._ground.books.write(after, result)
            if not await self._ground.jobs.replace_many([write]):
                if after.state.is_terminal:
                    count_ends(self._ground.tally, [after])
                if _is_doubtful(event):
                    count_doubles(self._ground.tally, [job])
                self._waiters.wake([job.id])
                return
            # Changed meanwhile. If this instance was taken for dead and the job given
            # back, its answer is as good as ever.
            current = await self._ground.jobs.get_many([job.id])
            if not current:
                await self._book_late(called, None, event)
                return
            job = current[0]
        if job.answered_by == called.attempt:
            # It was this very answer: the store had written it before its own was lost.
            count_ends(self._ground.tally, [job])
            self._waiters.wake([job.id])
        else:
            await self._book_late(called, job, event)

    async def give_up(self, called: Job, event: JobEvent) -> None:
        """Book what a call came to whose job cannot be written any more.

        Raises:
            StoreError: if the store fails.
        """
        if isinstance(event, Succeeded):
            await self._book_useless(called, called, event)
        elif _is_doubtful(event) and await self._ground.books.book_doubt(called):
            count_doubles(self._ground.tally, [called])

    async def _book_useless(self, called: Job, job: Job, event: Succeeded) -> None:
        """Book an answer that was bought and is of no use."""
        answer = UselessAnswer(
            receipt=f"{called.id}:{called.attempt}",
            job_id=called.id,
            job=job,
            key=called.key,
            attempt=called.attempt,
            outcome=event.outcome,
        )
        await self._ground.books.book_useless([answer])

    async def _book_late(self, called: Job, job: Job | None, event: JobEvent) -> None:
        """Book what a call came to whose job ended meanwhile; `job` is `None` if it was erased."""
        # A job is cancelled before it is erased, or noted to have ended otherwise. Instances of
        # earlier versions book nothing.
        is_cancelled = job is None or (
            job.state is JobState.CANCELLED
            and job.attempt == called.attempt
            and job.possible_doubles > called.possible_doubles
        )
        if isinstance(event, Succeeded):
            await self._book_useless(called, job or called, event)
        if is_cancelled and _is_doubtful(event):
            # The cancellation has booked it.
            count_doubles(self._ground.tally, [called])
        elif is_cancelled:
            # Last: after a crash in between, the bill is too high rather than too low.
            await self._ground.books.take_back(job or called, called.attempt)


def _tell_of_damage(job_id: JobId, exc: StoreCorruptError) -> None:
    log.error("call.unrecorded", job_id=job_id, code=exc.code, error=str(exc), hint=exc.hint)


def _is_doubtful(event: JobEvent) -> bool:
    """Return whether nobody can tell if the call that ended so was bought."""
    match event:
        case Released():
            return event.possible_double
        case Failed(outcome=outcome):
            return outcome.status_code is None
    return False
