"""Wire shapes as recorded from OpenAI and its copies, and what goes out over the wire.

Shapes: OpenAI API description (openapi.yaml, 2026-08-21); the Azure OpenAI batch
guide (capitalised statuses, ISO times, null counts); BerriAI/litellm #33987 (empty
file IDs); openai/openai-python #1643 (token limits on the batch object);
tensorzero/tensorzero #1198 (an error as a success).
"""

import asyncio
import json
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from proxy.core.batch_ends import INPUT_MISSING
from proxy.core.dialects import BatchApi, BatchWire, FilesWay
from proxy.core.dialects.openai import IMAGES_MAX
from proxy.core.errors import (
    CredentialRefusedError,
    ProviderBusyError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from proxy.core.upstream import Upstream
from proxy.ports.provider import LineKind, ProviderBatch, ProviderBatchState
from proxy.providers.openai_family import METADATA_KEY, OpenAIBatches
from tests.providers.kit import (
    CHAT,
    MachineClock,
    all_results,
    make_credential,
    make_submission,
    openai_at,
    serving,
)
from tests.providers.recorder import Recorder

CREATED = 1_795_420_800
BATCH = {
    "id": "batch_66f0",
    "object": "batch",
    "endpoint": CHAT,
    "model": None,
    "errors": None,
    "input_file_id": "file-A1",
    "completion_window": "24h",
    "status": "in_progress",
    "output_file_id": None,
    "error_file_id": None,
    "created_at": CREATED,
    "in_progress_at": None,
    "expires_at": CREATED + 86_400,
    "finalizing_at": None,
    "completed_at": None,
    "failed_at": None,
    "expired_at": None,
    "cancelling_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 0, "completed": 0, "failed": 0},
    "usage": None,
    "metadata": {},
}


@pytest.fixture
async def provider(wire):
    made = openai_at(wire.base_url)
    yield made
    await made.aclose()


async def polled(wire: Recorder, provider: OpenAIBatches, **changed: Any) -> ProviderBatch:
    wire.answer({**BATCH, **changed})
    return await provider.retrieve(make_credential(), "batch_66f0")


RUNNING, CANCELLING, ENDED = ProviderBatchState


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("validating", RUNNING),
        ("in_progress", RUNNING),
        ("finalizing", RUNNING),
        ("cancelling", CANCELLING),
        ("completed", ENDED),
        ("failed", ENDED),
        ("expired", ENDED),
        ("cancelled", ENDED),
        ("Validating", RUNNING),
        ("Completed", ENDED),
        ("canceling", CANCELLING),
        ("IN_PROGRESS", RUNNING),
        ("", RUNNING),
        (None, RUNNING),
        (7, RUNNING),
    ],
)
async def test_a_status_word_is_read_in_any_case(wire, provider, status, state):
    batch = await polled(wire, provider, status=status)

    assert batch.state is state
    assert batch.status == (status.lower() if isinstance(status, str) else "")


@pytest.mark.parametrize(
    "created",
    [CREATED, float(CREATED), str(CREATED), "2026-11-23T08:00:00Z", "2026-11-23T08:00:00",
     "2026-11-23T09:00:00+01:00"],
)  # fmt: skip
async def test_times_are_read_as_seconds_or_as_text(wire, provider, created):
    batch = await polled(wire, provider, created_at=created, expires_at=None)

    assert batch.created_at == datetime.fromtimestamp(CREATED, UTC)
    assert batch.created_at.utcoffset() is not None
    assert batch.window_ends_at is None


