"""Say what each answer cost, and book it once.

The end of a job is booked by the write that ends it. What was bought besides, an answer
that came too late or twice, is booked under a receipt that names the very answer: a file
that is read again after a crash books nothing again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import structlog

from proxy.core.batch import Batch
from proxy.core.ids import BatchId, JobId
from proxy.core.job import Job, JobEvent, JobState, Outcome, Succeeded
from proxy.core.lanes import BatchKey, Lane
from proxy.core.ledger import (
    Booking,
    Receipt,
    Sums,
    batch_row,
    bookings,
    ending,
    processing_of,
    useless,
)
from proxy.core.prices import Cost, PriceOf, Processing, cost_of
from proxy.core.records import Maker
from proxy.core.usage import Tokens, tokens_of
from proxy.ports.clock import Clock
from proxy.ports.jobs import JobWrite, Result
from proxy.ports.ledger import LedgerStore
from proxy.ports.tally import Tally

log = structlog.get_logger()

ERASED: Final = "erased"
"""What is said of the state of a job that is there no more."""


_changed: Final = Maker(Outcome).changed


def line_receipt(batch_id: BatchId, job_id: JobId, attempt: int) -> str:
    """Return the receipt for what one line of a batch bought, whenever it is read."""
    return f"{batch_id}:{job_id}:{attempt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UselessAnswer:
    """An answer that was bought and that nobody can use."""

    receipt: str
    """Names this very answer, whenever it is read."""

    job_id: JobId
    job: Job | None
    """Nothing if it is erased, and nothing of it is known."""

    key: BatchKey
    """The key of the call that brought it: its lane decides the price."""

    attempt: int
    outcome: Outcome


class Bookkeeper:
    """Prices and books. One instance serves all services."""

    def __init__(self, *, price: PriceOf, ledger: LedgerStore, clock: Clock, tally: Tally) -> None:
        self._price = price
        self._ledger = ledger
        self._clock = clock
        self._tally = tally
        self._counted: tuple[Mapping[str, int] | None, Tokens | None] = (None, None)
        """The counts that were read last, and what they say."""

    def priced(self, event: JobEvent, key: BatchKey) -> JobEvent:
        """Return the event with the cost of the answer that it brings, if it brings one.

        `key` is that of the call that brought it: its lane decides the price. It may not
        be the job's own any more, since a batch may answer a job that has left it.
        """
        if not isinstance(event, Succeeded):
            return event
        outcome = event.outcome
        cost = self._cost(key, outcome, processing_of(key.lane, outcome.tier))
        if cost is None:
            return event
        return Succeeded(event.attempt, event.at, _changed(outcome, cost=cost))

    def write(
        self, job: Job, result: Result | None = None, *, lane: Lane | None = None
    ) -> JobWrite:
        """Return what is to be written for `job`: if it ended, with its bookings.

        A result is left out unless the job ended. `lane` is the one that brought the
        answer, if it is not the job's.
        """
        ended_at = job.finalized_at
        if ended_at is None:
            return JobWrite(job)
        lane = lane or job.lane
        outcome = job.outcome
        tokens = self._tokens(outcome) if outcome is not None else None
        batch = None
        if tokens is not None and outcome is not None and lane is not Lane.BATCH:
            batch = self._cost(job.key, outcome, Processing.BATCH)
        sums = ending(job, tokens, batch=batch)
        booked = bookings(job, sums, day=ended_at.date(), lane=lane)
        return JobWrite(job, result, booked)

    def _cost(self, key: BatchKey, outcome: Outcome, processing: Processing | None) -> Cost | None:
        """Return what an answer costs if it is made so; nothing if that is not known."""
        if processing is None:
            return None
        tokens = self._tokens(outcome)
        price = self._price(key.upstream, key.model) if tokens is not None else None
        if tokens is None or price is None:
            return None
        return cost_of(price, tokens, processing)

    def _tokens(self, outcome: Outcome) -> Tokens | None:
        # An answer is priced, and then booked: its counts are read once.
        usage = outcome.usage
        if usage is not self._counted[0]:
            self._counted = (usage, tokens_of(usage))
        return self._counted[1]

    async def rows(self, *, since: date, until: date) -> Sequence[Booking]:
        """Return what is booked of these days."""
        return await self._ledger.rows(since=since, until=until)

    async def book_useless(self, answers: Sequence[UselessAnswer]) -> None:
        """Book and count those of the answers that never were."""
        if not answers:
            return
        by_receipt = {answer.receipt: answer for answer in answers}
        for name in await self._ledger.book(list(map(self._receipt, by_receipt.values()))):
            answer = by_receipt[name]
            job = answer.job
            state = job.state.value if job is not None and job.state.is_terminal else ERASED
            self._tally.count("late_result", state=state)
            log.warning("job.answered_late", job_id=answer.job_id, attempt=answer.attempt)

    def _receipt(self, answer: UselessAnswer) -> Receipt:
        processing = processing_of(answer.key.lane, answer.outcome.tier)
        sums = useless(self._cost(answer.key, answer.outcome, processing))
        day = self._clock.now().date()
        if answer.job is None:
            booked: tuple[Booking, ...] = (Booking(batch_row(answer.key, day=day), sums),)
        else:
            booked = bookings(answer.job, sums, day=day, lane=answer.key.lane)
        return Receipt(id=answer.receipt, job_id=answer.job_id, bookings=booked)

    async def book_doubt(self, job: Job) -> bool:
        """Book a possible double of a call whose job cannot tell of it; return if it is new."""
        doubt = Sums(possible_doubles=1, possible_unpriced=1)
        booked = bookings(job, doubt, day=self._clock.now().date(), lane=job.lane)
        receipt = Receipt(id=f"{job.id}:{job.attempt}:doubt", job_id=job.id, bookings=booked)
        return bool(await self._ledger.book([receipt]))

    async def take_back(self, job: Job, attempt: int) -> None:
        """Take back the possible double that a job's cancellation booked for a call under way.

        Called once, when it is known after all what the call came to.
        """
        doubt = Sums(possible_doubles=-1, possible_unpriced=-1)
        day = (job.finalized_at or self._clock.now()).date()
        await self._ledger.book(
            [_known(job, attempt, bookings(job, doubt, day=day, lane=job.lane))]
        )

    async def note_undoubted(self, job: Job) -> None:
        """Note that no cancellation booked the last call; to be called before `job` is erased.

        A call may still be under way whose job was ended by a late result. An erased job looks as
        if it had been cancelled, and what was never booked would be taken back.
        """
        if job.state is JobState.CANCELLED or job.answered_by == job.attempt or not job.attempt:
            return
        row = batch_row(job.key, day=self._clock.now().date())
        await self._ledger.book([_known(job, job.attempt, (Booking(row, Sums()),))])

    async def note_answered(self, job: Job) -> None:
        """Note that what a batch answered a job is booked; to be called before it is erased.

        Read again after a crash, that answer would be nobody's, and bought for nothing.
        """
        if job.answered_by is None or job.batch_id is None:
            return
        row = batch_row(job.key, day=self._clock.now().date())
        receipt = Receipt(
            id=line_receipt(job.batch_id, job.id, job.answered_by),
            job_id=job.id,
            bookings=(Booking(row, Sums()),),
        )
        await self._ledger.book([receipt])

    async def book_possible(self, batch: Batch, count: int, *, why: str) -> None:
        """Book and count that so many lines of a batch may have been bought, unseen.

        Once for each `why`: a create that may have happened, results that nobody can read.
        """
        if await self._book_doubts(batch, count, why, day=self._clock.now().date()):
            self.count_possible(batch, count)

    async def book_unseen(self, batch: Batch, count: int) -> bool:
        """Book the lines of a batch whose results nobody will see; return whether that is new.

        A job that goes on counts its own: the write that lets it go on books `off_unseen`.
        """
        return await self._book_doubts(batch, count, "all unseen", day=self._end_of(batch))

    def off_unseen(self, batch: Batch) -> tuple[Booking, ...]:
        """Return what takes one line off what `book_unseen` has booked."""
        return _doubts(batch, -1, day=self._end_of(batch))

    def count_possible(self, batch: Batch, count: int) -> None:
        """Count so many possible doubles of a batch among what this instance has seen."""
        if count:
            self._tally.count("possible_double", count, lane=batch.key.lane.value)

    async def _book_doubts(self, batch: Batch, count: int, why: str, *, day: date) -> bool:
        booked = _doubts(batch, count, day=day)
        receipt = Receipt(id=f"{batch.id}:{why}", job_id=None, bookings=booked)
        return bool(await self._ledger.book([receipt]))

    def _end_of(self, batch: Batch) -> date:
        """Return the day on which a batch ended: what is taken off stands there, even later."""
        return (batch.ended_at or self._clock.now()).date()


def _doubts(batch: Batch, count: int, *, day: date) -> tuple[Booking, ...]:
    row = batch_row(batch.key, day=day)
    return (Booking(row, Sums(possible_doubles=count, possible_unpriced=count)),)


def _known(job: Job, attempt: int, booked: tuple[Booking, ...]) -> Receipt:
    """Return what is booked once it is known what a call of a job that ended came to."""
    return Receipt(id=f"{job.id}:{attempt}:known", job_id=job.id, bookings=booked)
