"""Message streams: what Anthropic's SDK accumulates is what it would have parsed."""

import json
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from proxy.core.dialects import Family, Shape, Streaming
from proxy.web.answering.final import FinalAnswer
from proxy.web.answering.framing import framing_for
from proxy.web.synthesis import UnreadableResultError, synthesise

ASKED: Any = {
    "model": "m",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "hello"}],
}


class Player:
    """Anthropic clients whose every call is answered by `events`."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        transport = httpx2.MockTransport(self._answer)
        options: dict[str, Any] = {"base_url": "http://replay", "api_key": "k", "max_retries": 0}
        self.sync: Any = Anthropic(http_client=httpx2.Client(transport=transport), **options)
        self.parallel: Any = AsyncAnthropic(
            http_client=httpx2.AsyncClient(transport=transport), **options
        )

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(
            200, headers={"Content-Type": "text/event-stream"}, content=b"".join(self.events)
        )


PLAYER = Player()

texts = st.text(st.characters(codec="utf-8"), max_size=120)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
citations = st.builds(
    lambda cited, start: {
        "type": "char_location",
        "cited_text": cited,
        "document_index": 0,
        "document_title": None,
        "start_char_index": start,
        "end_char_index": start + 1,
        "file_id": None,
    },
    texts,
    st.integers(0, 9),
)
text_blocks = st.fixed_dictionaries(
    {"type": st.just("text"), "text": texts},
    optional={"citations": st.none() | st.lists(citations, max_size=3), "extra": values},
)
thinking_blocks = st.fixed_dictionaries(
    {"type": st.just("thinking"), "thinking": texts, "signature": st.text(max_size=9)}
)
redacted_blocks = st.just({"type": "redacted_thinking", "data": "x" * 500})
tool_blocks = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["tool_use", "server_tool_use"]),
        "id": st.just("toolu_1"),
        "name": st.just("web_search"),
        "input": st.dictionaries(st.text(max_size=5), values, max_size=3),
    },
    optional={"caller": st.just({"type": "direct"})},
)
result_blocks = st.just(
    {
        "type": "web_search_tool_result",
        "tool_use_id": "toolu_1",
        "content": [{"type": "web_search_result", "url": "u", "title": "t", "page_age": None,
                     "encrypted_content": "e"}],
    }
)  # fmt: skip
unknown_blocks = st.fixed_dictionaries(
    {"type": st.just("block_of_tomorrow"), "text": texts, "input": values}
)
blocks = (
    text_blocks | thinking_blocks | redacted_blocks | tool_blocks | result_blocks | unknown_blocks
)
usages = st.fixed_dictionaries(
    {"input_tokens": st.integers(0, 99), "output_tokens": st.integers(0, 99)},
    optional={
        "cache_creation_input_tokens": st.none() | st.integers(0, 9),
        "cache_read_input_tokens": st.none() | st.integers(0, 9),
        "cache_creation": st.just({"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 2}),
        "server_tool_use": st.none() | st.just({"web_search_requests": 3, "web_fetch_requests": 0}),
        "service_tier": st.just("batch"),
        "count_of_tomorrow": st.integers(),
    },
)
messages = st.fixed_dictionaries(
    {
        "id": st.just("msg_1"),
        "type": st.just("message"),
        "role": st.just("assistant"),
        "model": st.just("claude-haiku-4-5"),
        "content": st.lists(blocks, max_size=4),
        "stop_reason": st.sampled_from(["end_turn", "max_tokens", "tool_use", "pause_turn"]),
        "stop_sequence": st.none() | st.just("###"),
        "usage": usages,
    },
    optional={
        "container": st.none() | st.just({"id": "c", "expires_at": "2026-11-23T00:00:00Z"}),
        "stop_details": st.none()
        | st.just({"type": "refusal", "category": None, "explanation": "no"}),
        "field_of_tomorrow": values,
    },
)


def stream(content: object) -> list[bytes]:
    return synthesise(Shape.MESSAGES, json.dumps(content).encode(), include_usage=False)


def events(content: object) -> list[Any]:
    return [json.loads(event.partition(b"data: ")[2]) for event in stream(content)]


def comparable(message: Message) -> Any:
    """Return the message as JSON, without what is null or absent alike."""
    return without_nulls(message.to_dict(mode="json", warnings=False))


def without_nulls(value: Any, *, inside: bool = False) -> Any:
    """Drop nulls of the message itself, but none of those that a model wrote into an input."""
    if isinstance(value, dict):
        return {
            key: one if key in {"input", "extra"} else without_nulls(one)
            for key, one in value.items()
            if one is not None
        }
    if isinstance(value, list):
        return [without_nulls(one) for one in value]
    return value


def message(*content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": list(content),
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": 3},
        **changes,
    }


# The SDK reads blocks of tomorrow as one of today's, and complains when it writes them.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@settings(deadline=None, max_examples=60)
@given(messages)
def test_what_the_sdk_accumulates_equals_the_whole_message(content):
    PLAYER.events = stream(content)

    with PLAYER.sync.messages.stream(**ASKED) as played:
        final = played.get_final_message()

    assert comparable(final) == comparable(Message.construct(**content))


async def test_the_asynchronous_helper_accumulates_the_same():
    content = message(
        {"type": "thinking", "thinking": "Hm. " * 40, "signature": "s" * 200},
        {"type": "text", "text": "Hello, you. " * 40},
    )
    PLAYER.events = stream(content)

    async with PLAYER.parallel.messages.stream(**ASKED) as played:
        text = "".join([piece async for piece in played.text_stream])
        final = await played.get_final_message()

    assert text == "Hello, you. " * 40
    assert comparable(final) == comparable(Message.construct(**content))


def test_a_plain_loop_sees_the_native_sequence():
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {"city": "Rome"}}
    PLAYER.events = stream(message({"type": "text", "text": "Hi"}, call))

    played = list(PLAYER.sync.messages.create(**ASKED, stream=True))

    assert [event.type for event in played] == [
        "message_start",
        *("content_block_start", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
        "message_delta",
        "message_stop",
    ]
    assert played[0].message.content == []
    assert played[0].message.stop_reason is None
    assert played[4].content_block.input == {}
    assert json.loads(played[5].delta.partial_json) == {"city": "Rome"}


def test_who_adds_the_usage_of_both_ends_gets_the_right_sum():
    content = message({"type": "text", "text": "Hi"}, usage={"input_tokens": 5, "output_tokens": 3})

    first, *_, delta, _ = events(content)

    assert first["message"]["usage"] == {"input_tokens": 5, "output_tokens": 0}
    assert delta["usage"] == {"input_tokens": 5, "output_tokens": 3}


def test_structured_outputs_are_parsed_by_the_helper():
    class Answer(BaseModel):
        text: str

    PLAYER.events = stream(message({"type": "text", "text": json.dumps({"text": "four " * 60})}))

    with PLAYER.sync.messages.stream(**ASKED, output_format=Answer) as played:
        final = played.get_final_message()

    assert final.parsed_output == Answer(text="four " * 60)


def test_every_event_is_named_and_their_number_is_bounded():
    made = stream(message({"type": "text", "text": "x" * 2_000_000}))

    assert len(made) < 150
    for event in made:
        head, data, *rest = event.split(b"\n")
        assert rest == [b"", b""]
        assert head == b"event: " + json.loads(data.removeprefix(b"data: "))["type"].encode()


def test_pings_before_the_stream_are_read_over():
    framing = framing_for(
        Family.ANTHROPIC, Shape.MESSAGES, streaming=Streaming.EVENTS, include_usage=False
    )
    body = json.dumps(message({"type": "text", "text": "Hi"})).encode()
    late = framing.late(FinalAnswer(200, (), body))
    assert late is not None
    PLAYER.events = [framing.heartbeat, framing.heartbeat, late]

    with PLAYER.sync.messages.stream(**ASKED) as played:
        assert played.get_final_text() == "Hi"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"content": [1], "usage": {}}',
        b'{"content": []}',
        b'{"content": [], "usage": {}, "x": NaN}',
        b'{"content": [{"type": "text", "text": "a", "citations": [1]}], "usage": {}}',
        b"\xff",
    ],
)
def test_what_is_no_message_is_refused(body):
    with pytest.raises(UnreadableResultError):
        synthesise(Shape.MESSAGES, body, include_usage=False)