@pytest.mark.parametrize(
    "junk",
    ["yesterday", None, True, {}, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z", 1e18],
)
async def test_a_time_that_cannot_be_read_is_now(wire, provider, junk):
    before = MachineClock().now()

    assert (await polled(wire, provider, created_at=junk)).created_at >= before


@pytest.mark.parametrize(
    ("output", "error", "files"),
    [
        (None, None, ()),
        ("", "", ()),
        ("file-o", "", ("file-o",)),
        ("", "file-e", ("file-e",)),
        ("file-o", "file-e", ("file-o", "file-e")),
        (None, "file-e", ("file-e",)),
        ("file-o", "file-o", ("file-o",)),
        (7, " ", ()),
    ],
)
async def test_files_are_those_that_have_an_id_successes_first(
    wire, provider, output, error, files
):
    batch = await polled(
        wire, provider, status="completed", output_file_id=output, error_file_id=error
    )

    assert batch.output_file_ids == files


@pytest.mark.parametrize(
    ("output", "counts", "lacks"),
    [
        (None, {"total": 3, "completed": 2, "failed": 1}, True),
        ("", {"completed": 2}, True),
        (None, {"total": 3, "completed": 0, "failed": 3}, False),
        (None, None, False),
        (None, {"completed": "2"}, False),
        ("file-o", {"total": 3, "completed": 2, "failed": 1}, False),
    ],
)
async def test_counted_successes_without_a_file_are_lacking(wire, provider, output, counts, lacks):
    batch = await polled(
        wire,
        provider,
        status="completed",
        output_file_id=output,
        error_file_id="file-e",
        request_counts=counts,
    )

    assert batch.lacks_answers is lacks


TOKEN_LIMIT = {
    "code": "token_limit_exceeded",
    "message": "Enqueued token limit reached for gpt-5.4-mini.",
    "param": None,
    "line": None,
}


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        (None, ("batch_failed", None, None)),
        ({"object": "list", "data": []}, ("batch_failed", None, None)),
        ({"object": "list", "data": None}, ("batch_failed", None, None)),
        (
            {"object": "list", "data": [TOKEN_LIMIT]},
            ("token_limit_exceeded", TOKEN_LIMIT["message"], None),
        ),
        (
            {"data": [{**TOKEN_LIMIT, "code": None}]},
            ("token_limit_exceeded", TOKEN_LIMIT["message"], None),
        ),
        ([TOKEN_LIMIT], ("token_limit_exceeded", TOKEN_LIMIT["message"], None)),
        (
            {"data": [{"code": "mismatched_model", "param": "body.model", "line": 12}]},
            ("mismatched_model", None, 12),
        ),
        ("text", ("batch_failed", None, None)),
    ],
)
async def test_what_failed_a_batch_is_read_from_its_errors(wire, provider, errors, expected):
    batch = await polled(
        wire, provider, status="failed", errors=errors, request_counts=None, metadata=None
    )

    assert batch.state is ENDED
    assert (batch.error_code, batch.error_message, batch.error_line) == expected


async def test_an_error_as_a_success_is_a_batch_that_is_gone(wire, provider):
    wire.answer({"error": {"message": "No batch found.", "code": None, "type": "x"}})

    with pytest.raises(ProviderRejectedError) as raised:
        await provider.retrieve(make_credential(), "batch_66f0")

    assert raised.value.status_code == 404


async def test_an_error_as_a_success_can_blame_the_account(wire, provider):
    wire.answer({"error": {"message": "Pay.", "code": "billing_not_active"}})

    with pytest.raises(CredentialRefusedError):
        await provider.retrieve(make_credential(), "batch_66f0")


async def test_a_404_right_after_a_create_is_told_as_one(wire, provider):
    wire.answer({"error": {"message": "No batch found with id 'batch_66f0'."}}, status=404)

    with pytest.raises(ProviderRejectedError) as raised:
        await provider.retrieve(make_credential(), "batch_66f0")

    assert raised.value.status_code == 404


@pytest.mark.parametrize(
    "answer", ["", "<html>", "null", "[]", "{}", '{"id": ""}', '{"id": 7}', '{"error": "?"}']
)
async def test_a_create_that_is_answered_with_no_batch_is_unclear(wire, provider, answer):
    wire.answer(answer, content_type="application/json")

    with pytest.raises(ProviderUnavailableError) as raised:
        await provider.create(make_credential(), make_submission(provider), "file-A1")

    assert raised.value.sent


async def test_a_create_may_come_before_its_file_is_visible(wire, provider):
    error = {"message": "Cannot find file file-A1", "param": "file_id", "code": None}
    wire.answer({"error": error}, status=400)

    with pytest.raises(ProviderRejectedError) as raised:
        await provider.create(make_credential(), make_submission(provider), "file-A1")

    assert raised.value.code == INPUT_MISSING


@pytest.mark.parametrize("answer", ["", "<html>", "[]", "{}"])
async def test_an_answer_that_says_nothing_is_no_answer(wire, provider, answer):
    submission = make_submission(provider)
    for _ in range(4):
        wire.answer(answer)

    with pytest.raises(ProviderUnavailableError):
        await provider.upload(make_credential(), submission)
    with pytest.raises(ProviderUnavailableError):
        await provider.retrieve(make_credential(), "batch_1")
    with pytest.raises(ProviderUnavailableError):
        await provider.find_upload(make_credential(), submission)
    with pytest.raises(ProviderUnavailableError):
        await provider.find_batches(
            make_credential(), submission.batch_id, created_after=MachineClock().now()
        )


