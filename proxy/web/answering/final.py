"""How the end of a job is answered over HTTP, and whether the answer reached its caller.

The provider's status and body are passed on unchanged. Where a provider gave none, the error is
ours, in the envelope of the caller's dialect.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpVersion11
from aiohttp.http_writer import StreamWriter

from proxy.core.dialects import ErrorAnswer, Family, error_answer
from proxy.core.job import Job
from proxy.core.prices import usd
from proxy.ports.jobs import Result
from proxy.web.answering.job_object import missing_result
from proxy.web.forwarding.endings import finish_on_close, reset_on_close

JOB_HEADER: Final = "X-Deferrable-Job"
"""Carries the job's ID on every answer to a deferred call."""

SAVED_HEADER: Final = "X-Deferrable-Saved-USD"
"""What the answer cost less than an ordinary call; absent where prices are not known."""

NEVER_AGAIN: Final = ("x-should-retry", "false")
"""Tells the OpenAI and Anthropic SDKs that the failure is final, whatever its status."""

_REQUEST_ID_HEADER: Final = {
    Family.OPENAI: "x-request-id",
    Family.ANTHROPIC: "request-id",
    Family.GEMINI: "x-request-id",
    Family.MISTRAL: "x-request-id",
}
"""Where the SDKs of a family look for the provider's request ID."""


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """An answer that nothing needs to be awaited for any more."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether a caller gets what it asked for."""
        return self.status < 400


def final_answer(job: Job, result: Result | None, family: Family) -> FinalAnswer:
    """Return the answer to a call whose job is terminal.

    `result` is the job's own, if there is one: a failed job may have one too.
    """
    assert job.state.is_terminal
    if result is None:
        return own_answer(error_answer(family, missing_result(job)), job, NEVER_AGAIN)
    headers = [("Content-Type", result.content_type), (JOB_HEADER, job.id)]
    if job.outcome is not None and job.outcome.cost is not None:
        headers.append((SAVED_HEADER, usd(job.outcome.cost.saved_nano)))
    if result.request_id is not None:
        headers.append((_REQUEST_ID_HEADER[family], result.request_id))
    if result.status_code >= 400:
        headers.append(NEVER_AGAIN)
    return FinalAnswer(result.status_code, tuple(headers), result.body)


def own_answer(answer: ErrorAnswer, job: Job, *headers: tuple[str, str]) -> FinalAnswer:
    """Return an error of ours as the answer to a deferred call."""
    return FinalAnswer(
        answer.status, (*answer.headers, (JOB_HEADER, job.id), *headers), answer.body
    )


def response_of(answer: FinalAnswer | ErrorAnswer, *more: tuple[str, str]) -> web.Response:
    """Return the answer as aiohttp sends it, with `more` headers."""
    headers = (*answer.headers, *more)
    return web.Response(status=answer.status, headers=headers, body=answer.body)


async def begin(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Send the head of an answer whose body follows in pieces; `flush` ends it.

    Raises:
        ConnectionError: if the caller left.
    """
    if request.version < HttpVersion11:
        # It knows no chunks: until all is told, no end may look like that of the body.
        reset_on_close(request.transport)
    await response.prepare(request)


async def flush(request: web.BaseRequest, response: web.StreamResponse) -> bool:
    """End the response and return whether the operating system has taken all of it.

    A connection that breaks before is no error here: the caller is told by the
    return value. `response` may have begun already.
    """
    if request.transport is None:
        return False
    try:
        await response.prepare(request)
        await response.write_eof()
    except ConnectionError:
        return False
    flushed = await flush_bytes(request.protocol, b"")
    if flushed:
        finish_on_close(request.transport)
    return flushed


async def flush_bytes(connection: BaseProtocol, data: bytes) -> bool:
    """Write to the caller; tell whether the operating system has taken all of it."""
    transport = connection.transport
    if transport is None:
        return False
    try:
        transport.write(data)
        if transport.get_write_buffer_size():
            await _drain(connection, transport)
    except ConnectionError:
        return False
    return connection.transport is not None and not transport.is_closing()


async def _drain(connection: BaseProtocol, transport: asyncio.WriteTransport) -> None:
    # Normally a drain lets go while 16 KB still wait in the process; with a mark of
    # zero it waits for the last byte.
    transport.set_write_buffer_limits(high=0)
    try:
        await StreamWriter(connection, asyncio.get_running_loop()).drain()
    finally:
        transport.set_write_buffer_limits()


def abort(request: web.BaseRequest) -> None:
    """Break the connection so that what was sent cannot be taken for a whole answer."""
    transport = request.transport
    if transport is None:
        return
    # To a client of HTTP/1.0, which knows no chunks, an orderly end is the end of the body.
    reset_on_close(transport)
    transport.abort()
