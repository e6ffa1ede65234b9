"""Gemini streams: what comes in chunks is what would have come as a whole."""

import json
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.dialects import Family, Shape, Streaming
from proxy.web.answering.final import FinalAnswer
from proxy.web.answering.framing import framing_for
from proxy.web.synthesis import UnreadableResultError, synthesise, synthesise_array

texts = st.text(st.characters(codec="utf-8"), max_size=200)
text_parts = st.fixed_dictionaries(
    {"text": texts},
    optional={"thought": st.just(True), "thoughtSignature": st.just("c2ln")},
)
call_parts = st.fixed_dictionaries(
    {"functionCall": st.fixed_dictionaries({"name": texts, "args": st.just({"a": [1, None]})})}
)
other_parts = st.sampled_from(
    [
        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
        {"executableCode": {"language": "PYTHON", "code": "1"}},
        {"partOfTomorrow": {"x": 1}},
    ]
)
candidates = st.fixed_dictionaries(
    {
        "content": st.fixed_dictionaries(
            {"parts": st.lists(text_parts | call_parts | other_parts, max_size=4)},
            optional={"role": st.just("model")},
        ),
        "finishReason": st.sampled_from(["STOP", "MAX_TOKENS", "SAFETY"]),
    },
    optional={
        "groundingMetadata": st.just({"webSearchQueries": ["q"]}),
        "fieldOfTomorrow": st.just({"y": [2]}),
    },
)
responses = st.fixed_dictionaries(
    {
        "candidates": st.lists(candidates, min_size=1, max_size=3).map(
            lambda made: [{**one, "index": at} for at, one in enumerate(made)]
        ),
        "usageMetadata": st.just({"promptTokenCount": 3, "totalTokenCount": 9}),
        "modelVersion": st.just("gemini-2.5-flash"),
        "responseId": st.just("r1"),
    }
)


def chunks(response: Any) -> list[Any]:
    made = synthesise(Shape.GENERATE, json.dumps(response).encode(), include_usage=False)
    return [json.loads(event.removeprefix(b"data: ")) for event in made]


def together(told: list[Any]) -> Any:
    """Put chunks together as a reader does: parts appended, neighbouring texts of a kind joined."""
    whole: dict[int, Any] = {}
    for chunk in told:
        (candidate,) = chunk["candidates"]
        held = whole.setdefault(candidate["index"], {"parts": []})
        held["parts"] += candidate.get("content", {}).get("parts", [])
        rest = {name: value for name, value in candidate.items() if name != "content"}
        held.update(rest)
    return whole


def spelt(parts: list[Any]) -> list[Any]:
    """Parts with neighbouring texts of a kind joined, and empty ones gone."""
    joined: list[Any] = []
    for part in parts:
        if "text" not in part:
            joined.append(part)
        elif joined and "text" in joined[-1] and joined[-1].get("thought") == part.get("thought"):
            joined[-1] = {**joined[-1], **part, "text": joined[-1]["text"] + part["text"]}
        else:
            joined.append(dict(part))
    return joined


@given(responses)
def test_nothing_of_a_response_is_lost_in_its_chunks(response):
    told = chunks(response)

    held = together(told)
    for candidate in response["candidates"]:
        got = held[candidate["index"]]
        assert spelt(got.pop("parts")) == spelt(candidate["content"]["parts"])
        assert got == {name: value for name, value in candidate.items() if name != "content"}
    assert all(chunk["usageMetadata"] == response["usageMetadata"] for chunk in told)
    assert all(chunk["responseId"] == "r1" for chunk in told)


@given(responses)
def test_an_array_holds_the_very_chunks_of_the_events(response):
    body = json.dumps(response).encode()

    assert json.loads(synthesise_array(Shape.GENERATE, body)) == chunks(response)


