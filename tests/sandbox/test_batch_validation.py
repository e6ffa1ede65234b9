"""What fails a whole batch before any line runs: nothing is executed, nothing billed."""

import json
from typing import Any

import pytest

from proxy.sandbox import DEFAULT_MODELS, ModelSpec
from tests.sandbox.rigs import Rig, chat_body, jsonl, line, started

GOOD = line(0)
EMBEDDING = {"model": "text-embedding-3-small", "input": "a"}


def without(name: str) -> dict[str, Any]:
    entry = line(1)
    del entry[name]
    return entry


async def complaint(
    rig: Rig, content: bytes | list[dict[str, Any]], **fields: Any
) -> tuple[str, str | None, int | None]:
    """Return the one complaint about a batch, after checking that it cost nothing."""
    batch = await rig.batch((await rig.submit(content, **fields))["id"])
    assert batch["status"] == "failed", batch["status"]
    assert batch["failed_at"] is not None
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert batch["output_file_id"] is None
    assert batch["error_file_id"] is None
    assert batch["in_progress_at"] is None
    assert rig.running.ledger.totals().executions == 0
    assert len(batch["errors"]["data"]) == 1
    entry = batch["errors"]["data"][0]
    return entry["code"], entry["param"], entry["line"]


@pytest.mark.parametrize(
    ("second", "code", "param"),
    [
        (without("custom_id"), "missing_required_parameter", "custom_id"),
        (without("method"), "missing_required_parameter", "method"),
        (without("url"), "missing_required_parameter", "url"),
        (without("body"), "missing_required_parameter", "body"),
        (line(0), "duplicate_custom_id", "custom_id"),
        (line(1, custom_id=7), "invalid_request", "custom_id"),
        (line(1, method="GET"), "invalid_method", "method"),
        (line(1, url="/v1/embeddings", body=EMBEDDING), "url_mismatch", "url"),
        (line(1, url="/v2/chat"), "invalid_url", "url"),
        (line(1, body=chat_body(model="gpt-5.4")), "mismatched_model", "body.model"),
        (line(1, body=chat_body(stream=True)), "streaming_unsupported", "body.stream"),
        (line(1, body="text"), "invalid_request", "body"),
    ],
)
async def test_the_first_bad_line_fails_the_batch(rig, second, code, param):
    content = [GOOD, second, line(0)]

    assert await complaint(rig, content) == (code, param, 2)


@pytest.mark.parametrize(
    ("content", "line_number"),
    [
        (jsonl([GOOD]) + b"{broken\n", 2),
        (b"\xef\xbb\xbf" + jsonl([GOOD]), 1),
        (json.dumps(GOOD, indent=1).encode(), 1),
        (b'["a list"]\n', 1),
        (jsonl([GOOD]) + b"\n" + jsonl([line(1)]), 2),
    ],
    ids=["broken", "byte order mark", "pretty-printed", "list", "blank line"],
)
async def test_a_line_that_is_no_json_object_fails_the_batch(rig, content, line_number):
    code, _, number = await complaint(rig, content)

    assert (code, number) == ("invalid_json_line", line_number)


async def test_an_empty_file_fails_the_batch(rig):
    assert await complaint(rig, b"") == ("empty_file", None, None)


async def test_too_many_lines_fail_the_batch():
    async with started(lines_max=3) as rig:
        assert await complaint(rig, [line(n) for n in range(4)]) == ("too_many_tasks", None, None)


async def test_as_many_lines_as_allowed_pass():
    async with started(lines_max=3) as rig:
        batch = await rig.batch((await rig.submit([line(n) for n in range(3)]))["id"])

        assert batch["status"] == "completed"


@pytest.mark.parametrize(
    "model", ["no-such-model", "gpt-5.4-interactive", "omni-moderation-latest"]
)
async def test_a_model_without_batch_support_fails_the_batch_at_line_one(rig, model):
    found = await complaint(rig, [line(0, body=chat_body(model=model))])

    assert found == ("model_not_found", "body.model", 1)


async def test_a_missing_model_fails_the_batch(rig):
    body = {"messages": [{"role": "user", "content": "hi"}]}

    found = await complaint(rig, [line(0, body=body)])

    assert found == ("invalid_request", "body.model", 1)


async def test_an_unknown_input_file_fails_the_batch(rig):
    body = {
        "input_file_id": "file-none",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    _, created = await rig.call("POST", "/v1/batches", body)

    batch = await rig.batch(created["id"])

    assert batch["status"] == "failed"
    (entry,) = batch["errors"]["data"]
    assert (entry["code"], entry["param"]) == ("invalid_request", "file_id")


async def test_a_file_of_another_purpose_fails_the_batch(rig):
    file = await rig.sdk.files.create(file=("a.jsonl", jsonl([GOOD])), purpose="user_data")
    batch = await rig.sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )

    shown = await rig.batch(batch.id)

    assert shown["errors"]["data"][0]["code"] == "invalid_request"


async def test_the_enqueued_token_limit_shows_later_on_the_batch_and_is_released():
    async with started(turnaround_s=3_600, enqueued_tokens_max=100) as rig:
        question = "x" * 300  # 75 tokens
        big = [line(0, body=chat_body(question))]
        first = await rig.submit(big)
        await rig.running.settle()

        second = await rig.submit(big)
        assert second["status"] == "validating"
        refused = await rig.batch(second["id"])
        await rig.running.advance(3_600)
        third = await rig.submit(big)
        await rig.running.advance(3_600)

        assert refused["status"] == "failed"
        (entry,) = refused["errors"]["data"]
        assert (entry["code"], entry["line"]) == ("token_limit_exceeded", None)
        assert (await rig.batch(first["id"]))["status"] == "completed"
        assert (await rig.batch(third["id"]))["status"] == "completed"


async def test_the_enqueued_token_limit_counts_per_model_and_project():
    limited = ModelSpec("limited", enqueued_tokens_max=100)
    async with started(turnaround_s=3_600, models=(*DEFAULT_MODELS, limited)) as rig:
        big = [line(0, body=chat_body("x" * 300, model="limited"))]
        other_model = [line(0, body=chat_body("x" * 300))]
        made = [
            (await rig.submit(big), "sk-sandbox-one"),
            (await rig.submit(other_model), "sk-sandbox-one"),
            (await rig.submit(big, key="sk-other"), "sk-other"),
        ]

        shown = [await rig.batch(batch["id"], key) for batch, key in made]

        assert [batch["status"] for batch in shown] == ["in_progress"] * 3


async def test_embedding_inputs_are_counted_over_all_lines(rig):
    body = {"model": "text-embedding-3-small", "input": ["a"] * 2_000}
    lines = [line(n, url="/v1/embeddings", body=body) for n in range(26)]

    found = await complaint(rig, lines, endpoint="/v1/embeddings")

    assert found == ("too_many_tasks", None, None)