async def test_an_entry_that_cannot_be_read_does_not_spoil_a_search(wire, provider):
    submission = make_submission(provider)
    ours = {**BATCH, "metadata": {METADATA_KEY: submission.batch_id}, "created_at": "2026-11-23"}
    wire.answer({"data": [None, {"id": 7}, {"id": "x", "metadata": []}, ours]})

    found = await provider.find_batches(
        make_credential(), submission.batch_id, created_after=datetime(2026, 11, 22, tzinfo=UTC)
    )

    assert [batch.id for batch in found] == ["batch_66f0"]


HALF = "cut \ud83d"
"""A text that was cut off amid a surrogate pair, which pydantic takes in no form."""


async def test_a_batch_that_quotes_half_a_surrogate_pair_can_be_polled(wire, provider):
    errors = {"data": [{"code": f"bad_{HALF}", "message": HALF, "line": 3}]}
    batch = await polled(wire, provider, status="failed", errors=errors, metadata={HALF: HALF})

    assert batch.state is ENDED
    assert batch.error_code == "bad_cut \ufffd"
    assert (batch.error_message, batch.error_line) == ("cut \ufffd", 3)


async def test_half_a_surrogate_pair_in_another_s_batch_does_not_spoil_a_search(wire, provider):
    submission = make_submission(provider)
    ours = {**BATCH, "metadata": {METADATA_KEY: submission.batch_id}}
    other = {**BATCH, "id": "batch_other", "metadata": {"title": HALF, HALF: ""}}
    wire.answer({"data": [other, ours]})

    found = await provider.find_batches(
        make_credential(), submission.batch_id, created_after=datetime(2026, 11, 22, tzinfo=UTC)
    )

    assert [batch.id for batch in found] == ["batch_66f0"]


@pytest.mark.parametrize(
    ("first", "says"),
    [
        # The oldest ones come first.
        ([CREATED - 90_000, CREATED - 80_000], {"has_more": True}),
        # Nothing is said of a next page.
        ([CREATED] * 100, {}),
    ],
    ids=["oldest first", "full"],
)
async def test_no_page_of_a_copy_of_the_api_proves_more_than_it_holds(wire, provider, first, says):
    submission = make_submission(provider)
    strangers = [{**BATCH, "id": f"x-{n}", "created_at": at} for n, at in enumerate(first)]
    wire.answer({"data": strangers, **says})
    wire.answer({"data": [{**BATCH, "metadata": {METADATA_KEY: submission.batch_id}}]})

    found = await provider.find_batches(
        make_credential(),
        submission.batch_id,
        created_after=datetime.fromtimestamp(CREATED - 3_600, UTC),
    )

    assert [batch.id for batch in found] == ["batch_66f0"]
    assert wire.asked[1].target.endswith(f"&after=x-{len(first) - 1}")


async def test_a_search_that_cannot_be_finished_proves_nothing(wire, provider):
    for _ in range(2):
        wire.answer({"data": [BATCH], "has_more": True})

    with pytest.raises(ProviderUnavailableError):
        await provider.find_batches(
            make_credential(),
            make_submission(provider).batch_id,
            created_after=datetime(2020, 1, 1, tzinfo=UTC),
        )


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(wire, provider, status):
    wire.answer(status=status, headers={"Location": f"{wire.base_url}/v1/batches/other"})

    with pytest.raises(ProviderUnavailableError):
        await provider.create(make_credential(), make_submission(provider), "file-A1")

    assert len(wire.asked) == 1


async def test_a_create_carries_our_id_and_how_long_results_are_kept(wire, provider):
    submission = make_submission(provider, headers=(("openai-beta", "x=1"),))
    wire.answer(BATCH)

    await provider.create(make_credential(), submission, "file-A1")

    (asked,) = wire.asked
    assert (asked.method, asked.target) == ("POST", "/v1/batches")
    assert asked.headers["openai-beta"] == "x=1"
    assert json.loads(asked.body) == {
        "input_file_id": "file-A1",
        "endpoint": CHAT,
        "completion_window": "24h",
        "metadata": {METADATA_KEY: submission.batch_id},
        "output_expires_after": {"anchor": "created_at", "seconds": 1_209_600},
    }


