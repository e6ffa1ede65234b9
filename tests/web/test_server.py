"""What is answered to bytes that are no call, and when a handler has a bug."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from proxy.web.server import DataServer
from tests.helpers.raw_upstream import RawCaller

SECRET = b"sk-canary-of-the-caller"


@asynccontextmanager
async def serving(handle: Any) -> AsyncIterator[int]:
    runner = web.ServerRunner(DataServer(handle), shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def hello(request: web.BaseRequest) -> web.Response:
    return web.Response(text="hello")


async def buggy(request: web.BaseRequest) -> web.Response:
    raise AssertionError("a bug, at the secret place")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + SECRET + b"\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nAuthorization Bearer " + SECRET + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: " + SECRET + b"\r\n\r\n",
        SECRET + b" / HTTP/9\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_call_are_not_quoted(sent, caplog):
    async with serving(hello) as port, RawCaller(port) as caller:
        await caller.send(sent)
        answer = await caller.response()

    assert answer.start_line.endswith(b"400 Bad Request")
    assert json.loads(answer.body)["error"]["code"] == "bad_request"
    assert SECRET not in answer.head + answer.body
    assert SECRET.decode() not in caplog.text


async def test_a_bug_is_told_in_a_form_that_sdks_read_and_logged_with_its_place(caplog):
    with caplog.at_level(logging.ERROR):
        async with serving(buggy) as port, RawCaller(port) as caller:
            await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await caller.response()

    assert answer.start_line.endswith(b"500 Internal Server Error")
    assert json.loads(answer.body)["error"]["code"] == "internal_error"
    assert b"secret place" not in answer.body
    assert "secret place" in caplog.text


async def test_calls_are_served_as_ever():
    async with serving(hello) as port, RawCaller(port) as caller:
        for _ in range(2):
            await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await caller.response()).body == b"hello"
