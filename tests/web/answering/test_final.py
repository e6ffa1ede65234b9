"""What a job's end means as an HTTP answer, and whether it got through."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web

from proxy.core.dialects import Family
from proxy.core.job import (
    Assigned,
    CancelRequested,
    DeadlinePassed,
    Failed,
    Job,
    Outcome,
    Succeeded,
    advance,
)
from proxy.core.prices import Cost
from proxy.ports.jobs import Result
from proxy.web.answering.final import JOB_HEADER, NEVER_AGAIN, SAVED_HEADER, final_answer, flush
from tests.helpers.factories import T0, make_batch, make_job
from tests.helpers.raw_upstream import wait_until

BODY = b' {"id": "x"}\n'


def completed() -> Job:
    job = advance(make_job(), Assigned(make_batch().id))
    return advance(job, Succeeded(1, T0, Outcome(200)))


def failed(status: int | None) -> Job:
    return advance(make_job(), Failed(0, T0, Outcome(status, "refused", "no")))


def test_a_success_is_the_providers_status_type_and_bytes():
    job = completed()

    answer = final_answer(
        job, Result(status_code=200, body=BODY, content_type="text/plain"), Family.OPENAI
    )

    assert (answer.status, answer.body, answer.is_success) == (200, BODY, True)
    assert answer.headers == (("Content-Type", "text/plain"), (JOB_HEADER, job.id))


def test_what_an_answer_saved_stands_on_it_where_its_price_is_known():
    job = advance(make_job(), Assigned(make_batch().id))
    outcome = Outcome(200, cost=Cost(list_nano=336_000, paid_nano=168_000))
    job = advance(job, Succeeded(1, T0, outcome))

    answer = final_answer(job, Result(status_code=200, body=BODY), Family.OPENAI)

    assert (SAVED_HEADER, "0.000168") in answer.headers


@pytest.mark.parametrize(
    ("family", "header"),
    [
        (Family.OPENAI, "x-request-id"),
        (Family.ANTHROPIC, "request-id"),
        (Family.GEMINI, "x-request-id"),
        (Family.MISTRAL, "x-request-id"),
    ],
)
def test_the_providers_request_id_stands_where_its_sdk_looks_for_it(family, header):
    result = Result(status_code=200, body=BODY, request_id="req_7")

    assert (header, "req_7") in final_answer(completed(), result, family).headers


def test_a_failure_is_the_providers_own_and_final():
    answer = final_answer(failed(429), Result(status_code=429, body=BODY), Family.OPENAI)

    assert (answer.status, answer.body, answer.is_success) == (429, BODY, False)
    assert NEVER_AGAIN in answer.headers


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize(
    ("job", "status", "code"),
    [
        (failed(503), 503, "refused"),
        (failed(None), 502, "refused"),
        (advance(make_job(), DeadlinePassed(T0)), 400, "deadline_passed"),
        (advance(make_job(), CancelRequested(T0)), 400, "job_cancelled"),
        (completed(), 410, "result_gone"),
    ],
)
def test_an_end_without_a_result_is_an_error_of_ours_in_the_callers_dialect(
    job, status, code, family
):
    answer = final_answer(job, None, family)

    assert answer.status == status
    assert code in answer.body.decode()
    assert json.loads(answer.body)["error"]["message"]
    assert (JOB_HEADER, job.id) in answer.headers
    assert NEVER_AGAIN in answer.headers


class Flushes:
    """A server without `handler_cancellation` that flushes one body and remembers how it went."""

    def __init__(self, size: int) -> None:
        self.body = b"x" * size
        self.until: Callable[[web.BaseRequest], object] = bool
        self.asked = False
        self.transport: asyncio.Transport | None = None
        self.flushed: list[bool] = []
        self.left_over: list[int] = []

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked = True
        self.transport = transport = request.transport
        assert transport is not None
        # So small that the system cannot take the body before the client reads.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await wait_until(lambda: self.until(request))
        response = web.Response(body=self.body)
        self.flushed.append(await flush(request, response))
        self.left_over.append(transport.get_write_buffer_size())
        return response


@asynccontextmanager
async def asking(
    flushes: Flushes,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve, and send one request over a connection with a small window."""
    server = web.Server(flushes.handle)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(server, "127.0.0.1", 0)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await loop.sock_connect(client, listener.sockets[0].getsockname())
    reader, writer = await asyncio.open_connection(sock=client)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        await wait_until(lambda: flushes.flushed)
        listener.close()
        await server.shutdown(1)
        await listener.wait_closed()


async def test_flushed_means_that_nothing_is_left_in_the_process():
    # Below the mark at which a transport asks its writers to wait.
    flushes = Flushes(60_000)
    async with asking(flushes) as (reader, _):
        assert (await reader.read(-1)).endswith(flushes.body)

    assert (flushes.flushed, flushes.left_over) == ([True], [0])


async def test_an_answer_to_nobody_is_not_flushed():
    flushes = Flushes(10)
    flushes.until = lambda request: request.transport is None
    async with asking(flushes):
        await wait_until(lambda: flushes.asked)

    assert flushes.flushed == [False]


async def test_an_answer_that_breaks_off_is_not_flushed():
    flushes = Flushes(10_000_000)
    async with asking(flushes) as (reader, _):
        await reader.read(1000)

    assert flushes.flushed == [False]


async def test_an_answer_that_is_cut_off_here_is_not_flushed():
    flushes = Flushes(10_000_000)
    async with asking(flushes) as (reader, _):
        await reader.read(1000)
        assert flushes.transport is not None
        flushes.transport.abort()
        await wait_until(lambda: flushes.flushed)

    assert flushes.flushed == [False]
