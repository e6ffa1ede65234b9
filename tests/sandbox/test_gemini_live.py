"""Gemini's interactive endpoints, as its SDK and plain HTTP see them."""

import json
from typing import Any

import pytest
from google import genai
from google.genai import types

from tests.sandbox.gemini_rigs import KEY, MODEL, MODELS, raw, request

GENERATE = f"{MODELS}/{MODEL}:generateContent"
STREAM = f"{MODELS}/{MODEL}:streamGenerateContent"


async def test_an_answer_has_the_shape_that_the_sdk_knows(rig):
    status, headers, answer = await raw(rig, "POST", GENERATE, request("hi"))

    read = types.GenerateContentResponse.model_validate(answer)
    assert status == 200
    assert headers["x-gemini-service-tier"] == "standard"
    assert read.text
    assert read.candidates
    assert read.candidates[0].finish_reason is types.FinishReason.STOP
    assert read.usage_metadata
    assert read.usage_metadata.total_token_count == (
        (read.usage_metadata.prompt_token_count or 0)
        + (read.usage_metadata.candidates_token_count or 0)
    )
    assert rig.running.ledger.totals(lane="interactive", key=KEY).executions == 1


async def test_the_same_question_has_the_same_answer_in_either_spelling(rig):
    plain = request("hi", systemInstruction={"parts": [{"text": "be kind"}]})
    answers = [
        (await raw(rig, "POST", path, body))[2]["candidates"]
        for path, body in (
            (GENERATE, plain),
            (GENERATE.replace("v1beta", "v1"), plain),
            (GENERATE, request("hi", system_instruction={"parts": [{"text": "be kind"}]})),
            (GENERATE, {**plain, "serviceTier": "flex"}),
        )
    ]
    other = await raw(rig, "POST", GENERATE.replace("flash", "pro"), plain)

    assert all(answer == answers[0] for answer in answers)
    assert other[2]["candidates"] != answers[0]


