"""Direct calls over real sockets: what leaves, what comes back, what is known to be sent."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.core.errors import ProviderRejectedError, ProviderUnavailableError
from proxy.core.upstream import Upstream
from proxy.services.direct import call as module
from proxy.services.direct.call import CallAnswer, DirectCaller
from proxy.upstreams.aiohttp_client import AiohttpClient
from tests.helpers.factories import BODY, T0, make_credential, make_job, make_key
from tests.helpers.fakes import FakeClock
from tests.helpers.raw_upstream import RawUpstream

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def caller_of(port: int, *, dialect: str = "openai") -> AsyncIterator[DirectCaller]:
    upstream = Upstream.parse("openai", dialect, f"http://127.0.0.1:{port}")
    async with asyncio.TaskGroup() as tasks:
        client = AiohttpClient(tasks)
        try:
            yield DirectCaller(client, {"openai": upstream}, FakeClock(T0))
        finally:
            await client.aclose()


@asynccontextmanager
async def upstream_with(
    handler: Handler, *, dialect: str = "openai"
) -> AsyncIterator[DirectCaller]:
    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", handler)
    async with TestServer(application) as server:
        assert server.port is not None
        async with caller_of(server.port, dialect=dialect) as caller:
            yield caller


async def called(caller: DirectCaller, body: bytes = BODY, **changes) -> CallAnswer:
    return await caller.call(make_job(**changes), make_credential(), body)


async def test_a_call_leaves_as_an_ordinary_client_would_make_it() -> None:
    seen: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(request.headers)
        seen["line"] = f"{request.method} {request.raw_path}"
        seen["body"] = await request.read()
        return web.Response(body=b"{}")

    async with upstream_with(handler) as caller:
        await called(
            caller,
            target="/v1/chat/completions?x=%2F",
            headers={"openai-beta": "b", "accept": "application/xml"},
            key=make_key(headers=(("anthropic-version", "2023-06-01"),)),
        )

    assert seen["line"] == "POST /v1/chat/completions?x=%2F"
    assert seen["body"] == BODY
    names = {name.lower(): value for name, value in seen.items() if isinstance(value, str)}
    assert names.pop("host").startswith("127.0.0.1:")
    assert names == {
        "line": "POST /v1/chat/completions?x=%2F",
        "authorization": "Bearer sk-canary-1",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        "accept": "application/xml",
        "accept-encoding": "identity",
        "user-agent": "offramp",
        "openai-beta": "b",
        "anthropic-version": "2023-06-01",
    }


async def test_calls_and_listings_are_made_by_a_name_that_the_provider_lets_in() -> None:
    """What stands before Together's API answers 403 to those that it does not know."""
    agents = []

    async def handler(request: web.Request) -> web.Response:
        agents.append(request.headers.get("user-agent"))
        return web.Response(body=b"{}")

    async with upstream_with(handler, dialect="together") as caller:
        await called(caller)
        await caller.list_models(make_credential(), "/v1/models", {})

    assert agents == ["OpenAI/Python"] * 2


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500, 503])
async def test_every_status_is_an_answer_with_its_exact_bytes(status: int) -> None:
    body = b'{"error" : {"code":"x"},\t"n":1.0}\n'

    async def handler(_: web.Request) -> web.Response:
        return web.Response(
            status=status,
            body=body,
            headers={"x-request-id": "req-1", "content-type": "application/json; charset=utf-8"},
        )

    async with upstream_with(handler) as caller:
        answer = await called(caller)

    assert (answer.result.status_code, answer.answer.status) == (status, status)
    assert answer.result.body == body
    assert answer.result.request_id == "req-1"
    assert answer.result.content_type == "application/json; charset=utf-8"
    assert answer.answer.error_code == "x"


async def test_a_body_that_is_no_json_is_kept_all_the_same() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=502, text="<html>bad gateway", content_type="text/html")

    async with upstream_with(handler) as caller:
        answer = await called(caller)

    assert answer.result.body == b"<html>bad gateway"
    assert answer.answer.content is None
    assert answer.answer.error_code is None


async def test_an_answer_cut_off_amid_a_surrogate_pair_says_what_it_cost_and_in_which_tier() -> (
    None
):
    body = (
        b'{"choices":[{"message":{"content":"smile \\ud83d"}}],"service_tier":"flex",'
        b'"usage":{"prompt_tokens":10,"completion_tokens":5}}'
    )

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async with upstream_with(handler) as caller:
        answer = await called(caller)

    assert answer.result.body == body
    assert answer.answer.tier == "flex"
    assert answer.answer.outcome().usage == {"prompt_tokens": 10, "completion_tokens": 5}


