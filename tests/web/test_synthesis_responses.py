"""Streams of the Responses API: event by event, and as the SDK accumulates them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import pydantic_function_tool
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from proxy.core.dialects import Shape
from proxy.web.synthesis import UnreadableResultError, synthesise
from tests.web.desk import response_body
from tests.web.replay import Player, without_nulls

PLAYER = Player()
ASKED: Any = {"model": "m", "input": "hello"}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

texts = st.text(max_size=120)
logprobs = st.lists(
    st.builds(
        lambda token: {"token": token, "logprob": -0.25, "bytes": [1], "top_logprobs": []},
        st.text(min_size=1, max_size=4),
    ),
    max_size=4,
)
annotations = st.lists(
    st.just(
        {"type": "url_citation", "start_index": 0, "end_index": 1, "title": "t", "url": "http://u"}
    ),
    max_size=2,
)


@st.composite
def text_parts(draw):
    tokens = draw(logprobs)
    spelt = "".join(token["token"] for token in tokens)
    text = spelt if tokens and draw(st.booleans()) else draw(texts)
    part = {"type": "output_text", "text": text, "annotations": draw(annotations)}
    return {**part, "logprobs": tokens}


parts = st.one_of(text_parts(), st.builds(lambda text: {"type": "refusal", "refusal": text}, texts))


def items(index: int) -> st.SearchStrategy[Any]:
    """Return a strategy for the item at `index`; IDs are unique within a response."""
    return st.one_of(
        st.builds(
            lambda content: {
                "type": "message",
                "id": f"msg_{index}",
                "role": "assistant",
                "status": "completed",
                "content": content,
            },
            st.lists(parts, max_size=3),
        ),
        st.builds(
            lambda arguments: {
                "type": "function_call",
                "id": f"fc_{index}",
                "call_id": f"call_{index}",
                "name": "f",
                "arguments": arguments,
                "status": "completed",
            },
            texts,
        ),
        st.builds(
            lambda summary, content: {
                "type": "reasoning",
                "id": f"rs_{index}",
                "summary": [{"type": "summary_text", "text": text} for text in summary],
                "encrypted_content": "gAAA",
                **({"content": content} if content is not None else {}),
            },
            st.lists(texts, max_size=2),
            st.none()
            | st.lists(
                st.builds(lambda text: {"type": "reasoning_text", "text": text}, texts), max_size=2
            ),
        ),
        st.builds(
            lambda text: {
                "type": "custom_tool_call",
                "id": f"ctc_{index}",
                "call_id": f"call_{index}",
                "name": "patch",
                "input": text,
            },
            texts,
        ),
        st.just(
            {
                "type": "web_search_call",
                "id": f"ws_{index}",
                "status": "completed",
                "action": {"type": "search", "query": "q"},
            }
        ),
    )


@st.composite
def outputs(draw):
    return [draw(items(index)) for index in range(draw(st.integers(0, 4)))]


def stream(content: object) -> list[bytes]:
    return synthesise(Shape.RESPONSES, json.dumps(content).encode(), include_usage=False)


def events(content: object) -> list[dict[str, Any]]:
    """Return the data of every event, after a look at its framing."""
    found = []
    for event in stream(content):
        name, data, *rest = event.decode().split("\n")
        assert rest == ["", ""]
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def kinds(content: object) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events(content)]


@settings(deadline=None, max_examples=80)
@given(outputs())
def test_every_event_is_one_to_the_sdks_strictest_reading(output):
    found = events(response_body(output=output))

    for event in found:
        EVENT.validate_json(json.dumps(event))
    assert [event["sequence_number"] for event in found] == list(range(len(found)))


@settings(deadline=None, max_examples=80)
@given(outputs())
def test_what_the_helper_ends_with_equals_the_whole_object(output):
    content = response_body(output=output, provider="x")
    PLAYER.events = stream(content)

    with PLAYER.sync.responses.stream(**ASKED) as played:
        final = played.get_final_response()

    whole = Response.model_validate(content)
    assert without_nulls(without_parsed(final.to_dict())) == without_nulls(whole.to_dict())


@settings(deadline=None, max_examples=80)
@given(outputs())
def test_the_deltas_alone_add_up_to_every_text(output):
    """A caller who prints along and never looks at the last event misses nothing."""
    told: dict[tuple[Any, ...], str] = {}
    for event in events(response_body(output=output)):
        if event["type"].endswith(".delta"):
            inner = event.get("content_index", event.get("summary_index"))
            place = (event["output_index"], event["type"], inner)
            told[place] = told.get(place, "") + event["delta"]

    assert told == {place: text for place, text in texts_of(output) if text}


def texts_of(output: Any) -> Iterator[tuple[tuple[Any, ...], str]]:
    for index, item in enumerate(output):
        if item["type"] == "function_call":
            yield (index, "response.function_call_arguments.delta", None), item["arguments"]
        if item["type"] == "custom_tool_call":
            yield (index, "response.custom_tool_call_input.delta", None), item["input"]
        for inner, part in enumerate(item.get("summary", ())):
            yield (index, "response.reasoning_summary_text.delta", inner), part["text"]
        for inner, part in enumerate(item.get("content", ())):
            kind = part["type"] if part["type"] != "refusal" else "refusal"
            yield (index, f"response.{kind}.delta", inner), part.get("text", part.get("refusal"))


def without_parsed(content: Any) -> Any:
    for item in content["output"]:
        item.pop("parsed_arguments", None)
        for part in item.get("content") or ():
            part.pop("parsed", None)
    return content


async def test_the_asynchronous_helper_ends_with_the_same():
    PLAYER.events = stream(response_body())

    async with PLAYER.parallel.responses.stream(**ASKED) as played:
        final = await played.get_final_response()

    assert (final.id, final.output_text) == ("resp_1", "Hello there.")


def test_a_plain_loop_sees_the_whole_life_of_a_message():
    PLAYER.events = stream(response_body())

    played = list(PLAYER.sync.responses.create(**ASKED, stream=True))

    assert [event.type.removeprefix("response.") for event in played] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert played[0].response.status == "in_progress"
    assert (played[0].response.output, played[0].response.completed_at) == ([], None)
    assert (played[2].item.content, played[2].item.status) == ([], "in_progress")
    assert played[-1].response.output_text == "Hello there."


def test_a_function_call_reaches_the_helper_with_its_arguments_parsed():
    class Weather(BaseModel):
        city: str

    call = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": "Weather",
        "arguments": '{"city": "Rome"}',
        "status": "completed",
    }
    tool = pydantic_function_tool(Weather)["function"]
    PLAYER.events = stream(response_body(output=[call]))

    with PLAYER.sync.responses.stream(**ASKED, tools=[{"type": "function", **tool}]) as played:
        deltas = [one for one in played if one.type == "response.function_call_arguments.delta"]
        final = played.get_final_response()

    assert deltas[-1].snapshot == '{"city": "Rome"}'
    assert final.output[0].parsed_arguments == {"city": "Rome"}


def test_structured_outputs_are_parsed_by_the_helper():
    class Answer(BaseModel):
        text: str

    part = {"type": "output_text", "text": json.dumps({"text": "four " * 60}), "annotations": []}
    message = {**response_body()["output"][0], "content": [part]}
    PLAYER.events = stream(response_body(output=[message]))

    with PLAYER.sync.responses.stream(**ASKED, text_format=Answer) as played:
        final = played.get_final_response()

    assert final.output_parsed == Answer(text="four " * 60)


@pytest.mark.parametrize(
    ("status", "last"),
    [
        ("completed", "completed"),
        ("incomplete", "incomplete"),
        ("failed", "failed"),
        ("cancelled", "failed"),
        (None, "completed"),
    ],
)
def test_the_last_event_says_how_the_response_ended(status, last):
    content = response_body(status=status)

    assert kinds(content)[-1] == last
    assert events(content)[-1]["response"] == content


def test_a_stream_begins_without_the_end_in_it():
    failure = {"code": "server_error", "message": "x"}
    content = response_body(
        status="failed",
        error=failure,
        incomplete_details={"reason": "x"},
        usage={"total_tokens": 1},
    )

    begun = events(content)[0]["response"]

    assert {begun[name] for name in ("error", "incomplete_details", "usage")} == {None}


def test_an_item_of_a_kind_to_come_is_announced_and_finished_whole():
    item = {"type": "teleport_call", "id": "tp_1", "to": "moon", "content": "odd"}

    found = [event for event in events(response_body(output=[item])) if "item" in event]

    assert [event["type"] for event in found] == [
        "response.output_item.added",
        "response.output_item.done",
    ]
    assert [event["item"] for event in found] == [item, item]


def test_a_part_of_a_kind_to_come_is_announced_and_finished_whole():
    part = {"type": "hologram", "text": "odd"}
    message = {**response_body()["output"][0], "content": [part]}

    found = [event for event in events(response_body(output=[message])) if "part" in event]

    assert [event["part"] for event in found] == [part, part]


def test_annotations_are_told_one_by_one():
    annotation = {"type": "file_path", "file_id": "f", "index": 1}
    part = {"type": "output_text", "text": "x", "annotations": [annotation], "logprobs": []}
    message = {**response_body()["output"][0], "content": [part]}

    found = events(response_body(output=[message]))

    assert [event["annotation"] for event in found if "annotation" in event] == [annotation]
    added = next(event for event in found if event["type"] == "response.content_part.added")
    assert (added["part"]["annotations"], added["part"]["text"]) == ([], "")


@pytest.mark.parametrize("body", [b"{}", b'{"output": [1]}', b'{"output": null}', b"null"])
def test_what_is_no_response_is_refused(body):
    with pytest.raises(UnreadableResultError):
        synthesise(Shape.RESPONSES, body, include_usage=False)