@pytest.mark.parametrize(
    ("config", "reason", "kind"),
    [
        ({"maxOutputTokens": 3}, "MAX_TOKENS", "text"),
        (
            {
                "responseMimeType": "application/json",
                "responseSchema": {"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}},
            },
            "STOP",
            "json",
        ),
        ({"thinkingConfig": {"includeThoughts": True}}, "STOP", "thought"),
        ({"candidateCount": 3}, "STOP", "three"),
    ],
)
async def test_the_generation_config_is_heeded(rig, config, reason, kind):
    _, _, answer = await raw(rig, "POST", GENERATE, request(generationConfig=config))

    candidates = answer["candidates"]
    parts = candidates[0]["content"]["parts"]
    assert candidates[0]["finishReason"] == reason
    if kind == "json":
        assert isinstance(json.loads(parts[0]["text"])["n"], int)
    if kind == "thought":
        assert [part.get("thought", False) for part in parts] == [True, False]
        assert parts[1]["thoughtSignature"]
        assert answer["usageMetadata"]["thoughtsTokenCount"] > 0
    assert len(candidates) == (3 if kind == "three" else 1)


async def test_a_forced_function_is_called_with_what_its_schema_wants(rig):
    declared = {
        "name": "f",
        "parameters": {"type": "OBJECT", "properties": {"c": {"type": "STRING"}}},
    }
    body = request(
        tools=[{"functionDeclarations": [declared]}],
        toolConfig={"functionCallingConfig": {"mode": "ANY"}},
    )

    _, _, answer = await raw(rig, "POST", GENERATE, body)

    (part,) = answer["candidates"][0]["content"]["parts"]
    assert part["functionCall"]["name"] == "f"
    assert isinstance(part["functionCall"]["args"]["c"], str)


async def test_a_stream_is_events_or_an_array_and_says_the_same(rig):
    _, _, whole = await raw(rig, "POST", GENERATE, request("x" * 300))
    _, _, array = await raw(rig, "POST", STREAM, request("x" * 300))
    url = f"{rig.running.base_url}{STREAM}?alt=sse&key={KEY}"
    async with rig.http.post(url, json=request("x" * 300)) as response:
        kind, raw_events = response.content_type, await response.read()
    events = [json.loads(line[6:]) for line in raw_events.split(b"\r\n\r\n") if line]

    def text(chunks: list[Any]) -> str:
        return "".join(chunk["candidates"][0]["content"]["parts"][0]["text"] for chunk in chunks)

    assert kind == "text/event-stream"
    assert len(events) > 1
    assert text(events) == text(array) == text([whole])
    assert [one["candidates"][0].get("finishReason") for one in events][-2:] == [None, "STOP"]


@pytest.mark.parametrize(
    ("body", "status", "name", "words"),
    [
        (b"{", 400, "INVALID_ARGUMENT", "Invalid JSON"),
        (request(fieldOfTomorrow=1), 400, "INVALID_ARGUMENT", 'Unknown name "fieldOfTomorrow"'),
        ({}, 400, "INVALID_ARGUMENT", "contents is not specified"),
        ({"contents": [{"parts": []}]}, 400, "INVALID_ARGUMENT", "must not be empty"),
        (request(generationConfig={"maxOutputTokens": 0}), 400, "INVALID_ARGUMENT", "positive"),
        (request("x" * 2_000_000), 400, "INVALID_ARGUMENT", "exceeds the maximum"),
    ],
)
async def test_what_gemini_refuses_is_refused_in_its_words(rig, body, status, name, words):
    answered, _, answer = await raw(rig, "POST", GENERATE, body)

    assert (answered, answer["error"]["code"], answer["error"]["status"]) == (status, status, name)
    assert words in answer["error"]["message"]
    assert rig.running.ledger.totals().executions == 0


async def test_an_unknown_model_and_an_unknown_path_are_not_found(rig):
    for path in (
        f"{MODELS}/gemini-nowhere:generateContent",
        f"{MODELS}/{MODEL}:dance",
        "/v1beta/x",
    ):
        status, _, answer = await raw(rig, "POST", path, request())
        assert (status, answer["error"]["status"]) == (404, "NOT_FOUND")


async def test_a_wrong_key_is_a_400_with_its_reason_and_none_at_all_a_403(rig):
    rig.running.keys.revoke(KEY)

    wrong = await raw(rig, "POST", GENERATE, request())
    absent = await raw(rig, "POST", GENERATE, request(), **{"x-goog-api-key": None})
    by_query = await raw(
        rig, "POST", f"{GENERATE}?key=another", request(), **{"x-goog-api-key": None}
    )

    assert wrong[0] == 400
    assert wrong[2]["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert KEY not in json.dumps(wrong[2])
    assert (absent[0], absent[2]["error"]["status"]) == (403, "PERMISSION_DENIED")
    assert by_query[0] == 200


async def test_flex_is_half_the_price_and_may_be_full(rig):
    rig.running.flex.refusals = 1
    body = request(serviceTier="flex")

    full = await raw(rig, "POST", GENERATE, body)
    served = await raw(rig, "POST", GENERATE, body)

    assert (full[0], full[2]["error"]["status"]) == (503, "UNAVAILABLE")
    assert served[1]["x-gemini-service-tier"] == "flex"
    (entry,) = rig.running.ledger.entries()
    assert (entry.lane, entry.paid_micro_usd * 2) == ("flex", entry.list_micro_usd)


async def test_the_stock_sdk_counts_embeds_and_lists(rig):
    client = genai.Client(
        api_key=KEY, http_options=types.HttpOptions(base_url=rig.running.base_url)
    )
    try:
        models = client.aio.models
        counted = await models.count_tokens(model=MODEL, contents="hello")
        embedded = await models.embed_content(
            model="gemini-embedding-001",
            contents=["a", "b"],
            config=types.EmbedContentConfig(output_dimensionality=8),
        )
        listed = [model.name async for model in await models.list()]
        one = await models.get(model=MODEL)
    finally:
        await client.aio.aclose()
        client.close()

    assert counted.total_tokens
    assert [len(e.values or ()) for e in embedded.embeddings or ()] == [8, 8]
    assert f"models/{MODEL}" in listed
    assert all("gpt" not in (name or "") for name in listed)
    assert one.name == f"models/{MODEL}"


pytestmark = pytest.mark.filterwarnings(
    "ignore:Inheritance class AiohttpClientSession:DeprecationWarning"
)