async def test_an_answer_in_many_pieces_comes_whole() -> None:
    pieces = [b'{"a":"', b"x" * 300_000, b'"', b"}"]

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    async with upstream_with(handler) as caller:
        answer = await called(caller)

    assert answer.result.body == b"".join(pieces)


@pytest.mark.parametrize(
    ("value", "pause"),
    [
        ("7", timedelta(seconds=7)),
        ("0", timedelta(0)),
        ("1.5", timedelta(seconds=1.5)),
        (format_datetime(T0 + timedelta(seconds=90), usegmt=True), timedelta(seconds=90)),
        ("9" * 40, timedelta(days=1)),
        ("soon", None),
    ],
)
async def test_a_wish_to_be_left_alone_is_read(value, pause) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": value})

    async with upstream_with(handler) as caller:
        answer = await called(caller)

    assert answer.retry_after == pause


async def test_anthropics_request_id_is_found_under_its_own_name() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(headers={"request-id": "req-2"})

    async with upstream_with(handler) as caller:
        assert (await called(caller)).result.request_id == "req-2"


async def test_a_refused_connection_sent_nothing() -> None:
    async with RawUpstream(_never) as upstream:
        port = upstream.port
    async with caller_of(port) as caller:
        with pytest.raises(ProviderUnavailableError) as raised:
            await called(caller)

    assert not raised.value.sent


async def test_an_answer_that_breaks_off_is_no_answer() -> None:
    async def script(connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

    async with RawUpstream(script) as upstream, caller_of(upstream.port) as caller:
        with pytest.raises(ProviderUnavailableError) as raised:
            await called(caller)

    assert raised.value.sent


async def test_a_call_whose_connection_breaks_may_have_been_billed_and_is_sent_once() -> None:
    async def script(connection) -> None:
        await connection.request()

    async with RawUpstream(script) as upstream:
        async with caller_of(upstream.port) as caller:
            with pytest.raises(ProviderUnavailableError) as raised:
                await called(caller)
        assert raised.value.sent
        assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(200, "answer_too_long"), (503, "provider_unavailable")]
)
async def test_an_answer_without_end_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    monkeypatch.setattr(module, "ANSWER_BYTES_MAX", 1_000)

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, body=b"x" * 1_001)

    async with upstream_with(handler) as caller:
        with pytest.raises(ProviderUnavailableError, match="longer than 1000 bytes") as raised:
            await called(caller)

    assert (raised.value.sent, raised.value.code) == (True, code)


async def test_an_upstream_that_is_not_configured_any_more_is_sent_nothing() -> None:
    async with caller_of(1) as caller:
        with pytest.raises(ProviderRejectedError, match="groq") as raised:
            await called(caller, key=make_key(upstream="groq"))

    assert not raised.value.sent


async def test_no_error_shows_a_credential_or_a_prompt() -> None:
    async with caller_of(1) as caller:
        with pytest.raises(ProviderUnavailableError) as raised:
            await called(caller)

    assert "canary" not in str(raised.value)
    assert "hello" not in str(raised.value)


async def _never(connection) -> None:
    raise AssertionError("nobody calls here")


async def test_an_answer_that_is_compressed_unasked_is_given_out_as_it_was_meant():
    async def handler(_: web.Request) -> web.Response:
        plain = b'{"usage": {"prompt_tokens": 3}}'
        return web.Response(body=gzip.compress(plain), headers={"Content-Encoding": "gzip"})

    async with upstream_with(handler) as caller:
        answer = await called(caller)

    assert answer.result.body == b'{"usage": {"prompt_tokens": 3}}'
    assert answer.answer.outcome().usage == {"prompt_tokens": 3}


@pytest.mark.parametrize(
    "body",
    [b"no gzip", gzip.compress(b"{}")[:-3], gzip.compress(bytes(10_000))],
    # Not their bytes, which hold the time: workers would collect different tests.
    ids=["of another kind", "cut off", "too long"],
)
async def test_what_cannot_be_inflated_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, body: bytes
):
    monkeypatch.setattr(module, "ANSWER_BYTES_MAX", 9_999)

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    async with upstream_with(handler) as caller:
        answer = await called(caller)

    assert answer.result.body == body
