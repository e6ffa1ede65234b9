"""What is peculiar to Gemini's OpenAI API, against recorded wire shapes: what is asked of which."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.core.batch_ends import INPUT_MISSING, TOO_MANY_TOKENS
from proxy.core.dialects import DIALECTS, presented_credential
from proxy.core.errors import CredentialRefusedError, ProviderRejectedError
from proxy.core.upstream import Upstream
from proxy.ports.provider import ProviderBatchState
from proxy.providers.gemini_openai_batches import GeminiOpenAIBatches, native_of
from tests.providers.kit import KEY, all_results, make_credential, make_submission, opened
from tests.providers.recorder import Recorder

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
MINE = make_credential(upstream="gemini-openai")
BATCH = {
    "id": "batches/b1",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "input_file_id": "files/f1",
    "completion_window": "24h",
    "status": "validating",
    "created_at": 1_795_435_200,
}


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    async with Recorder.serving() as made:
        yield made


@pytest.fixture
async def provider(recorder: Recorder) -> AsyncIterator[GeminiOpenAIBatches]:
    base_url = f"{recorder.base_url}/base/v1beta/openai"
    async with opened(GeminiOpenAIBatches, "gemini-openai", base_url) as made:
        yield made


NO_FILE = "You do not have permission to access the File f1 or it may not exist."


def refusal(code: int, status: str, message: str = "", *details: Any) -> list[Any]:
    return [{"error": {"code": code, "message": message, "status": status, "details": details}}]


async def test_files_go_to_the_native_api_with_the_key_and_creates_to_the_other_with_a_bearer(
    recorder, provider
):
    place = "/upload/v1beta/files?upload_id=1&upload_protocol=resumable"
    recorder.answer("", headers={"X-Goog-Upload-URL": f"https://elsewhere.example{place}"})
    recorder.answer({"file": {"name": "files/f1"}})
    recorder.answer(BATCH)
    made = make_submission(provider)

    file_id = await provider.upload(MINE, made)
    batch = await provider.create(MINE, made, file_id)

    begun, sent, create = recorder.asked
    assert (begun.target, sent.target) == ("/base/upload/v1beta/files", f"/base{place}")
    for asked in (begun, sent):
        assert asked.headers["x-goog-api-key"] == KEY
        assert "authorization" not in asked.headers
    (line,) = map(json.loads, sent.body.splitlines())
    assert (line["custom_id"], line["url"]) == ("job-0", "/v1/chat/completions")
    assert create.target == "/base/v1beta/openai/batches"
    assert create.headers["authorization"] == f"Bearer {KEY}"
    assert "x-goog-api-key" not in create.headers
    assert json.loads(create.body) == {
        "input_file_id": "files/f1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    assert (batch.id, batch.state) == ("batches/b1", ProviderBatchState.RUNNING)


async def test_a_token_of_oauth_is_a_bearer_in_both_beside_the_project_that_pays(
    recorder, provider
):
    sent = (b"Authorization", b"Bearer ya29.canary"), (b"X-Goog-User-Project", b"mine")
    presented = presented_credential(DIALECTS["gemini-openai"], sent)
    assert presented is not None
    credential = make_credential(headers=presented.headers, upstream="gemini-openai")
    recorder.answer({})
    recorder.answer(BATCH)

    await provider.delete_file(credential, "files/f1")
    await provider.retrieve(credential, "batches/b1")

    for asked in recorder.asked:
        assert asked.headers["authorization"] == "Bearer ya29.canary"
        assert asked.headers["x-goog-user-project"] == "mine"
        assert "x-goog-api-key" not in asked.headers


@pytest.mark.parametrize("shown", ["batches/b1", "b1"])
async def test_a_batch_is_asked_for_by_its_whole_name_and_cancelled_natively(
    recorder, provider, shown
):
    recorder.answer({**BATCH, "id": shown})
    recorder.answer({})
    recorder.answer({**BATCH, "id": shown, "status": "in_progress"})

    batch = await provider.retrieve(MINE, "batches/b1")
    stopped = await provider.cancel(MINE, batch.id)

    assert [(asked.method, asked.target) for asked in recorder.asked] == [
        ("GET", "/base/v1beta/openai/batches/batches/b1"),
        ("POST", "/base/v1beta/batches/b1:cancel"),
        ("GET", "/base/v1beta/openai/batches/batches/b1"),
    ]
    assert (stopped.id, stopped.state) == ("batches/b1", ProviderBatchState.CANCELLING)


async def test_results_are_downloaded_natively_whatever_is_shown_of_their_name(recorder, provider):
    answered = {"custom_id": "job-0", "response": {"status_code": 200, "body": {"id": "c"}}}
    files = {"output_file_id": "files/batch-b1", "error_file_id": "e1"}
    recorder.answer({**BATCH, "status": "completed", **files})
    recorder.answer(json.dumps(answered))
    recorder.answer("")

    batch = await provider.retrieve(MINE, "batches/b1")
    (line,) = await all_results(provider, MINE, batch.output_file_ids)

    assert (line.custom_id, line.status_code, line.body) == ("job-0", 200, b'{"id": "c"}')
    assert [asked.target for asked in recorder.asked[1:]] == [
        "/base/download/v1beta/files/batch-b1:download?alt=media",
        "/base/download/v1beta/files/e1:download?alt=media",
    ]
    assert recorder.asked[1].headers["x-goog-api-key"] == KEY


async def test_a_create_without_an_answer_is_found_by_its_input_among_all_batches(
    recorder, provider
):
    def operation(name: str, file: str | None) -> dict[str, Any]:
        config = {} if file is None else {"inputConfig": {"fileName": file}}
        return {"name": name, "metadata": {"state": "BATCH_STATE_PENDING", **config}}

    inline, other = operation("batches/a", None), operation("batches/c", "files/f2")
    recorder.answer({"operations": [inline], "nextPageToken": "t"})
    recorder.answer({"operations": [operation("batches/b1", "files/f1"), other]})
    recorder.answer(BATCH)

    found = await provider.find_batches(
        MINE, make_submission(provider).batch_id, created_after=LONG_AGO, input_file_id="files/f1"
    )

    assert [batch.id for batch in found] == ["batches/b1"]
    assert recorder.asked[0].target.startswith("/base/v1beta/batches?pageSize=")
    assert "inputConfig/fileName" in recorder.asked[0].target


async def test_a_new_batch_whose_input_the_list_does_not_show_is_asked_for_it(recorder, provider):
    def operation(name: str, created: str) -> dict[str, Any]:
        return {"name": name, "metadata": {"createTime": created}}

    old = operation("batches/a", "2026-11-22T12:00:00Z")
    new = [
        operation(name, "2026-11-23T12:00:00Z") for name in ("batches/b1", "batches/i", "batches/o")
    ]
    recorder.answer({"operations": [old, *new]})
    recorder.answer({**BATCH, "input_file_id": "f1"})
    recorder.answer(refusal(404, "NOT_FOUND"), status=404)
    recorder.answer({**BATCH, "id": "batches/o", "input_file_id": "files/f2"})
    recorder.answer(BATCH)

    found = await provider.find_batches(
        MINE,
        make_submission(provider).batch_id,
        created_after=datetime(2026, 11, 23, 11, tzinfo=UTC),
        input_file_id="files/f1",
    )

    assert [batch.id for batch in found] == ["batches/b1"]
    assert len(recorder.asked) == 5


@pytest.mark.parametrize(
    ("status", "answer", "kind", "code"),
    [
        (404, refusal(404, "NOT_FOUND", "File f1 not found."), "rejected", INPUT_MISSING),
        (404, refusal(404, "NOT_FOUND", "models/m is not found"), "rejected", "model_not_found"),
        (403, refusal(403, "PERMISSION_DENIED", NO_FILE), "rejected", INPUT_MISSING),
        (429, refusal(429, "RESOURCE_EXHAUSTED", "quota"), "rejected", TOO_MANY_TOKENS),
        (400, refusal(400, "INVALID_ARGUMENT", "line 1"), "rejected", "invalid_input"),
    ],
)
async def test_a_refused_create_says_whose_move_it_is(
    recorder, provider, status, answer, kind, code
):
    recorder.answer(answer, status=status)

    with pytest.raises(ProviderRejectedError) as raised:
        await provider.create(MINE, make_submission(provider), "files/f1")

    assert raised.value.code == code


async def test_a_wrong_key_is_told_from_a_wrong_call_within_the_list_of_one(recorder, provider):
    reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    recorder.answer(refusal(400, "INVALID_ARGUMENT", "API key not valid.", reason), status=400)

    with pytest.raises(CredentialRefusedError):
        await provider.create(MINE, make_submission(provider), "files/f1")


@pytest.mark.parametrize("status", ["cancelled", "expired"])
@pytest.mark.parametrize(
    ("more", "is_free"),
    [
        ({"request_counts": {"total": 2, "completed": 0, "failed": 0}}, True),
        ({"request_counts": {"total": 2, "completed": 1, "failed": 0}}, False),
        ({"request_counts": {"total": 2}, "output_file_id": "files/o"}, False),
        ({"request_counts": {"total": 0, "completed": 0, "failed": 0}}, False),
        ({}, False),
    ],
)
async def test_an_end_without_results_bought_nothing_only_if_the_counts_say_so(
    recorder, provider, status, more, is_free
):
    recorder.answer({**BATCH, "status": status, **more})

    batch = await provider.retrieve(MINE, "batches/b1")

    assert batch.error_code == (f"batch_{status}" if is_free else None)


async def test_a_batch_that_is_not_known_may_be_told_with_status_200(recorder, provider):
    recorder.answer(refusal(404, "NOT_FOUND", "Requested entity was not found."))

    with pytest.raises(ProviderRejectedError) as gone:
        await provider.retrieve(MINE, "batches/b1")

    assert gone.value.status_code == 404


def test_the_native_api_is_beside_the_other():
    def upstream(base_url: str) -> Upstream:
        return Upstream.parse("mine", "gemini-openai", base_url)

    native = native_of(upstream("https://gateway.example/google/v1beta/openai"))
    assert (native.base_path, native.dialect) == ("/google", "gemini")
    assert native_of(upstream("https://generativelanguage.googleapis.com")).base_path == ""
