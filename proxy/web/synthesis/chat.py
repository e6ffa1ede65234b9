"""The chunks of a finished chat completion.

Source of shapes: OpenAI API description, `CreateChatCompletionStreamResponse`
(openapi.yaml, 2026-08-21). Where it leaves a choice, the accumulator of the
OpenAI SDK decides: it takes fields that it does not know from the first chunk
of a choice only, and it wants the choices introduced in order.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Final

from proxy.web.synthesis.parts import (
    Event,
    JsonObject,
    UnreadableResultError,
    is_object,
    maybe_objects,
    objects,
    pieces,
    pieces_with_tokens,
    spells,
)

_IN_EVERY_CHUNK: Final = ("id", "created", "model", "service_tier", "system_fingerprint")

_THINKING: Final = ("reasoning_content", "reasoning")
"""What DeepSeek, vLLM and others call the text that a model writes to itself first."""

_STREAMED: Final = (*_THINKING, "content", "refusal")
_BEFORE_TEXT: Final = {"content": ""}
"""What the first chunk of a choice says of a text to come; of most it says null."""

_OWN_CHUNKS: Final = frozenset({*_STREAMED, "tool_calls", "function_call"})
_OF_CHOICE: Final = frozenset({"index", "message", "finish_reason", "logprobs"})
_OF_COMPLETION: Final = frozenset({"object", "choices", "usage"})


def chat_events(completion: JsonObject, include_usage: bool) -> Iterator[Event]:
    """Yield every chunk but the final `[DONE]`."""
    head: JsonObject = {name: completion[name] for name in _IN_EVERY_CHUNK if name in completion}
    head["object"] = "chat.completion.chunk"
    if include_usage:
        head["usage"] = None
    first = {**completion, **head}
    for name in _OF_COMPLETION - head.keys():
        first.pop(name, None)
    choices = _in_order(objects(completion, "choices"))
    if not choices:
        yield Event({**first, "choices": []})
    for choice in choices:
        for part in _choice_chunks(choice):
            yield Event({**first, "choices": [part]})
            first = head
    if include_usage and completion.get("usage") is not None:
        yield Event({**head, "choices": [], "usage": completion["usage"]})


def _in_order(choices: list[JsonObject]) -> list[JsonObject]:
    def index(choice: JsonObject) -> int:
        value = choice.get("index")
        if not isinstance(value, int):
            raise UnreadableResultError("a choice of the result has no index")
        return value

    return sorted(choices, key=index)


def _choice_chunks(choice: JsonObject) -> Iterator[JsonObject]:
    message = choice.get("message")
    if not is_object(message):
        raise UnreadableResultError("a choice of the result has no message")
    index = choice["index"]
    unknown = {name: value for name, value in choice.items() if name not in _OF_CHOICE}
    yield {**unknown, **_chunk(index, _opening(message))}
    logprobs = choice.get("logprobs")
    for name in _THINKING:
        for delta in _text_deltas(message, name):
            yield _chunk(index, delta)
    for delta, its_logprobs in _content_chunks(message, logprobs):
        yield _chunk(index, delta, logprobs=its_logprobs)
    for delta in chain(_text_deltas(message, "refusal"), _call_deltas(message)):
        yield _chunk(index, delta)
    yield _chunk(
        index,
        {},
        logprobs=None if _spelling(message, logprobs) else logprobs,
        finish_reason=choice.get("finish_reason"),
    )


def _chunk(
    index: object, delta: JsonObject, *, logprobs: object = None, finish_reason: object = None
) -> JsonObject:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def _opening(message: JsonObject) -> JsonObject:
    """Return the first delta: the role, what is empty, and every field we do not know."""
    opening = {name: value for name, value in message.items() if name not in _OWN_CHUNKS}
    for name in _STREAMED:
        if name in message:
            value = message[name]
            is_streamed = isinstance(value, str) and value
            opening[name] = _BEFORE_TEXT.get(name) if is_streamed else value
    for name in ("tool_calls", "function_call"):
        if name in message and not message[name]:
            opening[name] = message[name]
    return opening


def _text_deltas(message: JsonObject, name: str) -> Iterator[JsonObject]:
    text = message.get(name)
    if isinstance(text, str):
        for piece in pieces(text):
            yield {name: piece}


def _call_deltas(message: JsonObject) -> Iterator[JsonObject]:
    for index, call in enumerate(maybe_objects(message, "tool_calls")):
        for delta in _tool_call_deltas(index, call):
            yield {"tool_calls": [delta]}
    function = message.get("function_call")
    if is_object(function) and function:
        for part in _function_deltas(function):
            yield {"function_call": part}


def _tool_call_deltas(index: int, call: JsonObject) -> Iterator[JsonObject]:
    function = call.get("function")
    if not is_object(function):
        # A custom tool's call, or one of a kind to come: whole.
        yield {**call, "index": index}
        return
    for position, part in enumerate(_function_deltas(function)):
        known = call if position == 0 else {}
        yield {**known, "index": index, "function": part}


def _function_deltas(function: JsonObject) -> Iterator[JsonObject]:
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        yield function
        return
    yield {**function, "arguments": ""}
    for piece in pieces(arguments):
        yield {"arguments": piece}


def _content_chunks(message: JsonObject, logprobs: object) -> Iterator[tuple[JsonObject, object]]:
    """Yield the deltas of the content, each with the log probabilities of its tokens."""
    tokens = _spelling(message, logprobs)
    if tokens is None:
        for delta in _text_deltas(message, "content"):
            yield delta, None
    elif is_object(logprobs):
        for piece, group in pieces_with_tokens(tokens):
            yield {"content": piece}, {**logprobs, "content": group}


def _spelling(message: JsonObject, logprobs: object) -> list[JsonObject] | None:
    """Return the tokens of the content if they, and nothing else, are in `logprobs`."""
    content = message.get("content")
    if not is_object(logprobs) or not isinstance(content, str) or logprobs.get("refusal"):
        return None
    tokens = logprobs.get("content")
    return tokens if spells(tokens, content) else None
