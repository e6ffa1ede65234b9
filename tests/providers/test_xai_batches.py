"""What is xAI's own: a batch by name and file, lists without an order, results in pages."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from proxy.core.errors import (
    CredentialRefusedError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from proxy.ports.provider import LineKind, ProviderBatchState
from proxy.providers import xai_batches
from proxy.providers.xai_batches import XaiBatches
from proxy.sandbox import Sandbox, SandboxSettings
from tests.providers.kit import (
    MachineClock,
    all_results,
    chat_body,
    make_batch_id,
    make_credential,
    make_submission,
    opened,
)
from tests.providers.recorder import Recorder
from tests.providers.wires import opened_xai

HOUR = 3_600.0
BATCH: dict[str, Any] = {
    "batch_id": "batch_1934e8b5-f3dc",
    "name": "nightly",
    "create_time": "2026-11-23",
    "expire_time": "2026-12-23",
    "cancel_time": None,
    "cancel_by_xai_message": None,
    "state": {"num_requests": 2, "num_pending": 1, "num_success": 1},
}
PLACE = f"/v1/batches/{BATCH['batch_id']}"
CREDENTIAL = make_credential(upstream="xai")
WRONG_KEY = {
    "code": "Client specified an invalid argument",
    "error": "Incorrect API key provided: xa***yz. You can obtain one from https://console.x.ai.",
}


@pytest.fixture
async def provider(wire: Recorder) -> AsyncIterator[XaiBatches]:
    async with opened(XaiBatches, "xai", wire.base_url) as provider:
        yield provider


async def test_an_input_is_a_file_that_is_told_its_life_first(wire, provider):
    submission = make_submission(provider, [chat_body("a"), chat_body("b")])
    lines = b"".join([chunk async for chunk in submission.lines()])
    wire.answer({"id": "file_1", "object": "file", "bytes": len(lines)})

    assert await provider.upload(CREDENTIAL, submission) == "file_1"

    (asked,) = wire.asked
    before, _, rest = asked.body.partition(b"filename=")
    assert b'name="expires_after"\r\n\r\n1209600\r\n' in before
    assert rest.startswith(f'"{submission.batch_id}.jsonl"'.encode())
    assert lines in rest
    assert b"purpose" not in asked.body
    assert json.loads(lines.splitlines()[0]) == {
        "custom_id": "job-0",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": json.loads(chat_body("a")),
    }


async def test_a_file_is_found_by_name_and_length_among_the_first_pages(
    wire, provider, monkeypatch
):
    monkeypatch.setattr(xai_batches, "_FILE_PAGES_MAX", 2)
    submission = make_submission(provider)
    ours = {"id": "f", "filename": f"{submission.batch_id}.jsonl"}
    page = {"data": [{"id": "x"}, None, {**ours, "bytes": 1}], "pagination_token": "p=2"}

    wire.answer(page)
    wire.answer({"data": [{**ours, "bytes": submission.input_bytes}]})
    assert await provider.find_upload(CREDENTIAL, submission) == "f"
    wire.answer(page)
    wire.answer({**page, "pagination_token": "3"})
    assert await provider.find_upload(CREDENTIAL, submission) is None

    targets = [asked.target for asked in wire.asked]
    assert targets == ["/v1/files?limit=100", "/v1/files?limit=100&pagination_token=p%3D2"] * 2


async def test_a_batch_is_created_of_its_name_and_its_file_at_once(wire, provider):
    submission = make_submission(provider)
    wire.answer({**BATCH, "name": submission.batch_id, "state": {"num_requests": 0}})

    batch = await provider.create(CREDENTIAL, submission, "file_1")

    (asked,) = wire.asked
    assert (asked.method, asked.target) == ("POST", "/v1/batches")
    assert json.loads(asked.body) == {"name": submission.batch_id, "input_file_id": "file_1"}
    assert (batch.state, batch.count) == (ProviderBatchState.RUNNING, None)


async def test_a_search_reads_to_the_end_in_whatever_order_and_asks_no_date(wire, provider):
    batch_id = make_batch_id()
    ours = {**BATCH, "name": batch_id}
    another = {**BATCH, "batch_id": "another", "create_time": "2020-01-01"}
    wire.answer({"batches": [another], "pagination_token": "a/b"})
    wire.answer({"batches": [{"name": batch_id}, None, ours], "pagination_token": "c"})
    wire.answer({"batches": [{**ours, "batch_id": "twin"}, ours], "pagination_token": ""})

    # The hours of its creation are not told: by its date it is older.
    after = MachineClock().now() + timedelta(days=1)
    found = await provider.find_batches(CREDENTIAL, batch_id, created_after=after)

    assert [batch.id for batch in found] == [BATCH["batch_id"], "twin"]
    assert [asked.target for asked in wire.asked] == [
        "/v1/batches?limit=100",
        "/v1/batches?limit=100&pagination_token=a%2Fb",
        "/v1/batches?limit=100&pagination_token=c",
    ]


@pytest.mark.parametrize(
    "pages",
    [
        [{"batches": [], "pagination_token": str(n)} for n in range(2)],
        [{}],
        [{"batches": None}],
        [{"code": "internal", "error": "try again"}],
        [[]],
        ["<html>"],
    ],
)
async def test_a_list_that_does_not_end_or_is_none_proves_nothing(
    wire, provider, monkeypatch, pages
):
    monkeypatch.setattr(xai_batches, "_LIST_PAGES_MAX", 2)
    for page in pages:
        wire.answer(page)

    with pytest.raises(ProviderUnavailableError):
        await provider.find_batches(CREDENTIAL, make_batch_id(), created_after=MachineClock().now())


async def test_a_cancel_is_believed_at_a_later_look_only(wire, provider):
    """Its counts move for a while: what is running when it is stopped may finish yet."""
    done = {"num_requests": 2, "num_pending": 0, "num_success": 1, "num_cancelled": 1}
    stopped = {**BATCH, "cancel_time": "2026-11-23", "state": done}
    wire.answer(stopped)
    wire.answer(stopped)

    cancelling = await provider.cancel(CREDENTIAL, BATCH["batch_id"])
    cancelled = await provider.retrieve(CREDENTIAL, BATCH["batch_id"])

    asked = wire.asked[0]
    assert (asked.method, asked.target, asked.body) == ("POST", f"{PLACE}:cancel", b"")
    assert asked.headers["content-length"] == "0"
    assert cancelling.state is ProviderBatchState.CANCELLING
    assert cancelled.state is ProviderBatchState.ENDED


async def test_results_are_read_page_after_page_and_their_deletion_asks_nothing(wire, provider):
    answer = '{"batch_request_id":"job-%d","batch_result":{"response":{"chat_get_completion":%s}}}'
    refused = '{"batch_request_id":"job-2","batch_result":{"error":"boom"}}'
    wire.answer(f'{{"results":[{answer % (0, "{ }")}],"pagination_token":"job-0"}}')
    wire.answer(f'{{"pagination_token":"job-1","results":[{answer % (1, "{}")}]}}')
    wire.answer('{"results":[]  ,"pagination_token":"job=1"}')
    wire.answer(f'{{"results":[{refused}],"pagination_token":null}}')

    lines = await all_results(provider, CREDENTIAL, [f"results:{BATCH['batch_id']}"])
    await provider.delete_file(CREDENTIAL, f"results:{BATCH['batch_id']}")

    assert [(line.custom_id, line.kind, line.body) for line in lines] == [
        ("job-0", LineKind.ANSWERED, b"{ }"),
        ("job-1", LineKind.ANSWERED, b"{}"),
        ("job-2", LineKind.NOT_EXECUTED, b""),
    ]
    assert [asked.target.removeprefix(PLACE) for asked in wire.asked] == [
        "/results?limit=1000",
        "/results?limit=1000&pagination_token=job-0",
        "/results?limit=1000&pagination_token=job-1",
        "/results?limit=1000&pagination_token=job%3D1",
    ]


@pytest.mark.parametrize(
    ("pages", "error"),
    [
        ([""], ProviderRejectedError),
        (["<html>{}</html>"], ProviderRejectedError),
        (['{"results":[{"batch_request_id":"a"}'], ProviderRejectedError),
        (["{}"], ProviderUnavailableError),
        (['{"code":"internal","error":"try again"}'], ProviderUnavailableError),
        (['{"results":[],"pagination_token":"a"}', "{}"], ProviderUnavailableError),
        (
            ['{"results":[],"pagination_token":"a"}', '{"results":[],"pagination_token":"b"}'],
            ProviderUnavailableError,
        ),
    ],
)
async def test_pages_that_are_not_whole_or_lead_nowhere_are_not_all_there_is(
    wire, provider, monkeypatch, pages, error
):
    monkeypatch.setattr(xai_batches, "_RESULT_PAGES_MAX", 2)
    for page in pages:
        wire.answer(page)

    with pytest.raises(error):
        await all_results(provider, CREDENTIAL, ["results:batch_1"])


async def test_pages_that_lead_back_to_themselves_are_left(wire, provider):
    for _ in range(2):
        wire.answer({"results": [], "batches": [], "pagination_token": "a"})
    with pytest.raises(ProviderUnavailableError, match="themselves"):
        await all_results(provider, CREDENTIAL, ["results:batch_1"])
    for _ in range(2):
        wire.answer({"results": [], "batches": [], "pagination_token": "a"})
    with pytest.raises(ProviderUnavailableError, match="themselves"):
        await provider.find_batches(CREDENTIAL, make_batch_id(), created_after=MachineClock().now())


async def test_more_results_than_a_page_holds_come_all(monkeypatch):
    monkeypatch.setattr(xai_batches, "_RESULTS_LIMIT", 4)
    settings = SandboxSettings(time_scale=0, turnaround_s=HOUR)
    async with Sandbox(settings).serve() as server, opened_xai(server.base_url) as provider:
        submission = make_submission(provider, [chat_body(f"q {n}") for n in range(10)])
        file_id = await provider.upload(CREDENTIAL, submission)
        batch = await provider.create(CREDENTIAL, submission, file_id)
        await server.advance(HOUR)
        ended = await provider.retrieve(CREDENTIAL, batch.id)
        lines = await all_results(provider, CREDENTIAL, ended.output_file_ids)

    assert [line.custom_id for line in lines] == [f"job-{n}" for n in range(10)]
    assert {line.status_code for line in lines} == {200}
    assert server.ledger.requests["GET /xai/v1/batches/{id}/results"] == 3


async def test_a_wrong_key_is_told_from_a_wrong_call_by_its_words_alone(wire, provider):
    submission = make_submission(provider)
    wire.answer(WRONG_KEY, status=400)
    wire.answer({**WRONG_KEY, "error": "`name` is missing"}, status=400)

    with pytest.raises(CredentialRefusedError, match="invalid_api_key"):
        await provider.create(CREDENTIAL, submission, "file_1")
    with pytest.raises(ProviderRejectedError) as raised:
        await provider.create(CREDENTIAL, submission, "file_1")

    assert not isinstance(raised.value, CredentialRefusedError)


async def test_an_input_that_is_not_found_is_looked_for_again(wire, provider):
    wire.answer({"code": "not-found", "error": "File file_1 not found."}, status=404)

    with pytest.raises(ProviderRejectedError) as raised:
        await provider.create(CREDENTIAL, make_submission(provider), "file_1")

    assert raised.value.code == "input_missing"


async def test_an_id_cannot_lead_to_another_path(wire, provider):
    for ask in (provider.retrieve, provider.cancel, provider.delete_file):
        with pytest.raises(ProviderRejectedError):
            await ask(CREDENTIAL, "../files/x?y#z")
    with pytest.raises(ProviderRejectedError):
        await all_results(provider, CREDENTIAL, ["results:../files/x"])

    assert wire.asked == []
