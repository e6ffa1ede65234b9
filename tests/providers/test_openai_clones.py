"""What each clone of OpenAI's batch API sends and is sent, as its vendor documents it.

A row of `proxy.core.dialects` becomes a member here by one entry of `CLONES`: its objects
as they come over the wire. Sources: Azure OpenAI batch guide and v1 REST reference; types
of the SDKs of Groq 1.7 and Together 3.1; DeepInfra and Doubleword, which document
OpenAI's own shapes.
"""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest

from proxy.core.dialects import DIALECTS, BatchWire, Mark
from proxy.core.dialects import openai as rows
from proxy.core.errors import ProviderUnavailableError
from proxy.ports.provider import LineKind, ProviderBatchState, Submission
from proxy.providers.openai_family import METADATA_KEY, OpenAIBatches
from tests.providers.kit import (
    all_results,
    batch_api,
    make_batch_id,
    make_credential,
    make_submission,
    openai_at,
)
from tests.providers.recorder import Recorder

RUNNING, CANCELLING, ENDED = ProviderBatchState
CREATED = datetime(2026, 11, 23, 8, tzinfo=UTC)
SECONDS = int(CREATED.timestamp())
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

Shown = Callable[[str, dict[str, Any]], dict[str, Any]]
"""A batch object of the vendor in a state, with some fields."""


def openai_shaped(status: str, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "batch_1",
        "object": "batch",
        "status": status,
        "created_at": SECONDS,
        "expires_at": SECONDS + 86_400,
        "input_file_id": "file-in",
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "output_file_id": None,
        "error_file_id": None,
        "errors": None,
        "metadata": None,
        **more,
    }


def azure_shaped(status: str, more: dict[str, Any]) -> dict[str, Any]:
    shown = openai_shaped(status.title().replace("_", ""), more)
    if status == "in_progress":
        # The words of two parts keep their underscore.
        shown["status"] = "In_progress"
    return {**shown, "created_at": "2026-11-23T08:00:00Z", "request_counts": None}


def together_shaped(status: str, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "batch_1",
        "status": status.upper(),
        "created_at": "2026-11-23T08:00:00.000Z",
        "job_deadline": "2026-11-24T08:00:00Z",
        "input_file_id": "file-in",
        "model_id": "m",
        "progress": 0.0,
        **{name: value for name, value in more.items() if name != "metadata"},
    }


@dataclass(frozen=True, kw_only=True)
class Clone:
    shown: Shown = openai_shaped
    root: str = "/v1"
    """Where files and batches are, below the host."""

    upload: str = "/files"
    purpose: str = "batch"
    upload_fields: frozenset[str] = frozenset(
        {"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"}
    )
    create_fields: frozenset[str] = frozenset(
        {"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"}
    )
    windows: dict[int | None, str] = field(default_factory=lambda: {1: "24h", 48: "24h"})
    """The window asked for, by the hours to the nearest deadline."""

    created: Callable[[dict[str, Any]], Any] = lambda shown: shown
    listed: Callable[[list[dict[str, Any]]], Any] = lambda shown: {"object": "list", "data": shown}
    list_query: str = "?limit=100"
    refused_line: dict[str, Any] = field(
        default_factory=lambda: {
            "response": {"status_code": 400, "body": {"error": {"code": "why"}}},
            "error": None,
        }
    )
    refused_as: tuple[LineKind, str] = (LineKind.ANSWERED, "why")
    credential: tuple[str, str] = ("authorization", "Bearer sk-canary")
    user_agent: str = "offramp"


CLONES = {
    "openai": Clone(),
    "azure": Clone(shown=azure_shaped, root="/openai/v1", credential=("api-key", "canary")),
    "groq": Clone(
        root="/openai/v1",
        upload_fields=frozenset({"file", "purpose"}),
        create_fields=frozenset({"input_file_id", "endpoint", "completion_window", "metadata"}),
        windows={1: "24h", 24: "24h", 26: "7d", None: "7d"},
        list_query="",
    ),
    "together": Clone(
        shown=together_shaped,
        upload="/files/upload",
        purpose="batch-api",
        upload_fields=frozenset({"file", "file_name", "purpose"}),
        create_fields=frozenset({"input_file_id", "endpoint", "completion_window"}),
        created=lambda shown: {"job": shown, "warning": None},
        listed=lambda shown: shown,
        list_query="",
        refused_line={"id": "br_1", "error": {"code": "batch_client_error", "message": "no"}},
        refused_as=(LineKind.NOT_EXECUTED, "batch_client_error"),
        user_agent="OpenAI/Python",
    ),
    "deepinfra": Clone(root="/v1/openai"),
    "doubleword": Clone(windows={0: "1h", 1: "1h", 23: "1h", 24: "24h", 48: "24h"}),
}


