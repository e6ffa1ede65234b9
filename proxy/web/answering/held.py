"""Holding a caller's connection until its job has ended.

Before the first byte nothing is committed: an early end keeps its own status and
exact body. After it the status is 200 and heartbeats keep every client and every
proxy on the way from giving up. What then fails can only be told by breaking the
connection, or, in a stream, by the API's own error event.

Measured with fourteen SDKs: JSON parsers skip leading white space, read timeouts
count from the last byte, and Node's `fetch` gives up after 300 s of silence.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from aiohttp import web

from proxy.core.dialects import Family, error_answer
from proxy.core.errors import CallerError, ProxyError, StoppingError, StoreUnavailableError
from proxy.core.job import Job
from proxy.ports.clock import Clock
from proxy.ports.jobs import JobStore
from proxy.services.waiters import Waiters
from proxy.web.answering.final import (
    JOB_HEADER,
    FinalAnswer,
    abort,
    begin,
    final_answer,
    flush,
    flush_bytes,
    own_answer,
)
from proxy.web.answering.framing import Framing, JsonFraming
from proxy.web.answering.holding import Hold, Holding, LetGoError, TooManyHeldError
from proxy.web.answering.job_object import retry_after_s
from proxy.web.pages import page_for

HEARTBEAT_AFTER_S: Final = 20.0
"""First byte: late enough for most refusals, early enough for every client measured."""

HEARTBEAT_EVERY_S: Final = 10.0
TYPED_HOLD_S: Final = 600.0
"""How long a retrieval is held: the read timeout of OpenAI's and Anthropic's SDKs."""

READ_TIMEOUT_BOUNDS_S: Final = (3.0, 600.0)
"""What a caller may say of its own read timeout: no reason to send a byte per millisecond."""

_STORE_PAUSE_S: Final = 1.0
"""Between two questions for a job while the store is away, for each held
connection. One that is away may fail at once, and without a pause they would do nothing but ask."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When bytes are sent to one caller, in seconds."""

    first_after_s: float
    every_s: float

    @classmethod
    def of(
        cls,
        *,
        heartbeat_after_s: float,
        read_timeout_s: float | None,
        heartbeat_every_s: float = HEARTBEAT_EVERY_S,
    ) -> "Rhythm":
        """Return the rhythm for a caller: two heartbeats may be lost before it gives up."""
        if read_timeout_s is None:
            return cls(heartbeat_after_s, heartbeat_every_s)
        low, high = READ_TIMEOUT_BOUNDS_S
        third = min(max(read_timeout_s, low), high) / 3
        return cls(min(heartbeat_after_s, third), min(heartbeat_every_s, third))


class Ending(Enum):
    """What became of an answer."""

    DELIVERED = "delivered"
    TURNED_AWAY = "turned_away"
    """The caller was told to come again, and nothing about its job."""

    BROKEN = "broken"
    """The connection is gone, or must be broken."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a handler returns to the server, and what became of it."""

    response: web.StreamResponse
    ending: Ending


