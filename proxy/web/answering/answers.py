"""How the caller of a deferred call is answered, in the mode that it asked for.

Never with something that looks like a completion but is none: wrappers take it
for success. And never without telling the store whether the answer got through:
repeats depend on it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from aiohttp import web

from proxy.core.choice import LaneFacts
from proxy.core.compact_json import compact_json
from proxy.core.dialects import Dialect, Endpoint, Family, Shape, Streaming, error_answer
from proxy.core.errors import CallerError
from proxy.core.ids import JobId
from proxy.core.job import AnswerMode, Job
from proxy.ports.clock import Clock
from proxy.services.outlook import Outlook
from proxy.web.answering.ending_notes import EndingNotes
from proxy.web.answering.final import (
    JOB_HEADER,
    NEVER_AGAIN,
    FinalAnswer,
    abort,
    own_answer,
)
from proxy.web.answering.framing import framing_for
from proxy.web.answering.held import Ending, Holder, Sent, send
from proxy.web.answering.holding import Holding
from proxy.web.answering.job_object import job_object, pending_response, retry_after, status_url
from proxy.web.pages import written

SILENT_HOLD_MAX_S: Final = 240.0
"""How long `Prefer: wait` holds without a byte: Node's `fetch` gives up after 300 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredCall:
    """The parts of a call that decide how it is answered."""

    mode: AnswerMode
    dialect: Dialect
    endpoint: Endpoint
    streaming: Streaming | None = None
    """How the caller wants the answer piece by piece, if it does."""

    include_usage: bool = False
    """`stream_options.include_usage`."""

    retry_count: int = 0
    """What the call said of itself (`x-stainless-retry-count`)."""

    read_timeout_s: float | None = None
    """The caller's read timeout, if it said so."""

    typed_sdk: bool = False
    """Whether an SDK will parse the answer into the type of the endpoint."""

    parsed_at_once: bool = False
    """Whether it will read the text of a completion before its caller gets it."""

    raw_sdk: bool = False
    """Whether an SDK will hand out the answer as it came."""

    takes_no_job: bool = False
    """Whether it would take a job for an empty answer, or lose it."""

    prefer_wait_s: float | None = None
    """`Prefer: respond-async, wait=N`: how long to wait for the result first."""

    preference_applied: bool = False
    """Whether a `Prefer` header is why the call is answered like this."""


class Outlet(Protocol):
    """The way to the caller of one call."""

    async def send(self, data: bytes) -> Ending:
        """Write a whole answer; tell what became of it."""
        ...

    def abort(self) -> None:
        """Break the connection so that what was sent cannot be taken for a whole answer."""
        ...


OnEnd = Callable[[Ending, int | None], None]
"""Hears what became of an answer, and its status if there was one."""


class _Page(NamedTuple):
    """An answer that names a job."""

    alike: tuple[object, ...]
    """All that it depends on but the job's ID."""

    job_id: JobId
    status: int
    data: bytes


