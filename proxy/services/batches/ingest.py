"""Read a result file, line by line, and give each job what is its own.

Results are joined on `custom_id`, never on order, and only names that were
issued in this very batch are accepted. Reading the same file again, after a
crash, changes nothing: the first result of a job wins, and a line of the attempt
that answered it is no second one.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import structlog

from proxy.core.batch import Batch
from proxy.core.batch_ends import BY_CLIENT_FAULT, CLIENT_FAULTS, NEVER_RUN_CODES
from proxy.core.errors import CREDENTIAL_CODES, CredentialRefusedError, ProviderError
from proxy.core.ids import JobId, parse_custom_id
from proxy.core.job import Job, JobEvent, JobState, Released, advance
from proxy.core.ledger import failed_unseen
from proxy.core.loose_json import loose_json
from proxy.core.outcomes import (
    Answer,
    Verdict,
    after_answer,
    after_overlong,
    next_lane,
    verdict,
)
from proxy.ports.jobs import JobWrite, Result
from proxy.ports.provider import LineKind, ResultLine
from proxy.services.access import Access
from proxy.services.ground import JOBS_PER_WRITE, Ground, count_doubles, count_ends
from proxy.services.ledger.bookkeeping import UselessAnswer, line_receipt
from proxy.services.outlook import Outlook
from proxy.services.waiters import Waiters

log = structlog.get_logger()

SLICE: Final = 20
"""Lines that are judged in one turn of the event loop, about a millisecond."""

SIDE_BY_SIDE: Final = 3
"""Writes under way at once: one is read for, one made and one written."""


@dataclass(slots=True)
class Ingested:
    """What the lines of one file came to."""

    ended: int = 0
    released: int = 0
    ignored: int = 0
    """Lines that changed nothing: read before, foreign, unreadable or too late."""

    lines: int = 0
    own: set[int] = field(default_factory=set)
    """Hashes of the IDs of the batch's jobs that have a line, or two: what became of them is
    known. A third of the memory of the IDs."""

    unread: set[int] = field(default_factory=set)
    """The same of those that were bought for jobs which cannot be read themselves."""

    strange: int = 0
    """Those of all lines that are no results at all: unreadable, and without a name."""

    @property
    def is_another_thing(self) -> bool:
        """Whether what was read is no result file: an error, say, in the place of one."""
        return 0 < self.lines == self.strange


class _Named(NamedTuple):
    job_id: JobId
    attempt: int
    line: ResultLine


@dataclass(slots=True)
class _Reading:
    """One file that is being read."""

    batch: Batch
    sums: Ingested
    source: str
    """Names the file, so that a line of it has the same receipt whenever it is read."""

    is_twin: bool

    has_paused: bool = False
    """Whether a line of it has paused the credential: one is enough."""


@dataclass(slots=True)
class _Judged:
    """What some lines make of their jobs."""

    writes: dict[JobId, JobWrite] = field(default_factory=dict)
    sent: dict[JobId, _Named] = field(default_factory=dict)
    """The line that each write comes from."""

    later: list[_Named] = field(default_factory=list)
    """Second lines of a job: each meets what the first one made of it."""

    useless: list[UselessAnswer] = field(default_factory=list)


class Ingestor:
    """Turns result lines into the ends of jobs."""

    def __init__(
        self, ground: Ground, *, access: Access, outlook: Outlook, waiters: Waiters
    ) -> None:
        self._ground = ground
        self._access = access
        self._outlook = outlook
        self._waiters = waiters

    async def ingest(
        self,
        batch: Batch,
        chunks: AsyncIterator[Sequence[ResultLine]],
        sums: Ingested,
        *,
        source: str,
        is_twin: bool = False,
    ) -> None:
        """Apply every line of one file, and add to `sums`. In memory are a few chunks at a time.

        `source` names the file at the provider. `is_twin` says that it is of a second
        provider batch for the same items: what that answers once more was bought twice.

        Raises:
            ProviderError: if the file breaks off; what came before is applied, and in `sums`.
        """
        reading = _Reading(batch, sums, source, is_twin)
        try:
            async with asyncio.TaskGroup() as group:
                broken = await self._apply_all(reading, chunks, group)
        except ExceptionGroup as failures:
            # The first is the cause of whatever followed from it.
            raise failures.exceptions[0] from None
        if broken is not None:
            raise broken

    async def _apply_all(
        self,
        reading: _Reading,
        chunks: AsyncIterator[Sequence[ResultLine]],
        group: asyncio.TaskGroup,
    ) -> ProviderError | None:
        """Begin to apply every line; return the failure by which the file broke off, if it did.

        Raised within the group it would cut off what is being applied, and a file that always
        breaks off there would never give its last answers.
        """
        room = asyncio.Semaphore(SIDE_BY_SIDE)
        try:
            async for lines in chunks:
                for part in _parts(lines):
                    await room.acquire()
                    applying = group.create_task(self._apply(reading, part))
                    applying.add_done_callback(lambda _: room.release())
        except ProviderError as exc:
            return exc
        return None

    async def _apply(self, reading: _Reading, lines: Sequence[ResultLine]) -> None:
        named = _named(lines)
        jobs, unread = await self._jobs(named)
        named = await self._own_lines(reading.batch, named, jobs, count=len(lines))
        _count_lines(lines, named, reading.sums)
        # Its job waits on, with the batch, if it did not end before: see `Releaser`.
        bought = [n for n in named if n.job_id in unread and _was_bought(n.line)]
        reading.sums.unread.update(hash(entry.job_id) for entry in bought)
        named = [entry for entry in named if entry.job_id not in unread]
        # A write is refused if the job's caller cancels it at the same moment.
        # The second look sees that; nobody changes a job so often in turn.
        for _ in range(3):
            part = await self._judge(reading, named, jobs)
            await self._ground.books.book_useless(part.useless)
            writes = list(part.writes.values())
            refused = await self._ground.jobs.replace_many(writes)
            self._count([w for w in writes if w.after.id not in refused], reading.sums)
            named = [part.sent[job_id] for job_id in refused] + part.later
            if not named:
                return
            jobs, _ = await self._jobs(named)

    async def _judge(
        self, reading: _Reading, named: Sequence[_Named], jobs: Mapping[JobId, Job]
    ) -> _Judged:
        """Return what the lines make of `jobs`, as these were read; nothing is written yet."""
        part = _Judged()
        for number, entry in enumerate(named, start=1):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            if entry.job_id in part.writes:
                part.later.append(entry)
                continue
            job = jobs.get(entry.job_id)
            write = self._write_for(reading, job, entry) if job is not None else None
            if write is not None:
                if not write.after.state.is_terminal and not reading.has_paused:
                    # Before the write: no flush may find the job in a lane that is not paused.
                    reading.has_paused = await self._note_credential(reading.batch, entry.line)
                part.writes[entry.job_id], part.sent[entry.job_id] = write, entry
                continue
            reading.sums.ignored += 1
            if _is_useless(reading, job, entry):
                part.useless.append(_useless(reading, job, entry))
        return part

    async def _jobs(self, named: Sequence[_Named]) -> tuple[dict[JobId, Job], Collection[JobId]]:
        """Return the jobs of some lines, and which of them cannot be read."""
        jobs, unread = await self._ground.readable([n.job_id for n in named])
        return {job.id: job for job in jobs}, unread

    async def _own_lines(
        self, batch: Batch, named: Sequence[_Named], jobs: Mapping[JobId, Job], *, count: int
    ) -> list[_Named]:
        """Return the lines whose name this very batch issued, of the `count` in all."""
        # A job that is in this batch with this attempt says so itself; the others ended
        # or were released since, or were never in it.
        doubtful = [n for n in named if not _is_in(batch, jobs.get(n.job_id), n.attempt)]
        asked = [(n.job_id, n.attempt) for n in doubtful]
        issued = await self._ground.batches.issued(batch.id, asked) if asked else frozenset()
        strange = {n for n in asked if n not in issued}
        own = [n for n in named if (n.job_id, n.attempt) not in strange]
        if len(own) < count:
            self._ground.tally.count("line_ignored", count - len(own), upstream=batch.key.upstream)
            log.warning("line.ignored", batch_id=batch.id, lines=count - len(own))
        return own

    def _write_for(self, reading: _Reading, job: Job, entry: _Named) -> JobWrite | None:
        """Return what a line makes of its job; nothing if it changes nothing."""
        key, line = reading.batch.key, entry.line
        event = self._event(job, entry)
        after = advance(job, self._ground.books.priced(event, key))
        if after is job:
            return None
        result = None
        if after.state.is_terminal and line.kind is LineKind.ANSWERED:
            result = Result(
                status_code=line.status_code, body=line.body, request_id=line.request_id
            )
        return self._ground.books.write(after, result, lane=key.lane)

    def _event(self, job: Job, entry: _Named) -> JobEvent:
        now = self._ground.now()
        facts = partial(self._outlook.facts, job.key)
        line = entry.line
        if line.kind is LineKind.OVERLONG:
            return after_overlong(entry.attempt, now=now)
        if line.kind is not LineKind.NOT_EXECUTED:
            return after_answer(job, entry.attempt, _answer(line), facts=facts, now=now)
        uncharged = line.error_code in NEVER_RUN_CODES or line.error_code in CREDENTIAL_CODES
        reason = line.error_code or "not executed"
        onto = next_lane(job, facts(), now=now, failed=not uncharged)
        if line.error_code in CLIENT_FAULTS:
            onto = BY_CLIENT_FAULT
        return Released(entry.attempt, reason, onto=onto, uncharged=uncharged)

    async def _note_credential(self, batch: Batch, line: ResultLine) -> bool:
        """Pause the credential if the line was refused for its sake; return whether."""
        if line.kind is LineKind.NOT_EXECUTED:
            if line.error_code not in CREDENTIAL_CODES:
                return False
            refusal = CredentialRefusedError(
                f"batch {batch.id}: {line.error_code}", code=line.error_code
            )
        else:
            code = _answer(line).error_code
            if verdict(line.status_code, code) is not Verdict.CREDENTIAL:
                return False
            refusal = CredentialRefusedError(
                f"batch {batch.id}: a line was refused with {line.status_code}",
                status_code=line.status_code,
                body=line.body,
            )
        await self._access.pause(batch.key.credential, refusal)
        return True

    def _count(self, written: Sequence[JobWrite], sums: Ingested) -> None:
        ended = [write.after for write in written if write.after.state.is_terminal]
        sums.ended += len(ended)
        sums.released += len(written) - len(ended)
        count_ends(self._ground.tally, ended)
        count_doubles(self._ground.tally, [job for job in ended if failed_unseen(job)])
        self._waiters.wake(write.after.id for write in written)


def _named(lines: Sequence[ResultLine]) -> list[_Named]:
    """Return the lines whose name we may have issued at all."""
    named = []
    for line in lines:
        name = parse_custom_id(line.custom_id) if line.custom_id is not None else None
        if name is not None and line.kind is not LineKind.UNREADABLE:
            named.append(_Named(name[0], name[1], line))
    return named


def _count_lines(lines: Sequence[ResultLine], own: Sequence[_Named], sums: Ingested) -> None:
    sums.lines += len(lines)
    sums.ignored += len(lines) - len(own)
    sums.own.update(hash(entry.job_id) for entry in own)
    sums.strange += sum(
        line.kind is LineKind.UNREADABLE and line.custom_id is None for line in lines
    )


def _is_in(batch: Batch, job: Job | None, attempt: int) -> bool:
    return (
        job is not None
        and job.state is JobState.BATCHED
        and job.batch_id == batch.id
        and job.attempt == attempt
    )


def _parts(lines: Sequence[ResultLine]) -> Iterator[Sequence[ResultLine]]:
    """Return the lines in as few parts as `JOBS_PER_WRITE` allows, of about the same size."""
    count = -(-len(lines) // JOBS_PER_WRITE)
    for part in range(count):
        yield lines[len(lines) * part // count : len(lines) * (part + 1) // count]


def _answer(line: ResultLine) -> Answer:
    content = line.content
    if content is None:
        try:
            content = loose_json(line.body)
        except ValueError:
            content = None
    return Answer(status=line.status_code, content=content)


def _is_useless(reading: _Reading, job: Job | None, entry: _Named) -> bool:
    """Return whether a line that changed nothing was bought, and is not what its job has.

    Nobody knows what an erased job had. Most often its caller gave it up.
    """
    if not _was_bought(entry.line):
        return False
    if job is None:
        return True
    if entry.line.kind is LineKind.OVERLONG and job.state is JobState.FAILED:
        # Its end has counted it, if it is what the job failed by.
        return reading.is_twin or job.attempt != entry.attempt
    # It has ended: a success changes whatever has not.
    return reading.is_twin or job.answered_by != entry.attempt


def _was_bought(line: ResultLine) -> bool:
    if line.kind is LineKind.OVERLONG:
        return True
    return line.kind is LineKind.ANSWERED and 200 <= line.status_code < 300


def _useless(reading: _Reading, job: Job | None, entry: _Named) -> UselessAnswer:
    receipt = line_receipt(reading.batch.id, entry.job_id, entry.attempt)
    return UselessAnswer(
        # Every twin has bought the line once more.
        receipt=f"{receipt}:{reading.source}" if reading.is_twin else receipt,
        job_id=entry.job_id,
        job=job,
        key=reading.batch.key,
        attempt=entry.attempt,
        outcome=_answer(entry.line).outcome(),
    )
