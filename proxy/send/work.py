"""Send every line, collect every answer; both side by side, each in order."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from proxy.send.errors import SendError
from proxy.send.journal import REFUSED, Journal
from proxy.send.lines import Line, read_lines
from proxy.send.output import Output, answer_line, is_error
from proxy.send.remote import Answered, Refusal, Remote, message_of

_CHUNK: Final = 256
"""Lines that are sent, or whose answers are held, together: what bounds the memory."""

_CHUNK_BYTES: Final = 32 << 20
"""The size of their calls together: a scanned page takes megabytes, and 256 of them all of the
memory."""

_WAIT_S: Final = 30

_FORGOTTEN: Final = (
    "the proxy knows nothing of it any more: "
    "kept for too long, or another proxy, or another owner's key"
)

_FAILURES_SHOWN: Final = 5


@dataclass(slots=True)
class Tally:
    """What the answers came to, those of earlier starts left out."""

    sent: int = 0
    """Lines that became jobs, or were found to be some already."""

    answered: int = 0
    failed: int = 0
    failed_before: int = 0
    """Answers of earlier starts that are errors."""

    failures: list[str] = field(default_factory=list)
    """The first few, as `file:line: what`."""


@dataclass(frozen=True, slots=True)
class _Owed:
    """Lines whose answers are collected together. All by their numbers."""

    lines: Sequence[Line]
    jobs: dict[int, str]
    """The job that stands for each line now, or `REFUSED`."""

    done: dict[int, bytes] = field(default_factory=dict)
    """The output lines that are there."""

    def waiting(self) -> list[Line]:
        return [line for line in self.lines if line.number not in self.done]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One file on its way through one proxy."""

    file: Path
    count: int
    """How many lines of it are calls; what is added meanwhile is the next start's."""

    endpoint: str
    identity: str
    """What the keys of its lines are derived from."""

    remote: Remote
    journal: Journal
    output: Output
    concurrency: int
    buy_again: bool = False
    """Whether a line whose job is no longer known may be bought once more."""

    tally: Tally = field(default_factory=Tally)
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    """Told whenever more lines were sent."""

    async def run(self, on_progress: Callable[[], None]) -> None:
        """Send and collect until every line is answered.

        Raises:
            SendError: if it cannot go on; a later start will.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send(on_progress))
                tasks.create_task(self._collect(on_progress))
        except ExceptionGroup as group:
            raise _cause(group) from None

    async def _send(self, on_progress: Callable[[], None]) -> None:
        slots = asyncio.Semaphore(self.concurrency)

        async def defer(line: Line) -> str | Refusal:
            async with slots:
                return await self._defer(line)

        for lines in _chunks(self._lines(after=self.journal.count)):
            async with asyncio.TaskGroup() as tasks:
                sent = [tasks.create_task(defer(line)) for line in lines]
            self.journal.append(
                (REFUSED if isinstance(task.result(), Refusal) else str(task.result()), line.digest)
                for task, line in zip(sent, lines, strict=True)
            )
            async with self.moved:
                self.moved.notify_all()
            on_progress()

    async def _collect(self, on_progress: Callable[[], None]) -> None:
        for lines in _chunks(self._lines(after=self.output.count)):
            await self._until_sent(lines[-1].number)
            answers = await self._answers(lines)
            # An output that says more than the journal would not be known as ours.
            await asyncio.to_thread(self.journal.sync)
            self.output.append(answers)
            on_progress()
        if self.output.count < self.count:
            raise self._changed(self.output.count + 1)

    async def _until_sent(self, number: int) -> None:
        async with self.moved:
            await self.moved.wait_for(lambda: self.journal.count >= number)

    async def _answers(self, lines: Sequence[Line]) -> list[bytes]:
        """Return the output lines of these calls, once all of them are there."""
        owed = _Owed(lines, self._jobs(lines))
        while waiting := owed.waiting():
            for line in waiting:
                if owed.jobs[line.number] == REFUSED:
                    await self._again(line, owed)
            await self._look(owed)
            for line in owed.waiting()[:1]:
                await self.remote.wait(line.provider, owed.jobs[line.number], for_s=_WAIT_S)
        return [owed.done[line.number] for line in lines]

    def _jobs(self, lines: Sequence[Line]) -> dict[int, str]:
        """Return what was noted for each line, by its number, when it was sent."""
        jobs = {}
        records = self.journal.read(lines[0].number, len(lines))
        for line, (job, digest) in zip(lines, records, strict=True):
            # The file was read again: the answer is to what was sent.
            if line.digest != digest:
                raise self._changed(line.number)
            jobs[line.number] = job
        return jobs

    async def _look(self, owed: _Owed) -> None:
        """Ask once about everything that is waited for, each with its provider's key."""
        waiting = owed.waiting()
        for provider in dict.fromkeys(line.provider for line in waiting):
            theirs = [line for line in waiting if line.provider == provider]
            found = await self.remote.results(provider, [owed.jobs[one.number] for one in theirs])
            self._refuse_lost(theirs, found)
            for line, answered in zip(theirs, found, strict=True):
                if answered.is_lost:
                    await self._again(line, owed)
                elif not answered.is_pending:
                    owed.done[line.number] = self._answered(line, answered)

    def _refuse_lost(self, lines: Sequence[Line], found: Sequence[Answered]) -> None:
        """Buy no line twice unasked: the journal says that each of these was accepted.

        Raises:
            SendError: if a line was lost that may not be bought again.
        """
        lost = [
            (line.number, answered)
            for line, answered in zip(lines, found, strict=True)
            if answered.is_lost
        ]
        if lost and not self.buy_again:
            number, first = lost[0]
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            why = f"its answer is lost: {first.message or 'it is no longer kept'}"
            if first.status is None:
                why = _FORGOTTEN
            raise SendError(
                f"{self.file}:{number}{more}: sent before, and {why}",
                hint="--buy-again sends such lines anew, and pays for them anew",
            )

    async def _again(self, line: Line, owed: _Owed) -> None:
        """Send a line once more whose last job is of no use."""
        made = await self._defer(line, after=owed.jobs[line.number])
        if isinstance(made, Refusal):
            owed.done[line.number] = self._refused(line, made)
            made = REFUSED
        owed.jobs[line.number] = made
        self.journal.replace(line.number, made, line.digest)

    def _answered(self, line: Line, answered: Answered) -> bytes:
        """Count what came of a job, and return its output line."""
        failed = is_error(answered.status_code)
        # A job that was cancelled, or expired, has no status of a provider.
        how = answered.status if answered.status_code is None else f"HTTP {answered.status_code}"
        self._count(line, f"{how}: {answered.message}" if failed else None)
        return answer_line(line, answered.raw)

    def _refused(self, line: Line, refusal: Refusal) -> bytes:
        """Count a line that became no job, and return its output line."""
        try:
            body = json.loads(refusal.body)
        except ValueError:
            body = refusal.body.decode("utf-8", "replace")
        response = {"status_code": refusal.status, "request_id": None, "body": body}
        answer = {"id": None, "status": "failed", "response": response, "error": None}
        self._count(line, f"HTTP {refusal.status}: {message_of(refusal.body)}")
        return answer_line(line, json.dumps(answer).encode())

    def _count(self, line: Line, failure: str | None) -> None:
        self.tally.answered += 1
        if failure is None:
            return
        self.tally.failed += 1
        if len(self.tally.failures) < _FAILURES_SHOWN:
            self.tally.failures.append(f"{self.file}:{line.number}: {failure}")

    async def _defer(self, line: Line, *, after: str = REFUSED) -> str | Refusal:
        """Make a job of the line; `after` is the one that was made of it before, if one was."""
        key = f"send:{self.identity}:{line.number}:{line.digest}"
        if after != REFUSED:
            # Its proxy may still know the job that is of no use any more by the usual key.
            key += f":{after}"
        made = await self.remote.defer(line, key)
        if not isinstance(made, Refusal):
            self.tally.sent += 1
        return made

    def _lines(self, *, after: int) -> Iterator[Line]:
        lines = read_lines(self.file, endpoint=self.endpoint, after=after)
        return islice(lines, max(self.count - after, 0))

    def _changed(self, number: int) -> SendError:
        return SendError(
            f"{self.file}:{number}: has changed since it was sent",
            hint="put back what was sent, and the same command goes on",
        )


def _cause(failure: Exception) -> Exception:
    """Return the first failure of a group: the cause of whatever followed from it."""
    while isinstance(failure, ExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def _chunks(lines: Iterator[Line]) -> Iterator[list[Line]]:
    chunk, size = list[Line](), 0
    for line in lines:
        chunk.append(line)
        size += len(line.body)
        if len(chunk) == _CHUNK or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