async def test_an_upload_is_a_form_of_announced_length_that_expires(wire, provider):
    submission = make_submission(provider, [b'{"a":1}', b'{"b":2}'])
    wire.answer({"id": "file-A1", "object": "file"})

    assert await provider.upload(make_credential(), submission) == "file-A1"

    (asked,) = wire.asked
    assert (asked.method, asked.target) == ("POST", "/v1/files")
    assert int(asked.headers["content-length"]) == len(asked.body)
    boundary = asked.headers["content-type"].partition("boundary=")[2].encode()
    parts = dict(
        part.strip(b"\r\n").split(b"\r\n\r\n", 1)
        for part in asked.body.split(b"--" + boundary)[1:-1]
    )
    lines = b"".join([chunk async for chunk in submission.lines()]).strip(b"\r\n")
    assert parts == {
        b'Content-Disposition: form-data; name="purpose"': b"batch",
        b'Content-Disposition: form-data; name="expires_after[anchor]"': b"created_at",
        b'Content-Disposition: form-data; name="expires_after[seconds]"': b"1209600",
        b'Content-Disposition: form-data; name="file"; filename="%s.jsonl"\r\n'
        b"Content-Type: application/jsonl" % submission.batch_id.encode(): lines,
    }


ENVIRONMENT = {
    "OPENAI_API_KEY": "sk-leak",
    "OPENAI_ADMIN_KEY": "sk-leak",
    "OPENAI_ORG_ID": "org-leak",
    "OPENAI_PROJECT_ID": "proj-leak",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/leak",
    "OPENAI_CUSTOM_HEADERS": "X-Leak: leak\nAuthorization: Bearer sk-leak\nHost: leak",
    "HTTP_PROXY": "http://leak:leak@127.0.0.1:9",
    "ALL_PROXY": "http://leak:leak@127.0.0.1:9",
    "http_proxy": "http://leak:leak@127.0.0.1:9",
}


@pytest.mark.parametrize(
    "credential",
    [
        make_credential("sk-mine", ("openai-organization", "org-1"), ("openai-project", "p-1")),
        make_credential("sk-mine"),
    ],
)
async def test_nothing_of_the_environment_goes_out_and_all_of_the_credential_does(
    wire, provider, monkeypatch, credential
):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    wire.answer({"id": "file-A1"})
    wire.answer(BATCH)
    wire.answer({"deleted": True})
    wire.answer('{"custom_id": "a"}\n')

    await provider.upload(credential, make_submission(provider))
    await provider.retrieve(credential, "batch_1")
    await provider.delete_file(credential, "file-A1")
    await all_results(provider, credential, ["file-A1"])

    assert len(wire.asked) == 4
    host = wire.base_url.removeprefix("http://")
    for asked in wire.asked:
        ours = {name: asked.headers.get(name) for name in dict(credential.headers)}
        assert ours == dict(credential.headers)
        sent = {name for name in asked.headers if not name.startswith("x-stainless-")}
        assert sent <= {"host", "accept", "accept-encoding", "connection", "content-type",
                        "content-length", "user-agent", *ours}  # fmt: skip
        assert asked.headers["host"] == host
        assert "leak" not in str(asked.headers)
        assert "sk-mine" not in asked.target