def test_every_row_of_this_wire_is_a_member():
    rows = {
        name
        for name, dialect in DIALECTS.items()
        if dialect.batch is not None and dialect.batch.wire is BatchWire.FILES
    }

    assert set(CLONES) == rows


@dataclass(frozen=True)
class Desk:
    """A clone's adapter at a server that answers what it is told to."""

    name: str
    clone: Clone
    wire: Recorder
    provider: OpenAIBatches

    @property
    def credential(self) -> Any:
        return make_credential(headers=(self.clone.credential,), upstream=self.name)

    def shows(self, status: str, **more: Any) -> dict[str, Any]:
        return self.clone.shown(status, more)

    def mine(self, submission: Submission) -> dict[str, Any]:
        """What marks a batch as ours at this provider."""
        return {"metadata": {METADATA_KEY: submission.batch_id}}


@asynccontextmanager
async def opened(name: str) -> AsyncIterator[Desk]:
    async with Recorder.serving() as wire:
        provider = openai_at(wire.base_url, name)
        yield Desk(name, CLONES[name], wire, provider)
        await provider.aclose()


@pytest.fixture(params=list(CLONES))
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with opened(request.param) as made:
        yield made


async def test_an_upload_has_the_fields_and_the_place_of_the_provider(desk):
    submission = make_submission(desk.provider)
    desk.wire.answer({"id": "file-in", "filename": "x.jsonl", "bytes": 7})

    assert await desk.provider.upload(desk.credential, submission) == "file-in"

    (asked,) = desk.wire.asked
    assert (asked.method, asked.target) == ("POST", desk.clone.root + desk.clone.upload)
    fields = multipart(asked.headers["content-type"], asked.body)
    assert set(fields) == desk.clone.upload_fields
    assert fields["purpose"] == desk.clone.purpose.encode()
    assert fields["file"].startswith(b'{"custom_id":"job-0"')
    assert asked.headers[desk.clone.credential[0]] == desk.clone.credential[1]
    assert asked.headers["user-agent"] == desk.clone.user_agent


async def test_a_create_has_the_fields_of_the_provider_and_is_read_as_it_answers(desk):
    submission = make_submission(desk.provider)
    desk.wire.answer(desk.clone.created(desk.shows("validating")))

    batch = await desk.provider.create(desk.credential, submission, "file-in")

    assert (batch.id, batch.state, batch.created_at) == ("batch_1", RUNNING, CREATED)
    assert batch.window_ends_at == CREATED + timedelta(days=1)
    (asked,) = desk.wire.asked
    body = json.loads(asked.body)
    assert (asked.method, asked.target) == ("POST", f"{desk.clone.root}/batches")
    assert set(body) == desk.clone.create_fields
    assert body["input_file_id"] == "file-in"
    if "metadata" in body:
        assert body["metadata"] == {METADATA_KEY: submission.batch_id}


async def test_the_window_follows_from_the_nearest_deadline(desk):
    for hours, word in desk.clone.windows.items():
        slack = None if hours is None else timedelta(hours=hours)
        desk.wire.answer(desk.clone.created(desk.shows("validating")))

        await desk.provider.create(
            desk.credential, make_submission(desk.provider, slack=slack), "file-in"
        )

        assert json.loads(desk.wire.asked[-1].body)["completion_window"] == word


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("validating", RUNNING),
        ("in_progress", RUNNING),
        ("cancelling", CANCELLING),
        ("canceling", CANCELLING),
        ("completed", ENDED),
        ("failed", ENDED),
        ("expired", ENDED),
        ("cancelled", ENDED),
        ("pondering", RUNNING),
    ],
)
async def test_a_status_is_read_in_the_providers_spelling(desk, status, state):
    desk.wire.answer(desk.shows(status))

    batch = await desk.provider.retrieve(desk.credential, "batch_1")

    assert batch.state is state
    assert batch.status == status


async def test_a_batch_that_failed_says_so_though_it_names_no_code(desk):
    desk.wire.answer(desk.shows("failed", error="bad file"))

    batch = await desk.provider.retrieve(desk.credential, "batch_1")

    assert batch.error_code == "batch_failed"
    assert batch.error_message == "bad file"


async def test_after_an_ambiguous_create_a_batch_is_found_by_what_marks_it(desk):
    submission = make_submission(desk.provider)
    marked = desk.mine(submission)
    if batch_api(desk.name).mark is not Mark.METADATA:
        marked = {}
    ours = desk.shows("in_progress", **marked)
    others = desk.shows("in_progress", metadata={METADATA_KEY: make_batch_id()})
    others |= {"id": "batch_0", "input_file_id": "file-theirs"}
    desk.wire.answer(desk.clone.listed([others, ours]))

    found = await desk.provider.find_batches(
        desk.credential, submission.batch_id, created_after=LONG_AGO, input_file_id="file-in"
    )

    assert [batch.id for batch in found] == ["batch_1"]
    assert desk.wire.asked[0].target == f"{desk.clone.root}/batches{desk.clone.list_query}"
    assert desk.provider.limits("x").names_batches