class Holder:
    """Answers over connections that it holds. The jobs go on whatever becomes of them."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        waiters: Waiters,
        holding: Holding,
        clock: Clock,
        heartbeat_after_s: float = HEARTBEAT_AFTER_S,
        heartbeat_every_s: float = HEARTBEAT_EVERY_S,
    ) -> None:
        self._jobs = jobs
        self._waiters = waiters
        self._holding = holding
        self._clock = clock
        self._heartbeat_after_s = heartbeat_after_s
        self._heartbeat_every_s = heartbeat_every_s

    async def hold(
        self,
        request: web.BaseRequest,
        job: Job,
        framing: Framing,
        *,
        family: Family,
        read_timeout_s: float | None,
    ) -> Sent:
        """Hold the connection until `job` has ended, however long that takes.

        With no room for one more the caller is turned away with 429, also the
        one that claimed its job: a later repeat can claim it again.

        A `BROKEN` answer is to be noted first and aborted then, so that a repeat,
        which may come within milliseconds, finds the note.
        """
        if not job.state.is_terminal and self._holding.is_full:
            return await self._turn_away(request, job, family, TooManyHeldError())
        rhythm = self._rhythm(read_timeout_s)
        with self._holding.enter(job.id, is_waiter=True) as hold:
            try:
                early = await self._early(hold, job, family, for_s=rhythm.first_after_s)
            except LetGoError:
                return await self._turn_away(request, job, family, _stopping(job))
            if early is not None:
                return await send(request, framing.early(early))
            return await self._commit(request, job, framing, family=family, every_s=rhythm.every_s)

    async def silently(self, job: Job, family: Family, *, for_s: float) -> FinalAnswer | None:
        """Return the end if it comes within `for_s`, else nothing; nothing is sent.

        Also nothing as soon as the instance drains.
        """
        with self._holding.enter(job.id, is_waiter=True) as hold:
            try:
                return await self._early(hold, job, family, for_s=for_s)
            except LetGoError:
                return None

    async def awaited(self, job: Job, *, for_s: float) -> Job:
        """Return the job once it has ended, or as it is after `for_s`; nothing is sent.

        Also as it is as soon as the instance drains.

        Raises:
            OverloadedError: if no more connections can be held.
            JobNotFoundError: if it is erased in the meantime.
        """
        if not self._holding.has_room():
            raise TooManyHeldError
        with self._holding.enter(job.id, is_waiter=False) as hold:
            try:
                return await hold.uncommitted(self._waiters.until_terminal(job.id, timeout_s=for_s))
            except LetGoError:
                return job

    async def hold_typed(
        self,
        request: web.BaseRequest,
        job: Job,
        *,
        family: Family,
        read_timeout_s: float | None,
        wait_s: float,
    ) -> web.StreamResponse:
        """Answer a GET of the result by a typed SDK, held for `wait_s` at most.

        Still pending before the first byte: 409 with `Retry-After`, which SDKs
        ask again by themselves. After it: aborted, which they repeat as well.

        Raises:
            OverloadedError: if no more connections can be held.
        """
        if not job.state.is_terminal and not self._holding.has_room():
            raise TooManyHeldError
        wait_s = min(max(wait_s, 0.0), TYPED_HOLD_S)
        rhythm = self._rhythm(read_timeout_s)
        with self._holding.enter(job.id, is_waiter=False) as hold:
            first_after_s = min(rhythm.first_after_s, wait_s)
            try:
                early = await self._early(hold, job, family, for_s=first_after_s)
            except LetGoError:
                return (await self._turn_away(request, job, family, _stopping(job))).response
            if early is None and wait_s <= first_after_s:
                early = self._still_pending(job, family)
            if early is not None:
                return (await send(request, early)).response
            left_s = wait_s - first_after_s
            sent = await self._commit(
                request, job, JsonFraming(), family=family, every_s=rhythm.every_s, for_s=left_s
            )
        if sent.ending is Ending.BROKEN:
            abort(request)
        return sent.response

    def _rhythm(self, read_timeout_s: float | None) -> Rhythm:
        return Rhythm.of(
            heartbeat_after_s=self._heartbeat_after_s,
            heartbeat_every_s=self._heartbeat_every_s,
            read_timeout_s=read_timeout_s,
        )

    async def _early(
        self, hold: Hold, job: Job, family: Family, *, for_s: float
    ) -> FinalAnswer | None:
        until = self._clock.monotonic() + for_s
        try:
            return await hold.uncommitted(self._end(job, family, until=until))
        except ProxyError as error:
            # The job was erased, or cannot be read: there is still time to say so.
            return own_answer(error_answer(family, error), job)

    async def _commit(
        self,
        request: web.BaseRequest,
        job: Job,
        framing: Framing,
        *,
        family: Family,
        every_s: float,
        for_s: float = float("inf"),
    ) -> Sent:
        headers = (*framing.headers, (JOB_HEADER, job.id))
        response = web.StreamResponse(headers=headers)
        try:
            await begin(request, response)
            body = await self._beat(response, job, framing, family, every_s=every_s, for_s=for_s)
            if body is None:
                return Sent(response, Ending.BROKEN)
            await response.write(body)
        except ConnectionError:
            return Sent(response, Ending.BROKEN)
        flushed = await flush(request, response)
        return Sent(response, Ending.DELIVERED if flushed else Ending.BROKEN)

    async def _beat(
        self,
        response: web.StreamResponse,
        job: Job,
        framing: Framing,
        family: Family,
        *,
        every_s: float,
        for_s: float,
    ) -> bytes | None:
        """Send heartbeats until the end; return the body, or nothing if none can be told."""
        give_up = self._clock.monotonic() + for_s
        while True:
            await response.write(framing.heartbeat)
            now = self._clock.monotonic()
            try:
                end = await self._end(job, family, until=min(now + every_s, give_up))
            except ProxyError:
                return None
            if end is not None:
                return framing.late(end)
            if self._clock.monotonic() >= give_up:
                return None

    async def _end(self, job: Job, family: Family, *, until: float) -> FinalAnswer | None:
        """Return the end of the job, or nothing if it is pending at `until` of the clock.

        A store that is away is waited for: the job is durable, and the caller
        has nothing to gain from hearing of it.
        """
        while True:
            left_s = until - self._clock.monotonic()
            try:
                if not job.state.is_terminal:
                    job = await self._waiters.until_terminal(job.id, timeout_s=max(left_s, 0.0))
                if job.state.is_terminal:
                    return final_answer(job, await self._jobs.result(job.id), family)
            except StoreUnavailableError:
                await self._clock.sleep(min(_STORE_PAUSE_S, max(left_s, 0.0)))
            if self._clock.monotonic() >= until:
                return None

    async def _turn_away(
        self, request: web.BaseRequest, job: Job, family: Family, why: ProxyError
    ) -> Sent:
        sent = await send(request, own_answer(error_answer(family, why), job))
        if sent.ending is Ending.DELIVERED:
            return Sent(sent.response, Ending.TURNED_AWAY)
        return sent

    def _still_pending(self, job: Job, family: Family) -> FinalAnswer:
        pending = CallerError(
            f"job {job.id} has no result yet", code="job_pending", http_status=409
        )
        pause_s = retry_after_s(job, now=self._clock.now()) or 1
        return own_answer(error_answer(family, pending), job, ("Retry-After", str(pause_s)))


def _stopping(job: Job) -> StoppingError:
    return StoppingError(
        f"this instance is stopping; job {job.id} goes on, and the same call claims it"
    )


async def send(request: web.BaseRequest, answer: FinalAnswer) -> Sent:
    """Send a whole answer at once."""
    data, response = page_for(request, answer)
    flushed = await flush_bytes(request.protocol, data)
    return Sent(response, Ending.DELIVERED if flushed else Ending.BROKEN)