async def test_a_server_of_ones_own_is_called_without_a_credential(wire, provider, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-leak")
    nobody = make_credential()
    object.__setattr__(nobody, "headers", ())
    wire.answer(BATCH)

    await provider.retrieve(nobody, "batch_1")

    assert "authorization" not in wire.asked[0].headers


async def test_an_id_cannot_lead_to_another_path(wire, provider):
    wire.answer(BATCH)

    await provider.retrieve(make_credential(), "../files/x?y#z")

    assert wire.asked[0].target.startswith("/v1/batches/")
    assert wire.asked[0].target.count("/") == 3


async def test_openai_counts_the_inputs_of_embeddings_alone(provider):
    assert provider.limits("/v1/embeddings").max_inputs == 50_000
    assert provider.limits(CHAT).max_inputs is None
    assert provider.limits(CHAT).max_requests == 50_000
    assert provider.limits("/v1/images/generations").max_requests == IMAGES_MAX
    assert provider.limits("/v1/images/edits").max_inputs is None


async def test_a_clone_is_a_row(wire):
    clone = BatchApi(
        wire=BatchWire.FILES,
        max_requests=5,
        max_bytes=100,
        max_line_bytes=10,
        windows=(timedelta(days=7),),
        files=FilesWay(file_life=timedelta(hours=1)),
    )
    provider = OpenAIBatches(
        Upstream.parse("clone", "openai", wire.base_url + "/base/openai"),
        clone,
        clock=MachineClock(),
    )
    wire.answer({**BATCH, "status": "Completed"})

    batch = await provider.create(make_credential(), make_submission(provider), "file-A1")

    assert batch.state is ENDED
    assert wire.asked[0].target == "/base/openai/v1/batches"
    assert b'"completion_window":"7d"' in wire.asked[0].body
    assert b'"seconds":3600' in wire.asked[0].body
    assert provider.limits(CHAT).max_requests == 5
    await provider.aclose()


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("coding", ["identity", "deflate"])
async def test_an_answer_that_does_not_end_takes_no_memory_and_says_nothing(
    monkeypatch, status, coding
):
    monkeypatch.setattr("proxy.providers.openai_client._ANSWER_BYTES_MAX", 100_000)
    spaces = b" " * 1_000_000
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"content-encoding": coding})
        await response.prepare(request)
        coder = zlib.compressobj()
        try:
            while True:
                data = spaces if coding == "identity" else coder.compress(spaces)
                await response.write(data)
                await asyncio.sleep(0)
        except ConnectionError:
            ended.set()
            raise

    app = web.Application()
    app.router.add_get("/v1/batches/{id}", endless)
    async with serving(app) as base_url, asyncio.timeout(30):
        provider = openai_at(base_url)
        with pytest.raises(ProviderUnavailableError, match="does not end"):
            await provider.retrieve(make_credential(), "batch_1")
        await ended.wait()
        await provider.aclose()


async def test_an_early_refusal_of_an_upload_is_told_though_not_all_was_read():
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": {"code": "slow_down"}}, status=429)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    async with serving(app) as base_url:
        early = openai_at(base_url)
        submission = make_submission(early, [b"x" * 100_000] * 100)

        with pytest.raises((ProviderBusyError, ProviderUnavailableError)):
            await early.upload(make_credential(), submission)
        await early.aclose()


async def test_an_upload_that_takes_long_holds_up_no_results():
    arrived = asyncio.Event()
    line = b'{"custom_id":"job-0","response":{"status_code":200,"body":{}}}\n'

    async def upload(request: web.Request) -> web.Response:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def content(request: web.Request) -> web.Response:
        return web.Response(body=line)

    app = web.Application()
    app.router.add_post("/v1/files", upload)
    app.router.add_get("/v1/files/{id}/content", content)
    async with serving(app) as base_url, asyncio.timeout(30):
        provider = openai_at(base_url)
        submission = make_submission(provider, [b"x" * 100_000] * 100)
        async with asyncio.TaskGroup() as group:
            uploading = group.create_task(provider.upload(make_credential(), submission))
            await arrived.wait()
            (read,) = await all_results(provider, make_credential(), ["file-1"])
            uploading.cancel()
        await provider.aclose()

    assert read.custom_id == "job-0"


async def test_closing_ends_what_waits():
    arrived = asyncio.Event()

    async def silent(request: web.Request) -> web.Response:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", silent)
    async with serving(app) as base_url:
        waiting = openai_at(base_url)

        async def poll() -> None:
            with pytest.raises(ProviderUnavailableError):
                await waiting.retrieve(make_credential(), "batch_1")

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(poll())
            await arrived.wait()
            await waiting.aclose()


async def test_a_file_that_ends_within_a_line_gives_what_it_has_and_is_asked_for_again():
    line = b'{"custom_id":"job-%d","response":{"status_code":200,"body":{}},"error":null}\n'

    async def content(request: web.Request) -> web.Response:
        return web.Response(body=line % 0 + line[:40] % 1)

    app = web.Application()
    app.router.add_get("/v1/files/{id}/content", content)
    async with serving(app) as base_url:
        provider = openai_at(base_url)
        results = provider.results(make_credential(), "file-1")
        read = [*await anext(results), *await anext(results)]
        with pytest.raises(ProviderRejectedError, match="no whole document"):
            await anext(results)
        await provider.aclose()

    assert [(line.custom_id, line.kind) for line in read] == [
        ("job-0", LineKind.ANSWERED),
        ("job-1", LineKind.UNREADABLE),
    ]