async def test_a_list_that_goes_on_by_a_cursor_is_read_to_its_end():
    async with opened("groq") as desk:
        submission = make_submission(desk.provider)
        others = [desk.shows("completed") | {"id": f"batch_{n}", "created_at": 1} for n in (7, 8)]
        ours = desk.shows("in_progress", **desk.mine(submission))
        page = {"object": "list", "data": others, "paging": {"next_cursor": "cursor_eyJ/=1"}}
        desk.wire.answer(page)
        desk.wire.answer({"object": "list", "data": [ours], "paging": {"next_cursor": None}})

        found = await desk.provider.find_batches(
            desk.credential, submission.batch_id, created_after=CREATED
        )

    assert [batch.id for batch in found] == ["batch_1"]
    targets = [asked.target for asked in desk.wire.asked]
    assert targets == ["/openai/v1/batches", "/openai/v1/batches?cursor=cursor_eyJ%2F%3D1"]


async def test_without_our_file_nothing_is_taken_for_ours():
    async with opened("together") as desk:
        desk.wire.answer([desk.shows("in_progress")])

        found = await desk.provider.find_batches(
            desk.credential, make_batch_id(), created_after=LONG_AGO
        )

    assert found == []


async def test_an_answer_that_is_no_list_of_this_provider_proves_nothing(desk):
    desk.wire.answer({"error": "?"})

    with pytest.raises(ProviderUnavailableError):
        await desk.provider.find_batches(desk.credential, make_batch_id(), created_after=LONG_AGO)


async def test_an_error_file_that_is_named_and_empty_holds_no_lines(desk):
    good = {"custom_id": "job-0", "response": {"status_code": 200, "body": {"id": "x"}}}
    desk.wire.answer(desk.shows("completed", output_file_id="file-o", error_file_id="file-e"))
    desk.wire.answer(json.dumps(good) + "\n")
    desk.wire.answer("")

    batch = await desk.provider.retrieve(desk.credential, "batch_1")
    lines = await all_results(desk.provider, desk.credential, batch.output_file_ids)

    assert batch.output_file_ids == ("file-o", "file-e")
    assert [(line.custom_id, line.body) for line in lines] == [("job-0", b'{"id": "x"}')]


async def test_a_refused_line_is_read_in_the_providers_shape(desk):
    desk.wire.answer(json.dumps({"custom_id": "job-1", **desk.clone.refused_line}))

    (line,) = await all_results(desk.provider, desk.credential, ["file-e"])

    assert (line.kind, line.error_code) == desk.clone.refused_as
    assert line.custom_id == "job-1"
    assert desk.wire.asked[0].target == f"{desk.clone.root}/files/file-e/content"


async def test_a_cancel_and_a_deletion_go_where_the_provider_takes_them(desk):
    desk.wire.answer(desk.shows("cancelling"))
    desk.wire.answer({"id": "file-o", "deleted": True})

    assert (await desk.provider.cancel(desk.credential, "batch_1")).state is CANCELLING
    await desk.provider.delete_file(desk.credential, "file-o")

    assert [(asked.method, asked.target) for asked in desk.wire.asked] == [
        ("POST", f"{desk.clone.root}/batches/batch_1/cancel"),
        ("DELETE", f"{desk.clone.root}/files/file-o"),
    ]


async def test_a_new_clone_is_the_row_and_the_entry_that_the_document_shows(monkeypatch):
    document = (Path(__file__).parents[2] / "proxy" / "README.md").read_text()
    row, entry = re.findall(r"^```py\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    names = dict(vars(rows))
    exec(row, names)
    monkeypatch.setitem(DIALECTS, "novel", names["NOVEL"])
    shown: dict[str, Clone] = {}
    exec(entry, globals() | {"CLONES": shown})
    monkeypatch.setitem(CLONES, "novel", shown["novel"])

    for test in (
        test_an_upload_has_the_fields_and_the_place_of_the_provider,
        test_a_create_has_the_fields_of_the_provider_and_is_read_as_it_answers,
        test_the_window_follows_from_the_nearest_deadline,
        test_after_an_ambiguous_create_a_batch_is_found_by_what_marks_it,
        test_a_cancel_and_a_deletion_go_where_the_provider_takes_them,
    ):
        async with opened("novel") as desk:
            await test(desk)

    test_every_row_of_this_wire_is_a_member()


def multipart(content_type: str, body: bytes) -> dict[str, bytes]:
    """The fields of a form, by name."""
    message = BytesParser().parsebytes(b"Content-Type: " + content_type.encode() + b"\n\n" + body)
    fields = {}
    for part in message.walk():
        name, value = (
            part.get_param("name", header="content-disposition"),
            part.get_payload(decode=True),
        )
        if isinstance(name, str) and isinstance(value, bytes):
            fields[name] = value
    return fields
