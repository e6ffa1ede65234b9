"""What is Anthropic's own: inline creates, searches without names, batches that are deleted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from proxy.core.errors import (
    CredentialRefusedError,
    ProviderBusyError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from proxy.core.upstream import Upstream
from proxy.ports.provider import ProviderBatchState, Submission
from proxy.providers.anthropic_batches import AnthropicBatches
from proxy.sandbox import HttpFault, Running, Sandbox, SandboxSettings
from proxy.upstreams.aiohttp_client import AiohttpClient
from tests.helpers.fakes import FakeClock
from tests.providers.kit import (
    KEY,
    T0,
    all_results,
    batch_api,
    client_tasks,
    make_submission,
    serving,
)
from tests.providers.wires import (
    ANTHROPIC,
    MESSAGES,
    anthropic_credential,
    message_body,
    opened_anthropic,
)

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
MINE = anthropic_credential()


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with Sandbox(SandboxSettings(time_scale=0, turnaround_s=3_600)).serve() as running:
        yield running


@pytest.fixture
async def provider(server: Running) -> AsyncIterator[AnthropicBatches]:
    async with opened_anthropic(server.base_url) as made:
        yield made


def batch_of(provider: AnthropicBatches, count: int = 3, **changes: Any) -> Submission:
    bodies = [message_body(f"question {n}") for n in range(count)]
    return replace(make_submission(provider, bodies, endpoint=MESSAGES), **changes)


async def test_batch_wide_headers_and_the_callers_credential_go_out_as_they_are():
    seen: dict[str, Any] = {}

    async def create(request: web.Request) -> web.Response:
        seen.update(headers=request.headers.copy(), raw=await request.read())
        return web.json_response({"id": "msgbatch_1", "processing_status": "in_progress"})

    app = web.Application()
    app.router.add_post("/base/v1/messages/batches", create)
    headers = (("anthropic-beta", "output-300k,x"), ("anthropic-version", "2026-10-21"))

    async with serving(app) as base_url, opened_anthropic(f"{base_url}/base") as provider:
        submission = batch_of(provider, headers=headers)
        await provider.create(MINE, submission, None)

    sent = seen["headers"]
    assert (sent["anthropic-beta"], sent["anthropic-version"]) == ("output-300k,x", "2026-10-21")
    assert (sent["x-api-key"], "authorization" in sent) == (KEY, False)
    assert sent["content-length"] == str(len(seen["raw"]))
    assert sent["connection"] == "close"
    assert message_body("question 1") in seen["raw"]


async def test_without_a_version_of_the_callers_one_is_given(server, provider):
    batch = await provider.create(MINE, batch_of(provider), None)

    assert (batch.count, batch.state) == (3, ProviderBatchState.RUNNING)
    assert server.ledger.requests[ANTHROPIC.create] == 1


@pytest.mark.parametrize("difference", [-1, 1])
async def test_an_input_of_another_length_than_announced_is_surely_not_bought(
    server, provider, difference
):
    honest = batch_of(provider)
    wrong = replace(honest, input_bytes=honest.input_bytes + difference)

    with pytest.raises(ProviderUnavailableError) as raised:
        await provider.create(MINE, wrong, None)

    assert not raised.value.sent
    assert await provider.find_batches(MINE, honest.batch_id, created_after=LONG_AGO) == []


async def test_an_overloaded_api_did_surely_nothing(server, provider):
    server.faults.add(HttpFault(action="status", status=529))

    with pytest.raises(ProviderBusyError):
        await provider.create(MINE, batch_of(provider), None)


async def test_an_unpaid_account_pauses_the_credential(server, provider):
    server.keys.exhaust(KEY)

    with pytest.raises(CredentialRefusedError) as raised:
        await provider.create(MINE, batch_of(provider), None)

    assert raised.value.status_code == 402


async def test_a_search_returns_whatever_the_account_created_since(server, provider):
    submission = batch_of(provider)
    old = await provider.create(MINE, submission, None)
    await server.advance(600)
    sizes = [1, 2, 3]
    young = [await provider.create(MINE, batch_of(provider, size), None) for size in sizes]
    since = old.created_at + timedelta(seconds=1)

    async def found(after: datetime) -> list[tuple[str, int | None]]:
        batches = await provider.find_batches(MINE, submission.batch_id, created_after=after)
        return [(batch.id, batch.count) for batch in batches]

    assert not provider.limits(MESSAGES).names_batches
    newest = sorted((batch.id, size) for batch, size in zip(young, sizes, strict=True))
    assert sorted(await found(since)) == newest
    assert (old.id, 3) in await found(LONG_AGO)


async def test_a_search_reads_page_after_page_but_no_further_than_needed(server, provider):
    first = await provider.create(MINE, batch_of(provider, 1), None)
    await server.advance(60)
    await asyncio.gather(*(provider.create(MINE, batch_of(provider, 1), None) for _ in range(119)))

    batch_id = batch_of(provider).batch_id
    all_of_them = await provider.find_batches(MINE, batch_id, created_after=LONG_AGO)
    assert server.ledger.requests["GET /v1/messages/batches"] == 2
    await server.advance(60)
    await asyncio.gather(*(provider.create(MINE, batch_of(provider, 1), None) for _ in range(100)))
    since = first.created_at + timedelta(seconds=100)
    recent = await provider.find_batches(MINE, batch_id, created_after=since)

    assert (len(all_of_them), all_of_them[0].id) == (120, first.id)
    assert len(recent) == 100
    assert server.ledger.requests["GET /v1/messages/batches"] == 4


async def test_a_batch_is_deleted_with_its_results_and_twice_is_no_error(server, provider):
    batch = await provider.create(MINE, batch_of(provider), None)
    with pytest.raises(ProviderRejectedError):
        await provider.delete_file(MINE, batch.id)
    with pytest.raises(ProviderRejectedError) as raised:
        await all_results(provider, MINE, [batch.id])
    assert raised.value.status_code == 404
    await server.advance(3_600)
    ended = await provider.retrieve(MINE, batch.id)
    assert len(await all_results(provider, MINE, ended.output_file_ids)) == 3

    await provider.delete_file(MINE, batch.id)
    await provider.delete_file(MINE, batch.id)

    with pytest.raises(ProviderRejectedError):
        await provider.retrieve(MINE, batch.id)


@pytest.mark.parametrize("strange", ["../x", "a/b", "a?b", "a b", "", "é"])
async def test_an_id_that_is_none_never_becomes_part_of_a_target(server, provider, strange):
    with pytest.raises(ProviderRejectedError):
        await provider.retrieve(MINE, strange)

    assert sum(server.ledger.requests.values()) == 0


@asynccontextmanager
async def reading_by(clock: FakeClock, base_url: str) -> AsyncIterator[AnthropicBatches]:
    """Open an adapter whose time is given."""
    async with client_tasks() as tasks:
        client = AiohttpClient(tasks)
        upstream = Upstream.parse("anthropic", "anthropic", base_url)
        yield AnthropicBatches(upstream, batch_api("anthropic"), client, clock=clock)
        await client.aclose()


async def test_results_that_come_by_drops_are_given_up_and_slow_readers_are_not():
    clock = FakeClock(T0)
    line = b'{"custom_id":"job-0","result":{"type":"succeeded","message":{}}}\n'
    wait_s = 50

    async def results(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            clock.advance(seconds=wait_s)
            await response.write(line)
            await asyncio.sleep(0)
        return response

    app = web.Application()
    app.router.add_get("/v1/messages/batches/{id}/results", results)
    async with serving(app) as base_url, reading_by(clock, base_url) as provider:
        with pytest.raises(ProviderUnavailableError, match="by drops"):
            await all_results(provider, MINE, ["msgbatch_1"])

        wait_s, read = 0, 0
        async for lines in provider.results(MINE, "msgbatch_1"):
            clock.advance(hours=1)
            read += len(lines)
        assert read == 100