def test_a_long_text_is_told_in_a_bounded_number_of_pieces_and_ends_once():
    text = "word " * 200_000
    parts = [{"text": text, "thoughtSignature": "c2ln"}]
    told = chunks({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]})

    assert 2 < len(told) < 150
    candidate_of = [chunk["candidates"][0] for chunk in told]
    assert [one.get("finishReason") for one in candidate_of][-2:] == [None, "STOP"]
    signed = ["thoughtSignature" in one["content"]["parts"][0] for one in candidate_of]
    assert signed == [False] * (len(told) - 1) + [True]


@pytest.mark.parametrize(
    "response",
    [
        {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"totalTokenCount": 2}},
        {"candidates": [{"finishReason": "MAX_TOKENS", "index": 0}]},
        {"candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS"}]},
    ],
)
def test_an_answer_without_parts_is_one_chunk(response):
    assert chunks(response) == [response]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"\xff", b'{"candidates": 1}', b'{"candidates": [{"content": 1}]}', b"[" * 9999],
)
def test_what_is_no_response_is_refused(body):
    with pytest.raises(UnreadableResultError):
        synthesise(Shape.GENERATE, body, include_usage=False)
    with pytest.raises(UnreadableResultError):
        synthesise_array(Shape.GENERATE, body)


def played(raw: bytes) -> list[Any]:
    """What the stock SDK yields for a stream of these bytes."""
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=raw))
    client = genai.Client(
        api_key="k",
        http_options=types.HttpOptions(
            base_url="http://replay", httpx_client=httpx2.Client(transport=transport)
        ),
    )
    with client:
        return list(client.models.generate_content_stream(model="m", contents="x"))


def framed(streaming: Streaming, body: bytes, status: int = 200) -> bytes:
    framing = framing_for(Family.GEMINI, Shape.GENERATE, streaming=streaming, include_usage=False)
    late = framing.late(FinalAnswer(status, (), body))
    assert late is not None
    return framing.heartbeat * 3 + late


RESPONSE = {
    "candidates": [
        {
            "content": {"parts": [{"text": "Ünï " * 60}], "role": "model"},
            "finishReason": "STOP",
            "index": 0,
        }
    ],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 6, "totalTokenCount": 9},
}


def test_the_stock_sdk_reads_over_heartbeats_and_yields_the_chunks():
    told = played(framed(Streaming.EVENTS, json.dumps(RESPONSE).encode()))

    assert "".join(chunk.text for chunk in told) == "Ünï " * 60
    assert told[-1].candidates[0].finish_reason == types.FinishReason.STOP
    assert told[-1].usage_metadata.total_token_count == 9


def test_a_late_failure_is_raised_by_the_stock_sdk():
    error = {"error": {"code": 503, "message": "Overloaded.", "status": "UNAVAILABLE"}}

    with pytest.raises(genai.errors.APIError) as raised:
        played(framed(Streaming.EVENTS, json.dumps(error).encode(), status=503))

    assert (raised.value.code, raised.value.status) == (503, "UNAVAILABLE")


@pytest.mark.parametrize("streaming", [Streaming.EVENTS, Streaming.ARRAY])
def test_a_result_that_cannot_be_streamed_is_googles_error(streaming):
    raw = framed(streaming, b"[]").strip().removeprefix(b"data: ")

    told = json.loads(raw)
    (envelope,) = told if streaming is Streaming.ARRAY else [told]
    assert envelope["error"]["status"] == "INTERNAL"
    assert envelope["error"]["details"][0]["reason"] == "unreadable_result"


def test_an_early_array_keeps_status_and_headers_and_a_failure_its_body():
    framing = framing_for(
        Family.GEMINI, Shape.GENERATE, streaming=Streaming.ARRAY, include_usage=False
    )
    done = FinalAnswer(200, (("X-Deferrable-Job", "job_1"),), json.dumps(RESPONSE).encode())
    refused = FinalAnswer(429, (), b'{"error": {"status": "RESOURCE_EXHAUSTED"}}')

    early = framing.early(done)

    assert (early.status, early.headers) == (200, done.headers)
    assert json.loads(early.body)
    assert framing.early(refused) == refused
    assert json.loads(framing.late(refused) or b"") == [json.loads(refused.body)]
    assert framing.early(FinalAnswer(200, (), b"[]")).status == 502
