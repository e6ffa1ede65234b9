"""What is Gemini's own, against recorded wire shapes: where things go and what is read back."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from proxy.core.batch_ends import TOO_MANY_TOKENS
from proxy.core.errors import (
    CredentialRefusedError,
    ProviderBusyError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from proxy.ports.provider import LineKind, ProviderBatchState, Submission
from proxy.providers.gemini_batches import GeminiBatches
from tests.providers.kit import KEY, all_results, make_submission
from tests.providers.recorder import Recorder
from tests.providers.wires import GEMINI_MODEL, gemini_credential, generate_body, opened_gemini

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
MINE = gemini_credential()
OPERATION = {
    "name": "batches/b1",
    "metadata": {
        "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
        "model": f"models/{GEMINI_MODEL}",
        "state": "BATCH_STATE_PENDING",
        "createTime": "2026-01-01T00:00:00Z",
        "batchStats": {"requestCount": "2", "pendingRequestCount": "2"},
        "name": "batches/b1",
    },
}


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    async with Recorder.serving() as made:
        yield made


@pytest.fixture
async def provider(recorder: Recorder) -> AsyncIterator[GeminiBatches]:
    """One that sends two requests inline and three in a file."""
    async with opened_gemini(f"{recorder.base_url}/base", inline_requests_max=2) as made:
        yield made


def submission(provider: GeminiBatches, count: int = 2, **changes: Any) -> Submission:
    bodies = [generate_body(f"question {n}") for n in range(count)]
    fields = {"endpoint": ":generateContent", "model": GEMINI_MODEL, **changes}
    return make_submission(provider, bodies, **fields)


def query(target: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(target).query)


def refusal(code: int, status: str, message: str = "", *details: Any) -> dict[str, Any]:
    error = {"code": code, "message": message, "status": status, "details": list(details)}
    return {"error": error}


async def test_a_small_batch_goes_inline_under_our_name(recorder, provider):
    recorder.answer(OPERATION)
    made = submission(provider)

    assert await provider.upload(MINE, made) is None
    assert await provider.find_upload(MINE, made) is None
    batch = await provider.create(MINE, made, None)

    (asked,) = recorder.asked
    path = f"/base/v1beta/models/{GEMINI_MODEL}:batchGenerateContent"
    assert (asked.method, urlsplit(asked.target).path) == ("POST", path)
    assert asked.headers["x-goog-api-key"] == KEY
    assert asked.headers["content-length"] == str(len(asked.body))
    assert json.loads(asked.body)["batch"] == {
        "displayName": made.batch_id,
        "inputConfig": {
            "requests": {
                "requests": [
                    {
                        "metadata": {"key": f"job-{n}"},
                        "request": json.loads(generate_body(f"question {n}")),
                    }
                    for n in range(2)
                ]
            }
        },
    }
    assert generate_body("question 1") in asked.body
    assert (batch.id, batch.state, batch.count) == ("batches/b1", ProviderBatchState.RUNNING, 2)


async def test_embeddings_have_a_create_of_their_own(recorder, provider):
    recorder.answer(OPERATION)

    await provider.create(MINE, submission(provider, endpoint=":embedContent"), None)

    assert f"{GEMINI_MODEL}:asyncBatchEmbedContent" in recorder.asked[0].target


async def test_a_larger_one_is_uploaded_to_where_the_provider_says_at_our_own_host(
    recorder, provider
):
    place = "/upload/v1beta/files?upload_id=a%2Fb-1&upload_protocol=resumable"
    recorder.answer("", headers={"X-Goog-Upload-URL": f"https://elsewhere.example{place}"})
    recorder.answer({"file": {"name": "files/f1", "state": "ACTIVE"}})
    recorder.answer(OPERATION)
    made = submission(provider, 3)

    file_id = await provider.upload(MINE, made)
    await provider.create(MINE, made, file_id)

    begun, sent, create = recorder.asked
    assert begun.target == "/base/upload/v1beta/files"
    assert begun.headers["x-goog-upload-command"] == "start"
    assert begun.headers["x-goog-upload-header-content-length"] == str(made.input_bytes)
    assert json.loads(begun.body) == {"file": {"displayName": made.batch_id}}
    assert sent.target == f"/base{place}"
    assert sent.headers["x-goog-upload-command"] == "upload, finalize"
    assert sent.headers["content-type"] == "application/jsonl"
    assert [json.loads(line)["key"] for line in sent.body.splitlines()] == [
        f"job-{n}" for n in range(3)
    ]
    assert json.loads(create.body)["batch"]["inputConfig"] == {"fileName": "files/f1"}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://x.example/elsewhere?upload_id=1",
        "https://x.example/upload/v1beta/files",
        "//x.example",
    ],
)
async def test_a_place_for_the_bytes_that_is_none_gets_none(recorder, provider, url):
    recorder.answer("", headers={"X-Goog-Upload-URL": url})

    with pytest.raises(ProviderUnavailableError):
        await provider.upload(MINE, submission(provider, 3))

    assert len(recorder.asked) == 1


async def test_a_create_is_searched_for_by_its_name_on_every_page(recorder, provider):
    made = submission(provider)

    def named(name: str, display: str, created: str) -> Any:
        metadata = {**OPERATION["metadata"], "displayName": display, "createTime": created}  # type: ignore[dict-item]
        return {"name": name, "metadata": metadata}

    ours = made.batch_id
    recorder.answer(
        {
            "operations": [
                named("batches/late", ours, "2026-01-02T00:00:00Z"),
                named("batches/other", "x", "2026-01-01T00:00:00Z"),
                {"name": "operations/strange"},
            ],
            "nextPageToken": "a b&c",
        }
    )
    recorder.answer({"operations": [named("batches/early", ours, "2026-01-01T00:00:00Z")]})

    found = await provider.find_batches(MINE, ours, created_after=LONG_AGO)

    assert [batch.id for batch in found] == ["batches/early", "batches/late"]
    first, second = (query(asked.target) for asked in recorder.asked)
    assert "pageToken" not in first
    assert second["pageToken"] == ["a b&c"]
    # Or each of them would come with all of its results.
    assert "output/responsesFile" in first["fields"][0]
    assert "inlined" not in first["fields"][0]


async def test_half_a_surrogate_pair_in_another_s_name_does_not_spoil_a_search(recorder, provider):
    made = submission(provider)
    metadata = [{"displayName": name} for name in ("cut \ud83d", made.batch_id)]
    operations = [{"name": f"batches/b{n}", "metadata": one} for n, one in enumerate(metadata)]
    recorder.answer({"operations": operations})

    found = await provider.find_batches(MINE, made.batch_id, created_after=LONG_AGO)

    assert [batch.id for batch in found] == ["batches/b1"]


async def test_a_batch_that_quotes_half_a_surrogate_pair_can_be_polled(recorder, provider):
    metadata = {**OPERATION["metadata"], "state": "BATCH_STATE_FAILED"}  # type: ignore[dict-item]
    error = {"code": 3, "message": "row 2: cut \ud83d"}
    recorder.answer({**OPERATION, "metadata": metadata, "done": True, "error": error})

    batch = await provider.retrieve(MINE, "batches/b1")

    assert batch.state is ProviderBatchState.ENDED
    assert batch.error_code == "INVALID_ARGUMENT"
    assert (batch.error_message, batch.error_line) == ("row 2: cut \ufffd", 2)


async def test_a_list_that_does_not_end_proves_nothing(recorder, provider, monkeypatch):
    monkeypatch.setattr("proxy.providers.gemini_files._PAGES_MAX", 3)
    for _ in range(3):
        recorder.answer({"nextPageToken": "again"})

    with pytest.raises(ProviderUnavailableError):
        await provider.find_batches(MINE, submission(provider).batch_id, created_after=LONG_AGO)


INLINED = [
    {"metadata": {"key": "job-0"}, "response": {"candidates": []}},
    {"metadata": {"key": "job-1"}, "error": {"code": 3, "message": "no"}},
]


async def test_inline_results_are_read_out_of_the_batch(recorder, provider):
    recorder.answer({"metadata": {"output": {}}})
    recorder.answer({"metadata": {"output": {"inlinedResponses": {"inlinedResponses": INLINED}}}})

    lines = await all_results(provider, MINE, ["batches/b1"])

    assert [(line.custom_id, line.status_code) for line in lines] == [
        ("job-0", 200),
        ("job-1", 400),
    ]


async def test_inline_results_are_read_that_only_the_response_tells(recorder, provider):
    recorder.answer({})
    recorder.answer({})
    recorder.answer({"response": {"inlinedResponses": {"inlinedResponses": INLINED}}})

    lines = await all_results(provider, MINE, ["batches/b1"])

    assert [line.custom_id for line in lines] == ["job-0", "job-1"]
    masks = [query(asked.target)["fields"][0] for asked in recorder.asked]
    assert masks[1:] == ["metadata/output", "response"]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "<html>Back soon.</html>",
        '{"metadata":{"output":',
        json.dumps({"metadata": {"output": {"inlinedResponses": {"inlinedResponses": INLINED}}}})[
            : -len("]}}}}")
        ],
    ],
)
async def test_inline_results_that_are_not_whole_are_not_all_there_is(recorder, provider, answer):
    recorder.answer({"metadata": {"output": {}}})
    recorder.answer(answer)

    with pytest.raises(ProviderRejectedError, match="no whole document"):
        await all_results(provider, MINE, ["batches/b1"])


@pytest.mark.parametrize(
    "place", [lambda output: {"metadata": {"output": output}}, lambda output: {"response": output}]
)
async def test_results_in_a_file_are_downloaded(recorder, provider, place):
    recorder.answer(place({"responsesFile": "files/batch-b1"}))
    recorder.answer('{"key":"job-0","response":{}}\n{"key":"job-1","status":{"code":14}}')

    lines = await all_results(provider, MINE, ["batches/b1"])

    assert [(line.custom_id, line.status_code) for line in lines] == [
        ("job-0", 200),
        ("job-1", 503),
    ]
    download = recorder.asked[1].target
    assert download == "/base/download/v1beta/files/batch-b1:download?alt=media"


@pytest.mark.parametrize("answer", ["[]", "no JSON", '{"metadata": 7}'])
async def test_results_of_what_is_no_batch_are_asked_for_again(recorder, provider, answer):
    recorder.answer(answer)

    with pytest.raises(ProviderUnavailableError):
        await all_results(provider, MINE, ["batches/b1"])


async def test_a_batch_that_left_no_results_has_none(recorder, provider):
    for _ in range(3):
        recorder.answer({})

    assert await all_results(provider, MINE, ["batches/b1"]) == []


async def test_a_file_at_a_strange_place_is_not_asked_for(recorder, provider):
    recorder.answer({"metadata": {"output": {"responsesFile": "files/../../v1/secrets"}}})

    with pytest.raises(ProviderRejectedError):
        await all_results(provider, MINE, ["batches/b1"])

    assert len(recorder.asked) == 1


async def test_a_cancel_answers_nothing_so_the_batch_is_asked(recorder, provider):
    recorder.answer({})
    recorder.answer(OPERATION)

    batch = await provider.cancel(MINE, "batches/b1")

    assert batch.state is ProviderBatchState.CANCELLING
    cancel, retrieve = recorder.asked
    assert (cancel.method, cancel.target) == ("POST", "/base/v1beta/batches/b1:cancel")
    assert retrieve.method == "GET"


@pytest.mark.parametrize("name", ["files/f1", "batches/b1"])
@pytest.mark.parametrize(
    "gone",
    [
        (404, refusal(404, "NOT_FOUND")),
        (
            403,
            refusal(
                403,
                "PERMISSION_DENIED",
                "You do not have permission to access the File f1 or it may not exist.",
            ),
        ),
    ],
)
async def test_what_is_gone_already_is_deleted(recorder, provider, name, gone):
    status, answer = gone
    recorder.answer(answer, status=status)

    await provider.delete_file(MINE, name)

    assert (recorder.asked[0].method, recorder.asked[0].target) == (
        "DELETE",
        f"/base/v1beta/{name}",
    )


async def test_what_may_not_be_deleted_is_told(recorder, provider):
    recorder.answer(refusal(400, "FAILED_PRECONDITION", "still running"), status=400)

    with pytest.raises(ProviderRejectedError):
        await provider.delete_file(MINE, "batches/b1")


INVALID_KEY = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "API_KEY_INVALID",
    "domain": "googleapis.com",
}
RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}


@pytest.mark.parametrize(
    ("status", "answer", "error", "code"),
    [
        (
            400,
            refusal(400, "INVALID_ARGUMENT", "API key not valid.", INVALID_KEY),
            CredentialRefusedError,
            "credential_paused",
        ),
        (
            429,
            refusal(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota"),
            ProviderRejectedError,
            TOO_MANY_TOKENS,
        ),
        (
            429,
            refusal(429, "RESOURCE_EXHAUSTED", "slow down", RETRY),
            ProviderBusyError,
            "provider_busy",
        ),
        (
            429,
            refusal(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."),
            CredentialRefusedError,
            "credential_paused",
        ),
        (
            404,
            refusal(404, "NOT_FOUND", "is not found, or is not supported for batches"),
            ProviderRejectedError,
            "model_not_found",
        ),
        (
            400,
            refusal(400, "FAILED_PRECONDITION", "The file is not ACTIVE."),
            ProviderBusyError,
            "provider_busy",
        ),
        (
            400,
            refusal(400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
            ProviderRejectedError,
            "invalid_input",
        ),
        (
            403,
            refusal(403, "PERMISSION_DENIED", "permission to access the File f1"),
            ProviderRejectedError,
            "provider_rejected",
        ),
        (
            503,
            refusal(503, "UNAVAILABLE", "busy"),
            ProviderUnavailableError,
            "provider_unavailable",
        ),
    ],
)
async def test_a_refused_create_says_whose_move_it_is(
    recorder, provider, status, answer, error, code
):
    recorder.answer(answer, status=status)

    with pytest.raises(error) as raised:
        await provider.create(MINE, submission(provider), None)

    assert type(raised.value) is error
    assert (raised.value.code, raised.value.status_code) == (code, status)


async def test_a_refused_create_names_the_line_if_the_provider_does(recorder, provider):
    message = "Unknown name \"x\" at 'batch.input_config.requests.requests[1].request'"
    recorder.answer(refusal(400, "INVALID_ARGUMENT", message), status=400)

    with pytest.raises(ProviderRejectedError) as raised:
        await provider.create(MINE, submission(provider), None)

    assert raised.value.line == 2


@pytest.mark.parametrize("difference", [-1, 1])
async def test_an_inline_input_of_another_length_is_surely_not_bought(
    recorder, provider, difference
):
    honest = submission(provider)
    wrong = replace(honest, input_bytes=honest.input_bytes + difference)

    with pytest.raises(ProviderUnavailableError) as raised:
        await provider.create(MINE, wrong, None)

    assert not raised.value.sent


async def test_a_name_that_is_none_is_never_part_of_a_target(recorder, provider):
    for name in ("batches/../files", "batches/a?b", "operations/a", ""):
        with pytest.raises(ProviderRejectedError) as raised:
            await provider.retrieve(MINE, name)
        assert raised.value.status_code == 404

    assert recorder.asked == []


async def test_a_broken_line_does_not_hide_the_others(recorder, provider):
    recorder.answer({"metadata": {"output": {"responsesFile": "files/f"}}})
    recorder.answer('{"key":"job-0","resp\n{"key":"job-1","response":{}}\n')

    lines = await all_results(provider, MINE, ["batches/b1"])

    assert [(line.kind, line.custom_id) for line in lines] == [
        (LineKind.UNREADABLE, "job-0"),
        (LineKind.ANSWERED, "job-1"),
    ]
