"""Asking an upstream, over a real socket and for free, whether it knows a credential."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.core.upstream import Upstream
from proxy.services.callers.accounts import CredentialVerdict
from proxy.services.callers.verify import Verifier
from proxy.services.direct.call import DirectCaller
from proxy.upstreams.aiohttp_client import AiohttpClient
from tests.helpers.factories import T0, make_credential
from tests.helpers.fakes import FakeClock


class Listing:
    """An upstream that answers everything alike, and remembers what it was asked."""

    def __init__(self, status: int, body: str = "{}") -> None:
        self._status = status
        self._body = body
        self.asked: list[tuple[str, str, dict[str, str]]] = []

    async def answer(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((request.method, request.raw_path, headers))
        return web.Response(status=self._status, text=self._body)

    @asynccontextmanager
    async def verifier(self, *, dialect: str = "openai", path: str = "") -> AsyncIterator[Verifier]:
        application = web.Application()
        application.router.add_route("*", "/{rest:.*}", self.answer)
        async with TestServer(application) as server, asyncio.TaskGroup() as tasks:
            base_url = f"http://127.0.0.1:{server.port}{path}"
            upstreams = {dialect: Upstream.parse(dialect, dialect, base_url)}
            client = AiohttpClient(tasks)
            try:
                yield Verifier(DirectCaller(client, upstreams, FakeClock(T0)), upstreams)
            finally:
                await client.aclose()


async def verdict_of(listing: Listing) -> CredentialVerdict:
    async with listing.verifier() as verify:
        return await verify(make_credential())


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, '{"data":[]}', CredentialVerdict.ACCEPTED),
        (401, "{}", CredentialVerdict.REFUSED),
        (403, "{}", CredentialVerdict.REFUSED),
        (429, '{"error":{"code":"insufficient_quota"}}', CredentialVerdict.REFUSED),
        (429, "{}", CredentialVerdict.UNKNOWN),
        (404, "{}", CredentialVerdict.UNKNOWN),
        (400, "{}", CredentialVerdict.UNKNOWN),
        (400, '{"error": "Incorrect API key provided: xa***z."}', CredentialVerdict.REFUSED),
        (400, '{"error": "Bad request."}', CredentialVerdict.UNKNOWN),
        (500, "{}", CredentialVerdict.UNKNOWN),
        (503, "<html>", CredentialVerdict.UNKNOWN),
        (302, "", CredentialVerdict.UNKNOWN),
    ],
)
async def test_only_a_clear_yes_accepts_and_only_a_clear_no_refuses(
    status: int, body: str, verdict: CredentialVerdict
) -> None:
    assert await verdict_of(Listing(status, body)) is verdict


async def test_what_is_asked_is_the_free_listing_of_models_with_the_credential() -> None:
    listing = Listing(200)

    await verdict_of(listing)

    ((method, path, headers),) = listing.asked
    assert (method, path) == ("GET", "/v1/models")
    assert headers["authorization"] == "Bearer sk-canary-1"
    assert "content-length" not in headers


@pytest.mark.parametrize(
    ("dialect", "path", "asked"),
    [
        ("openai", "/gateway/v1", "/gateway/v1/models"),
        ("openai", "/gateway", "/gateway/v1/models"),
        ("anthropic", "", "/v1/models"),
        ("gemini", "", "/v1beta/models"),
    ],
)
async def test_every_dialect_has_its_listing(dialect: str, path: str, asked: str) -> None:
    listing = Listing(200)

    async with listing.verifier(dialect=dialect, path=path) as verify:
        assert await verify(make_credential(upstream=dialect)) is CredentialVerdict.ACCEPTED

    assert listing.asked[0][1] == asked


async def test_an_upstream_that_is_down_or_gone_says_nothing() -> None:
    async with Listing(200).verifier() as verify:
        assert await verify(make_credential(upstream="groq")) is CredentialVerdict.UNKNOWN

    async with asyncio.TaskGroup() as tasks:
        upstreams = {"openai": Upstream.parse("openai", "openai", "http://127.0.0.1:1")}
        client = AiohttpClient(tasks)
        verify = Verifier(DirectCaller(client, upstreams, FakeClock(T0)), upstreams)
        assert await verify(make_credential()) is CredentialVerdict.UNKNOWN
        await client.aclose()


@pytest.mark.parametrize(
    ("dialect", "asked"),
    [
        ("groq", "/openai/v1/models"),
        ("azure", "/openai/v1/models"),
        # Where the models are listed to anybody, what only a key may ask.
        ("deepinfra", "/v1/openai/batches?limit=1"),
        ("openrouter", "/api/v1/key"),
    ],
)
async def test_a_clone_is_asked_where_its_api_is(dialect: str, asked: str) -> None:
    listing = Listing(200)

    async with listing.verifier(dialect=dialect) as verify:
        verdict = await verify(make_credential(upstream=dialect))

    assert verdict is CredentialVerdict.ACCEPTED
    assert [target for _, target, _ in listing.asked] == [asked]
