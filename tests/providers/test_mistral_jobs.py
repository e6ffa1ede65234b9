"""What is Mistral's own: inline and filed inputs, timeouts, results within a job."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from proxy.core.errors import ProviderRejectedError, ProviderUnavailableError
from proxy.ports.provider import ProviderBatchState
from proxy.providers import mistral_jobs
from proxy.providers.mistral_jobs import METADATA_KEY, MistralBatches
from proxy.sandbox import Running, Sandbox, SandboxSettings
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
from tests.providers.wires import opened_mistral

HOUR = 3_600.0
JOB: dict[str, Any] = {
    "id": "b5f0-1",
    "object": "batch",
    "input_files": [],
    "endpoint": "/v1/chat/completions",
    "errors": [],
    "status": "QUEUED",
    "created_at": 1_795_420_800,
    "total_requests": 2,
    "completed_requests": 0,
    "succeeded_requests": 0,
    "failed_requests": 0,
}
CREDENTIAL = make_credential(upstream="mistral")


@pytest.fixture
async def provider(wire: Recorder) -> AsyncIterator[MistralBatches]:
    async with opened(MistralBatches, "mistral", wire.base_url) as provider:
        yield provider


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with Sandbox(SandboxSettings(time_scale=0, turnaround_s=HOUR)).serve() as running:
        yield running


async def test_fewer_documents_go_into_a_batch_than_other_calls(provider):
    assert provider.limits("/v1/ocr").max_requests == 5_000
    assert provider.limits("/v1/chat/completions").max_requests == 100_000


async def test_a_small_batch_goes_inline_with_our_id_and_its_model(wire, provider):
    bodies = [chat_body("a"), chat_body("b")]
    submission = make_submission(provider, bodies, slack=timedelta(hours=30))
    wire.answer(JOB)

    assert await provider.upload(CREDENTIAL, submission) is None
    batch = await provider.create(CREDENTIAL, submission, None)

    (asked,) = wire.asked
    assert (asked.method, asked.target) == ("POST", "/v1/batch/jobs")
    assert json.loads(asked.body) == {
        "endpoint": "/v1/chat/completions",
        "model": "gpt-5.4-mini",
        "metadata": {METADATA_KEY: submission.batch_id},
        "timeout_hours": 167,
        "requests": [
            {"custom_id": f"job-{n}", "body": json.loads(body)} for n, body in enumerate(bodies)
        ],
    }
    assert batch.window_ends_at == batch.created_at + timedelta(hours=167)
    assert batch.count == 2


async def test_a_large_batch_goes_as_a_file_which_is_found_again(server, monkeypatch):
    monkeypatch.setattr(mistral_jobs, "_INLINE_REQUESTS", 5)
    async with opened_mistral(server.base_url) as provider:
        submission = make_submission(provider, [chat_body(f"q {n}") for n in range(8)])

        file_id = await provider.upload(CREDENTIAL, submission)
        assert file_id is not None
        assert await provider.find_upload(CREDENTIAL, submission) == file_id
        batch = await provider.create(CREDENTIAL, submission, file_id)
        await server.advance(HOUR)
        ended = await provider.retrieve(CREDENTIAL, batch.id)
        lines = await all_results(provider, CREDENTIAL, ended.output_file_ids)
        await provider.delete_file(CREDENTIAL, file_id)
        found_again = await provider.find_upload(CREDENTIAL, submission)

    assert ended.status == "success"
    assert {line.custom_id for line in lines} == {f"job-{n}" for n in range(8)}
    assert {line.status_code for line in lines} == {200}
    assert found_again is None
    assert server.ledger.totals(lane="batch").executions == 8


async def test_a_file_of_another_length_is_not_ours(wire, provider, monkeypatch):
    monkeypatch.setattr(mistral_jobs, "_INLINE_REQUESTS", 1)
    submission = make_submission(provider)
    size = submission.input_bytes - 1
    named = {"id": "f", "filename": f"{submission.batch_id}.jsonl"}

    for entry, expected in (({"bytes": size}, "f"), ({"bytes": size + 1}, None), ({}, None)):
        wire.answer({"object": "list", "data": [{"id": "other"}, {**named, **entry}], "total": 2})
        assert await provider.find_upload(CREDENTIAL, submission) == expected
    assert "purpose=batch&search=" in wire.asked[0].target


async def test_a_search_reads_every_page_since_then_and_matches_our_id_itself(wire, provider):
    batch_id = make_batch_id()
    strangers = [{**JOB, "id": f"x-{n}", "metadata": {METADATA_KEY: "b"}} for n in range(100)]
    ours = {**JOB, "metadata": {METADATA_KEY: batch_id}}
    wire.answer({"object": "list", "data": strangers, "total": 102})
    wire.answer({"object": "list", "data": [strangers[-1], ours], "total": 102})

    found = await provider.find_batches(
        CREDENTIAL, batch_id, created_after=MachineClock().now() - timedelta(hours=1)
    )

    assert [batch.id for batch in found] == [JOB["id"]]
    first, second = (asked.target for asked in wire.asked)
    assert "page=0&page_size=100&order_by=-created&created_after=20" in first
    assert "page=1&" in second


@pytest.mark.parametrize("total", [3, 1_000])
async def test_pages_that_are_smaller_than_asked_for_are_not_the_last_ones(wire, provider, total):
    batch_id = make_batch_id()
    strangers = [{**JOB, "id": f"x-{n}"} for n in range(2)]
    ours = {**JOB, "metadata": {METADATA_KEY: batch_id}}
    for page in (strangers, [ours], []):
        wire.answer({"object": "list", "data": page, "total": total})

    found = await provider.find_batches(CREDENTIAL, batch_id, created_after=MachineClock().now())

    assert [batch.id for batch in found] == [JOB["id"]]


async def test_a_list_that_does_not_end_proves_nothing(wire, provider, monkeypatch):
    monkeypatch.setattr(mistral_jobs, "_LIST_PAGES_MAX", 2)
    for _ in range(2):
        wire.answer({"object": "list", "data": [JOB] * 100, "total": 10_000})

    with pytest.raises(ProviderUnavailableError):
        await provider.find_batches(CREDENTIAL, make_batch_id(), created_after=MachineClock().now())


async def test_a_cancel_says_that_it_has_no_body(wire, provider):
    wire.answer({**JOB, "status": "CANCELLATION_REQUESTED"})

    batch = await provider.cancel(CREDENTIAL, JOB["id"])

    assert batch.state is ProviderBatchState.CANCELLING
    (asked,) = wire.asked
    assert (asked.method, asked.headers["content-length"], asked.body) == ("POST", "0", b"")


async def test_results_without_a_file_are_read_from_the_job_itself(wire, provider):
    done = {**JOB, "status": "SUCCESS", "completed_requests": 2, "succeeded_requests": 2}
    wire.answer({**done, "output_file": None, "error_file": None})
    output = '{"custom_id":"job-1","response":{"status_code":200,"body":{"id" : 1}},"error":null}'
    wire.answer(json.dumps(done)[:-1] + f',"outputs":[{output}]}}')
    wire.answer({"id": JOB["id"], "deleted": True})

    ended = await provider.retrieve(CREDENTIAL, JOB["id"])
    lines = await all_results(provider, CREDENTIAL, ended.output_file_ids)
    for file_id in ended.output_file_ids:
        await provider.delete_file(CREDENTIAL, file_id)

    assert [(line.custom_id, line.body) for line in lines] == [("job-1", b'{"id" : 1}')]
    assert [(asked.method, asked.target) for asked in wire.asked[1:]] == [
        ("GET", f"/v1/batch/jobs/{JOB['id']}?inline=true"),
        ("DELETE", f"/v1/batch/jobs/{JOB['id']}"),
    ]


@pytest.mark.parametrize(
    "answer", ["", "<html>{}</html>", '{"id":"x","outputs":[{"custom_id":"a"}']
)
async def test_results_within_a_job_that_is_not_whole_are_not_all_there_is(wire, provider, answer):
    wire.answer(answer)

    with pytest.raises(ProviderRejectedError, match="no whole document"):
        await all_results(provider, CREDENTIAL, [f"inline:{JOB['id']}"])


async def test_an_id_cannot_lead_to_another_path(wire, provider):
    with pytest.raises(ProviderRejectedError):
        await provider.retrieve(CREDENTIAL, "../files/x?y#z")

    assert wire.asked == []
