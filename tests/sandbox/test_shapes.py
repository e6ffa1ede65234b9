"""Every answer has the shape that OpenAI publishes for it."""

import base64
import json
import struct
from typing import Any

import pytest

from tests.sandbox.rigs import KEY, Rig, chat_body, line
from tests.sandbox.shapes import assert_known_fields, assert_shape

TOOL = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}


async def events_of(rig: Rig, path: str, body: dict[str, Any]) -> list[tuple[str | None, str]]:
    """Return the server-sent events of a stream as (event name, data)."""
    url = rig.running.base_url + path
    headers = {"Authorization": f"Bearer {KEY}"}
    async with rig.http.post(url, json=body, headers=headers) as response:
        assert response.content_type == "text/event-stream"
        text = await response.text()
    events = []
    for block in text.strip().split("\n\n"):
        fields = dict(row.split(": ", 1) for row in block.split("\n"))
        events.append((fields.get("event"), fields["data"]))
    return events


async def test_a_chat_completion_has_its_published_shape(rig):
    status, body = await rig.call("POST", "/v1/chat/completions", chat_body(n=2))

    assert status == 200
    assert_shape("CreateChatCompletionResponse", body)
    assert_known_fields("CreateChatCompletionResponse", body)
    assert [choice["index"] for choice in body["choices"]] == [0, 1]


async def test_the_chunks_of_a_chat_stream(rig):
    asked = chat_body(stream=True, stream_options={"include_usage": True})

    events = await events_of(rig, "/v1/chat/completions", asked)

    assert events[-1] == (None, "[DONE]")
    chunks = [json.loads(data) for _, data in events[:-1]]
    for chunk in chunks:
        assert_shape("CreateChatCompletionStreamResponse", chunk)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] > 0
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_a_chat_stream_without_usage_has_no_usage_chunk(rig):
    events = await events_of(rig, "/v1/chat/completions", chat_body(stream=True))

    assert all("usage" not in json.loads(data) for _, data in events[:-1])


async def test_a_forced_tool_call_in_chat(rig):
    function = {"name": "weather", "parameters": TOOL}
    asked = chat_body(tools=[{"type": "function", "function": function}], tool_choice="required")

    _, body = await rig.call("POST", "/v1/chat/completions", asked)

    assert_shape("CreateChatCompletionResponse", body)
    choice = body["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    call = choice["message"]["tool_calls"][0]
    assert call["function"]["name"] == "weather"
    assert set(json.loads(call["function"]["arguments"])) == {"city", "days"}


@pytest.mark.parametrize("forced", [False, True])
async def test_a_response_and_its_events(rig, forced):
    tool = {"type": "function", "name": "weather", "parameters": TOOL}
    asked: dict[str, Any] = {"model": "gpt-5.4-mini", "input": "hello", "tools": [tool]}
    if forced:
        asked["tool_choice"] = {"type": "function", "name": "weather"}

    _, body = await rig.call("POST", "/v1/responses", asked)
    events = await events_of(rig, "/v1/responses", {**asked, "stream": True})

    assert_shape("Response", body)
    assert body["status"] == "completed"
    parsed = [json.loads(data) for _, data in events]
    for number, event in enumerate(parsed):
        assert_shape("ResponseStreamEvent", event)
        assert event["sequence_number"] == number
    assert [name for name, _ in events] == [event["type"] for event in parsed]
    assert parsed[0]["type"] == "response.created"
    assert parsed[-1]["type"] == "response.completed"
    assert parsed[-1]["response"]["output"] == body["output"]
    kind = "response.function_call_arguments.done" if forced else "response.output_text.done"
    assert kind in [event["type"] for event in parsed]


async def test_a_background_response_in_each_status(slow):
    asked = {"model": "gpt-5.4-mini", "input": "hello", "background": True}

    _, queued = await slow.call("POST", "/v1/responses", asked)
    await slow.running.settle()
    _, done = await slow.call("GET", f"/v1/responses/{queued['id']}")

    assert_shape("Response", queued)
    assert queued["status"] == "queued"
    assert queued["output"] == []
    assert_shape("Response", done)
    assert done["status"] == "completed"


async def test_a_clipped_answer_says_so(rig):
    _, chat = await rig.call("POST", "/v1/chat/completions", chat_body(max_completion_tokens=5))
    _, response = await rig.call(
        "POST",
        "/v1/responses",
        {"model": "gpt-5.4-mini", "input": "hello", "max_output_tokens": 16},
    )

    assert chat["choices"][0]["finish_reason"] == "length"
    assert chat["usage"]["completion_tokens"] <= 5
    assert_shape("Response", response)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_embeddings_as_numbers_and_as_base64_are_the_same(rig):
    asked = {"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 8}

    _, numbers = await rig.call("POST", "/v1/embeddings", asked)
    _, packed = await rig.call("POST", "/v1/embeddings", {**asked, "encoding_format": "base64"})

    assert_shape("CreateEmbeddingResponse", numbers)
    for plain, encoded in zip(numbers["data"], packed["data"], strict=True):
        raw = base64.b64decode(encoded["embedding"])
        assert list(struct.unpack("<8f", raw)) == plain["embedding"]
    assert numbers["data"][0]["embedding"] != numbers["data"][1]["embedding"]


async def test_a_text_completion_and_its_stream(rig):
    asked = {"model": "gpt-3.5-turbo-instruct", "prompt": "hello"}

    _, body = await rig.call("POST", "/v1/completions", asked)
    events = await events_of(rig, "/v1/completions", {**asked, "stream": True})

    assert_shape("CreateCompletionResponse", body)
    assert events[-1] == (None, "[DONE]")
    texts = [json.loads(data)["choices"][0]["text"] for _, data in events[:-1]]
    assert "".join(texts) == body["choices"][0]["text"]


async def test_a_moderation_has_its_published_shape(rig):
    _, body = await rig.call("POST", "/v1/moderations", {"input": ["a", "b"]})

    assert_shape("CreateModerationResponse", body)
    assert len(body["results"]) == 2


IMAGE = {"model": "gpt-image-1.5", "prompt": "a cat"}


@pytest.mark.parametrize(
    ("path", "more", "kind", "schema"),
    [
        ("generations", {}, "image_generation.completed", "ImageGenCompletedEvent"),
        (
            "edits",
            {"images": [{"file_id": "file-1"}]},
            "image_edit.completed",
            "ImageEditCompletedEvent",
        ),
    ],
)
async def test_an_image_and_its_stream(rig, path, more, kind, schema):
    asked = {**IMAGE, **more, "background": "transparent"}

    status, body = await rig.call("POST", f"/v1/images/{path}", asked)
    events = await events_of(
        rig, f"/v1/images/{path}", {**asked, "stream": True, "partial_images": 1}
    )

    assert status == 200
    assert_shape("ImagesResponse", body)
    assert_known_fields("ImagesResponse", body)
    assert body["background"] == "transparent"
    ((name, data),) = events
    assert name == kind
    assert_shape(schema, json.loads(data))
    assert json.loads(data)["b64_json"] == body["data"][0]["b64_json"]


async def test_images_differ_by_number_and_by_background(rig):
    _, several = await rig.call("POST", "/v1/images/generations", {**IMAGE, "n": 3})
    _, clear = await rig.call(
        "POST", "/v1/images/generations", {**IMAGE, "background": "transparent"}
    )

    drawn = [one["b64_json"] for one in (*several["data"], *clear["data"])]
    assert len(set(drawn)) == 4
    assert base64.b64decode(drawn[0]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"n": 11}, "n"),
        ({"background": True}, "background"),
        ({"partial_images": 1}, "partial_images"),
    ],
)
async def test_an_image_that_cannot_be_is_refused(rig, change, param):
    status, body = await rig.call("POST", "/v1/images/generations", {**IMAGE, **change})

    assert (status, body["error"]["param"]) == (400, param)


