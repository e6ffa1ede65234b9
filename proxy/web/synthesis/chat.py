"""The chunks of a finished chat completion.

Source of shapes: OpenAI API description, `CreateChatCompletionStreamResponse`
(openapi.yaml, 2026-08-21). Where it leaves a choice, the accumulator of the
OpenAI SDK decides: it takes fields that it does not know from the first chunk
of a choice only, and it wants the choices introduced in order.
"""

from collections.abc import Iterator
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

_STREAMED: Final = ("reasoning_content", "reasoning", "content", "refusal")
"""Texts of a message, in the order in which models write them.

The first two are what DeepSeek, vLLM and others call the thinking.
"""

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
    for delta, tokens in _deltas(message, logprobs):
        if tokens is not None:
            yield _chunk(index, delta, logprobs={**_rest(logprobs), "content": tokens})
        else:
            yield _chunk(index, delta)
    told = _told_by_token(message, logprobs)
    yield _chunk(
        index,
        {},
        logprobs=None if told else logprobs,
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


def _deltas(
    message: JsonObject, logprobs: object
) -> Iterator[tuple[JsonObject, list[JsonObject] | None]]:
    by_token = _told_by_token(message, logprobs)
    for name in _STREAMED:
        text = message.get(name)
        if not isinstance(text, str):
            continue
        if name == "content" and by_token:
            for piece, tokens in pieces_with_tokens(by_token):
                yield {name: piece}, tokens
        else:
            for piece in pieces(text):
                yield {name: piece}, None
    for index, call in enumerate(maybe_objects(message, "tool_calls")):
        for delta in _tool_call_deltas(index, call):
            yield {"tool_calls": [delta]}, None
    function = message.get("function_call")
    if is_object(function) and function:
        for part in _function_deltas(function):
            yield {"function_call": part}, None


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


def _told_by_token(message: JsonObject, logprobs: object) -> list[JsonObject] | None:
    """Return the tokens if each can go with the piece of content that it belongs to."""
    content = message.get("content")
    if not is_object(logprobs) or not isinstance(content, str) or logprobs.get("refusal"):
        return None
    tokens = logprobs.get("content")
    return tokens if spells(tokens, content) else None


def _rest(logprobs: object) -> JsonObject:
    return {**logprobs, "refusal": None} if is_object(logprobs) else {}
