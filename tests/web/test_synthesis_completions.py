"""Streams of legacy completions, read by the stock SDK."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion

from proxy.core.dialects import Shape
from proxy.web.synthesis import UnreadableResultError, synthesise
from tests.web.replay import Player, without_nulls

PLAYER = Player()
LOGPROBS = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": None, "text_offset": [0]}


@st.composite
def completions(draw):
    count = draw(st.integers(1, 3))
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1_790_000_000,
        "model": "davinci-002",
        "choices": [
            {
                "index": index,
                "text": draw(st.text(max_size=200)),
                "logprobs": draw(st.none() | st.just(LOGPROBS)),
                "finish_reason": draw(st.sampled_from(["stop", "length"])),
                "stop_reason": draw(st.none() | st.text(max_size=3)),
            }
            for index in range(count)
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
        "provider": draw(st.none() | st.text(max_size=3)),
    }


def stream(content: object, *, include_usage: bool = True) -> list[bytes]:
    body = json.dumps(content).encode()
    return synthesise(Shape.COMPLETIONS, body, include_usage=include_usage)


def added_up(chunks: list[Completion]) -> dict[str, Any]:
    """Put chunks together as their readers do: texts add up, what comes later stands."""
    total: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        content = without_nulls(chunk.to_dict())
        for part in content.pop("choices"):
            known = choices.setdefault(part["index"], {"text": ""})
            text = known["text"] + part["text"]
            known.update(part, text=text)
        total.update(content)
    return {**total, "choices": [choices[index] for index in sorted(choices)]}


@settings(deadline=None, max_examples=40)
@given(completions())
def test_what_the_chunks_add_up_to_equals_the_whole_object(content):
    PLAYER.events = stream(content)

    played = list(PLAYER.sync.completions.create(model="m", prompt="p", stream=True))

    assert added_up(played) == without_nulls(content)


def test_a_choice_ends_once_and_with_its_last_chunk():
    choice = {"index": 0, "text": "word " * 60, "logprobs": None, "finish_reason": "stop"}
    events = stream({"id": "c", "object": "text_completion", "choices": [choice]})

    assert events[-1] == b"data: [DONE]\n\n"
    parts = [json.loads(event[6:])["choices"][0] for event in events[:-1]]
    assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["stop"]
    assert len(parts) > 3


def test_usage_is_told_only_if_it_is_asked_for():
    content = {"id": "c", "choices": [], "usage": {"total_tokens": 8}}

    assert json.loads(stream(content)[-2][6:])["usage"] == {"total_tokens": 8}
    assert b"usage" not in b"".join(stream(content, include_usage=False))


@pytest.mark.parametrize("body", [b"{}", b'{"choices": [{"index": 0}]}', b'{"choices": 1}'])
def test_what_is_no_completion_is_refused(body):
    with pytest.raises(UnreadableResultError):
        synthesise(Shape.COMPLETIONS, body, include_usage=False)