class Answers:
    """Answers deferred calls; each exactly once."""

    def __init__(
        self,
        *,
        holder: Holder,
        holding: Holding,
        notes: EndingNotes,
        outlook: Outlook,
        clock: Clock,
    ) -> None:
        self._holder = holder
        self._holding = holding
        self._notes = notes
        self._outlook = outlook
        self._clock = clock
        self._last_page: _Page | None = None

    def has_room(self) -> bool:
        """Return whether a call that is answered in `wait` may be accepted."""
        return self._holding.has_room()

    async def answer(
        self,
        request: web.BaseRequest,
        job: Job,
        call: AnsweredCall,
        facts: LaneFacts | None = None,
        *,
        on_end: OnEnd = lambda _ending, _status: None,
    ) -> web.StreamResponse:
        """Answer the call that made or claimed `job`, and note what became of the answer.

        `facts` is what the lane of the job was chosen by just now, if it was.

        `on_end` is called exactly once, at the very moment that it is known. A
        caller that has its whole answer may hang up then, which cancels this.

        The server must cancel its handlers when callers go (aiohttp's
        `handler_cancellation`); the job goes on nevertheless.
        """
        ending, status = Ending.BROKEN, None
        try:
            sent = await self._send(request, job, call, facts)
            ending, status = sent.ending, sent.response.status
            return sent.response
        finally:
            on_end(ending, status)
            await self._note(job, call, ending, break_off=lambda: abort(request))

    async def answer_at_once(
        self,
        outlet: Outlet,
        job: Job,
        call: AnsweredCall,
        facts: LaneFacts | None,
        *,
        on_end: OnEnd,
    ) -> None:
        """Do what `answer` does for a call that nothing is awaited for."""
        ending, status = Ending.BROKEN, None
        try:
            page = self._page(job, call, facts)
            ending, status = await outlet.send(page.data), page.status
        finally:
            on_end(ending, status)
            await self._note(job, call, ending, break_off=outlet.abort)

    def unheard(self, job_id: JobId, *, retry_count: int) -> None:
        """Note that nobody was told of a job, which may not even have been made."""
        self._notes.note_soon(job_id, flushed=False, retry_count=retry_count)

    def _page(self, job: Job, call: AnsweredCall, facts: LaneFacts | None) -> _Page:
        """Return the answer that names the job, as it is written.

        All that were made of calls that are alike, in one second, differ by their IDs alone.
        """
        alike = (
            *(call, facts, job.key, job.lane_reason, job.decided_by, job.tags),
            *(int(at.timestamp()) for at in (self._clock.now(), job.accepted_at, job.deadline)),
        )
        last = self._last_page
        if last is not None and facts is not None and last.alike == alike:
            data = last.data.replace(last.job_id.encode(), job.id.encode())
            return _Page(alike, job.id, last.status, data)
        answer = _with_headers(self._refer(job, call, facts), *_preference(call, None))
        data = written(answer, method="POST", keep_alive=True, modern=True)
        page = self._last_page = _Page(alike, job.id, answer.status, data)
        return page

    async def _note(
        self, job: Job, call: AnsweredCall, ending: Ending, *, break_off: Callable[[], None]
    ) -> None:
        try:
            await self._notes.note(
                job.id, flushed=ending is Ending.DELIVERED, retry_count=call.retry_count
            )
        finally:
            # Only now: a repeat may come within milliseconds, and must find the note.
            if ending is Ending.BROKEN:
                break_off()

    async def _send(
        self, request: web.BaseRequest, job: Job, call: AnsweredCall, facts: LaneFacts | None
    ) -> Sent:
        family = call.dialect.family
        if call.mode is AnswerMode.WAIT:
            framing = framing_for(
                family,
                call.endpoint.shape,
                streaming=call.streaming,
                include_usage=call.include_usage,
            )
            return await self._holder.hold(
                request, job, framing, family=family, read_timeout_s=call.read_timeout_s
            )
        wait_s = _silent_hold_s(call) if self._holding.has_room() else None
        end = None
        if wait_s is not None:
            end = await self._holder.silently(job, family, for_s=wait_s)
        answer = end if end is not None else self._refer(job, call, facts)
        return await send(request, _with_headers(answer, *_preference(call, wait_s)))

    def _refer(self, job: Job, call: AnsweredCall, facts: LaneFacts | None) -> FinalAnswer:
        """Return the answer that names the job instead of bringing its result."""
        if call.mode is AnswerMode.RAISE or _would_lose_the_id(call):
            return _raised(job, call)
        now = self._clock.now()
        url = status_url(job.id)
        facts = facts or self._outlook.facts(job.key)
        headers = (
            ("Content-Type", "application/json"),
            (JOB_HEADER, job.id),
            ("Location", url),
            *retry_after(job, facts, now=now),
        )
        if call.endpoint.shape is Shape.RESPONSES:
            # OpenAI's own shape for "not yet": SDKs of it poll, some unasked.
            return FinalAnswer(200, headers, compact_json(pending_response(job)))
        content = job_object(job, facts, now=now)
        # google-genai takes nothing but 200 for an answer.
        status = 200 if call.dialect.family is Family.GEMINI else 202
        return FinalAnswer(status, headers, compact_json(content))


def _raised(job: Job, call: AnsweredCall) -> FinalAnswer:
    url = status_url(job.id)
    told = f"accepted as job {job.id}: its status is at {url}, its result at {url}/result"
    if call.mode is not AnswerMode.RAISE:
        told += "; this client cannot be answered with a job, X-Deferrable: wait gets the result"
    error = CallerError(told, code="deferred_accepted")
    return own_answer(error_answer(call.dialect.family, error), job, NEVER_AGAIN)


def _would_lose_the_id(call: AnsweredCall) -> bool:
    # openai-python raises "No embedding data received" for a job object and keeps
    # nothing of it. `parse`, also OpenAI's in JavaScript, goes through a text that is not there.
    is_embedding = call.endpoint.shape is Shape.EMBEDDINGS
    # langchain-openai takes the raw answer, and a Response that is queued for one without
    # text. Who else does so, and wants it queued, says `background`.
    is_raw = call.raw_sdk and call.mode is AnswerMode.JOB
    return (
        call.takes_no_job
        or call.parsed_at_once
        or (call.typed_sdk and is_embedding)
        or (is_raw and call.endpoint.shape is Shape.RESPONSES)
    )


def _silent_hold_s(call: AnsweredCall) -> float | None:
    if call.prefer_wait_s is None:
        return None
    limits = [call.prefer_wait_s, SILENT_HOLD_MAX_S]
    if call.read_timeout_s is not None:
        # A caller that gives up first learns nothing at all.
        limits.append(call.read_timeout_s * 2 / 3)
    return max(0.0, min(limits))


def _preference(call: AnsweredCall, wait_s: float | None) -> tuple[tuple[str, str], ...]:
    if not call.preference_applied:
        return ()
    applied = "respond-async"
    if wait_s is not None:
        applied += f", wait={int(wait_s)}"
    return (("Preference-Applied", applied),)


def _with_headers(answer: FinalAnswer, *headers: tuple[str, str]) -> FinalAnswer:
    return FinalAnswer(answer.status, (*answer.headers, *headers), answer.body)
