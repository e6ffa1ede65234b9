"""Chat streams: what the SDK accumulates is what it would have parsed."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import pydantic_function_tool
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from proxy.core.dialects import Shape
from proxy.web.synthesis import UnreadableResultError, synthesise
from tests.web.replay import Player, without_nulls

PLAYER = Player()
ASKED: Any = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}

texts = st.text(max_size=120)
scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
unknown = (
    scalars
    | st.lists(st.integers(), max_size=3)
    | st.dictionaries(st.sampled_from(["a", "b"]), scalars, max_size=2)
)


def extras(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, unknown))


tokens = st.builds(
    lambda token, logprob: {
        "token": token,
        "logprob": logprob,
        "bytes": list(token.encode()),
        "top_logprobs": [{"token": token, "logprob": logprob, "bytes": None}],
    },
    st.text(min_size=1, max_size=4),
    st.floats(max_value=0, allow_nan=False, allow_infinity=False),
)
token_lists = st.lists(tokens, min_size=1, max_size=4)
function_calls = st.builds(
    lambda number, name, arguments, extra: {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
        **extra,
    },
    st.integers(0, 999),
    st.text(min_size=1, max_size=10),
    texts,
    extras("extra_content"),
)
custom_calls = st.builds(
    lambda number, text: {
        "id": f"call_{number}",
        "type": "custom",
        "custom": {"name": "patch", "input": text},
    },
    st.integers(0, 999),
    texts,
)
annotations = st.lists(
    st.builds(
        lambda url: {
            "type": "url_citation",
            "url_citation": {"start_index": 0, "end_index": 1, "title": "t", "url": url},
        },
        st.text(max_size=9),
    ),
    max_size=2,
)
messages = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | texts, "refusal": st.none() | texts},
    optional={
        "reasoning_content": st.none() | texts,
        "reasoning": texts,
        "annotations": annotations,
        "audio": st.none()
        | st.just({"id": "a", "data": "eA==", "expires_at": 1, "transcript": "x"}),
        "tool_calls": st.none() | st.lists(function_calls | custom_calls, min_size=1, max_size=2),
        "function_call": st.fixed_dictionaries({"name": st.just("f"), "arguments": texts}),
        "thinking_blocks": unknown,
        "citations": unknown,
    },
)


@st.composite
def choices(draw, index):
    message = draw(messages)
    logprobs = draw(
        st.none()
        | st.fixed_dictionaries({"content": token_lists, "refusal": st.none()})
        | st.fixed_dictionaries({"content": st.none(), "refusal": token_lists})
        | st.fixed_dictionaries({"content": token_lists, "refusal": token_lists})
    )
    if logprobs is not None and logprobs["content"] and draw(st.booleans()):
        message["content"] = "".join(token["token"] for token in logprobs["content"])
    reason = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
    return {
        **draw(extras("stop_reason", "content_filter_results")),
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": reason,
    }


@st.composite
def completions(draw):
    count = draw(st.integers(1, 3))
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": draw(st.sampled_from(["gpt-4o-mini", "deepseek-r1"])),
        "choices": draw(st.permutations([draw(choices(index)) for index in range(count)])),
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
        **draw(st.fixed_dictionaries({}, optional={"service_tier": st.just("flex")})),
        **draw(st.fixed_dictionaries({}, optional={"system_fingerprint": st.just("fp")})),
        **draw(extras("provider", "prompt_logprobs")),
    }


def completion(*choices: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "gpt-4o-mini",
        "choices": list(choices),
        **changes,
    }


def choice(**message: Any) -> dict[str, Any]:
    return {
        "index": 0,
        "message": {"role": "assistant", "content": None, **message},
        "logprobs": None,
        "finish_reason": "stop",
    }


def stream(content: object, *, include_usage: bool = True) -> list[bytes]:
    return synthesise(Shape.CHAT, json.dumps(content).encode(), include_usage=include_usage)


def chunks(content: object, **options: bool) -> list[Any]:
    events = stream(content, **options)
    assert events[-1] == b"data: [DONE]\n\n"
    return [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]


def accumulated(final: Any) -> Any:
    """Return what the SDK put together, without what only its accumulator adds."""
    content = final.to_dict()
    for one in content["choices"]:
        for call in one["message"].get("tool_calls") or ():
            call.pop("index")
            (call.get("function") or {}).pop("parsed_arguments", None)
        one["message"].pop("parsed", None)
    return without_nulls(content)


def whole(content: dict[str, Any]) -> Any:
    in_order = {**content, "choices": sorted(content["choices"], key=lambda one: one["index"])}
    return without_nulls(ChatCompletion.model_validate(in_order).to_dict())


@settings(deadline=None, max_examples=60)
@given(completions())
def test_what_the_sdk_accumulates_equals_the_whole_object(content):
    PLAYER.events = stream(content)

    with PLAYER.sync.chat.completions.stream(**ASKED) as played:
        # The final object of a cut text is an exception, by the helper's design.
        final = played.until_done().current_completion_snapshot

    assert accumulated(final) == whole(content)


async def test_the_asynchronous_helper_accumulates_the_same():
    content = completion(choice(content="Hello, you. " * 40, reasoning_content="Hm. " * 40))
    PLAYER.events = stream(content)

    async with PLAYER.parallel.chat.completions.stream(**ASKED) as played:
        final = await played.get_final_completion()

    assert accumulated(final) == whole(content)


def test_a_plain_loop_over_the_chunks_reads_every_text():
    content = completion(choice(content="é\u2028ok " * 100, refusal="no " * 50))
    PLAYER.events = stream(content)

    played = list(PLAYER.sync.chat.completions.create(**ASKED, stream=True))

    deltas = [chunk.choices[0].delta for chunk in played]
    assert "".join(delta.content or "" for delta in deltas) == "é\u2028ok " * 100
    assert "".join(delta.refusal or "" for delta in deltas) == "no " * 50
    assert deltas[0].role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in played][-2:] == [None, "stop"]
    assert len(played) > 5


def test_tool_calls_reach_the_helper_as_its_own_events():
    class Weather(BaseModel):
        city: str

    calls = [
        {
            "id": f"call_{city}",
            "type": "function",
            "function": {"name": "Weather", "arguments": json.dumps({"city": city})},
        }
        for city in ("Rome", "Oslo")
    ]
    PLAYER.events = stream(completion({**choice(tool_calls=calls), "finish_reason": "tool_calls"}))

    with PLAYER.sync.chat.completions.stream(
        **ASKED, tools=[pydantic_function_tool(Weather)]
    ) as played:
        done = [one for one in played if one.type == "tool_calls.function.arguments.done"]
        final = played.get_final_completion()

    assert [one.parsed_arguments for one in done] == [Weather(city="Rome"), Weather(city="Oslo")]
    parsed = [call.function.parsed_arguments for call in final.choices[0].message.tool_calls]
    assert parsed == [Weather(city="Rome"), Weather(city="Oslo")]


def test_structured_outputs_are_parsed_by_the_helper():
    class Answer(BaseModel):
        text: str

    PLAYER.events = stream(completion(choice(content=json.dumps({"text": "four " * 60}))))

    with PLAYER.sync.chat.completions.stream(**ASKED, response_format=Answer) as played:
        final = played.get_final_completion()

    assert final.choices[0].message.parsed == Answer(text="four " * 60)


def test_usage_comes_in_a_chunk_of_its_own_and_only_if_it_is_asked_for():
    content = completion(choice(content="x"), usage={"total_tokens": 8})

    asked, unasked = chunks(content), chunks(content, include_usage=False)

    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"] == {"total_tokens": 8}
    assert all(chunk["usage"] is None for chunk in asked[:-1])
    assert all("usage" not in chunk for chunk in unasked)
    assert unasked[-1]["choices"][0]["finish_reason"] == "stop"


def test_log_probabilities_come_with_the_text_that_they_belong_to():
    spelt = [{"token": token, "logprob": -0.1} for token in ("Hel", "lo", " you")]
    content = completion(
        {**choice(content="Hello you"), "logprobs": {"content": spelt, "refusal": None}}
    )

    parts = [chunk["choices"][0] for chunk in chunks(content)]

    with_text = [part for part in parts if part["delta"].get("content")]
    assert [part["delta"]["content"] for part in with_text] == ["Hel", "lo", " you"]
    assert [part["logprobs"]["content"] for part in with_text] == [[token] for token in spelt]
    assert all(part["logprobs"] is None for part in parts if part not in with_text)


def test_log_probabilities_that_do_not_spell_the_text_come_whole():
    logprobs = {"content": [{"token": "bytes:\\xe2", "logprob": -0.1}], "refusal": None}
    content = completion({**choice(content="…"), "logprobs": logprobs})

    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks(content)]

    assert [part for part in parts if part] == [logprobs]


def test_the_number_of_chunks_is_bounded_however_long_the_text_is():
    assert len(chunks(completion(choice(content="x" * 2_000_000)))) < 150


def test_what_is_unknown_of_the_whole_is_told_once():
    found = chunks(completion(choice(content="x"), provider="p", system_fingerprint="fp"))

    assert [chunk.get("provider") for chunk in found] == ["p"] + [None] * (len(found) - 1)
    assert {chunk["system_fingerprint"] for chunk in found} == {"fp"}


def test_a_completion_without_choices_is_a_stream_of_its_head():
    assert chunks(completion(provider="p")) == [
        {**completion(provider="p"), "object": "chat.completion.chunk", "usage": None}
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"choices": [1]}',
        b'{"choices": [{"index": 0}]}',
        b'{"choices": [{"message": {}}]}',
        b'{"choices": [{"index": 0, "message": {"tool_calls": [1]}}]}',
        b'{"choices": [], "x": NaN}',
        b"\xff",
    ],
)
def test_what_is_no_completion_is_refused(body):
    with pytest.raises(UnreadableResultError):
        synthesise(Shape.CHAT, body, include_usage=False)
