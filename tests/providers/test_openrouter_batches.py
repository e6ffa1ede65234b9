"""What is OpenRouter's own: the order of a create, results in the batch, no way to stop it."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from proxy.core.errors import ProviderRejectedError, ProviderUnavailableError
from proxy.providers import inline
from proxy.providers.openrouter_batches import OpenRouterBatches
from tests.providers.kit import (
    CHAT,
    MachineClock,
    all_results,
    chat_body,
    make_batch_id,
    make_credential,
    make_submission,
    opened,
)
from tests.providers.recorder import Recorder

BATCH: dict[str, Any] = {
    "id": "batch_1",
    "object": "batch",
    "status": "validating",
    "endpoint": CHAT,
    "model": "gpt-5.4-mini",
    "created_at": 1_795_420_800,
    "request_counts": {"total": 0, "completed": 0, "failed": 0},
    "error": None,
    "results": None,
}
CREDENTIAL = make_credential(upstream="openrouter")


@pytest.fixture
async def provider(wire: Recorder) -> AsyncIterator[OpenRouterBatches]:
    async with opened(OpenRouterBatches, "openrouter", wire.base_url) as provider:
        yield provider


async def test_the_requests_come_last_in_a_create_which_is_answered_with_202(wire, provider):
    bodies = [chat_body("a"), chat_body("b")]
    wire.answer(BATCH, status=202)

    batch = await provider.create(CREDENTIAL, make_submission(provider, bodies), None)

    (asked,) = wire.asked
    sent = json.loads(asked.body)
    assert asked.target == "/api/v1/batches"
    assert list(sent) == ["endpoint", "model", "requests"]
    assert [line["body"] for line in sent["requests"]] == [json.loads(body) for body in bodies]
    assert (batch.id, batch.count) == ("batch_1", None)


async def test_results_are_those_in_the_batch_and_a_poll_reads_past_them(wire, provider):
    answer = '{"id" : "gen-1", "results":[{}]}'
    good = f'{{"id":"r1","custom_id":"job-0","response":{{"status_code":200,"body":{answer}}}}}'
    bad = {
        "id": "r2",
        "custom_id": "job-1",
        "response": None,
        "error": {"message": "no", "param": None, "type": "invalid_request_error"},
    }
    head = json.dumps({name: value for name, value in BATCH.items() if name != "results"})
    ended = head.replace("validating", "completed").replace('"total": 0', '"total": 2')[:-1]
    document = f'{ended}, "results": [{good}, {json.dumps(bad)}]}}'
    wire.answer(document)
    wire.answer(document)

    batch = await provider.retrieve(CREDENTIAL, "batch_1")
    lines = await all_results(provider, CREDENTIAL, batch.output_file_ids)

    assert (batch.status, batch.count) == ("completed", 2)
    assert [(line.custom_id, line.status_code, line.error_code) for line in lines] == [
        ("job-0", 200, None),
        ("job-1", 0, "invalid_request_error"),
    ]
    assert lines[0].body == answer.encode()


async def test_a_batch_cannot_be_stopped_and_nothing_is_sent(wire, provider):
    with pytest.raises(ProviderRejectedError):
        await provider.cancel(CREDENTIAL, "batch_1")

    assert not provider.limits(CHAT).can_cancel
    assert not provider.limits(CHAT).names_batches
    assert wire.asked == []


async def test_a_search_goes_back_page_by_page_to_the_time_asked_for(wire, provider):
    now = MachineClock().now()
    young = {**BATCH, "created_at": int(now.timestamp())}
    old = {**BATCH, "created_at": int((now - timedelta(hours=2)).timestamp())}
    page = [{**young, "id": f"x-{n}"} for n in range(100)]
    wire.answer({"object": "list", "data": page, "last_id": "x-99"})
    wire.answer({"object": "list", "data": [{**young, "id": "y"}, {**old, "id": "z"}]})

    found = await provider.find_batches(
        CREDENTIAL, make_batch_id(), created_after=now - timedelta(hours=1)
    )

    assert {batch.id for batch in found} == {f"x-{n}" for n in range(100)} | {"y"}
    assert wire.asked[1].target == "/api/v1/batches?limit=100&after=x-99"


async def test_a_list_that_does_not_end_proves_nothing(wire, provider, monkeypatch):
    monkeypatch.setattr(inline, "LIST_PAGES_MAX", 1)
    wire.answer({"data": [{**BATCH, "created_at": 4_000_000_000}] * 100})

    with pytest.raises(ProviderUnavailableError):
        await provider.find_batches(CREDENTIAL, make_batch_id(), created_after=MachineClock().now())