async def test_models_have_their_published_shapes(rig):
    _, models = await rig.call("GET", "/v1/models")
    _, model = await rig.call("GET", "/v1/models/gpt-5.4-mini")

    assert_shape("ListModelsResponse", models)
    assert_shape("Model", model)
    assert model in models["data"]


async def test_files_have_their_published_shapes(rig):
    file_id = await rig.upload([line()])
    _, file = await rig.call("GET", f"/v1/files/{file_id}")
    _, listing = await rig.call("GET", "/v1/files")
    _, deleted = await rig.call("DELETE", f"/v1/files/{file_id}")

    assert_shape("OpenAIFile", file)
    assert_known_fields("OpenAIFile", file)
    assert_shape("ListFilesResponse", listing)
    assert_shape("DeleteFileResponse", deleted)


@pytest.mark.parametrize("pause_s", [0, 30, 60, 1_860, 3_660, 3_720])
async def test_a_batch_at_every_stage(slow, pause_s):
    batch = await slow.submit([line(n) for n in range(4)], metadata={"tag": "a"})

    await slow.running.advance(pause_s)
    shown = await slow.batch(batch["id"])
    _, listing = await slow.call("GET", "/v1/batches")

    assert_shape("Batch", batch)
    assert_shape("Batch", shown)
    assert_known_fields("Batch", shown)
    assert_shape("ListBatchesResponse", listing)


async def test_a_failed_batch_has_its_published_shape(rig):
    batch = await rig.submit(b"not json\n")

    assert_shape("Batch", await rig.batch(batch["id"]))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/chat/completions", {"model": "no-such-model", "messages": []}),
        ("POST", "/v1/chat/completions", {"model": "gpt-5.4-mini"}),
        ("GET", "/v1/batches/batch_none", None),
        ("GET", "/v1/files/file-none", None),
        ("GET", "/v1/nothing/here", None),
    ],
)
async def test_refusals_have_their_published_shapes(rig, method, path, body):
    status, answer = await rig.call(method, path, body)

    assert 400 <= status < 500
    assert_shape("ErrorResponse", answer)
