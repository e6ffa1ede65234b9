"""Chat completions: the answer to a body, and its stream.

Source of shapes: OpenAI API description, `CreateChatCompletionResponse` and
`CreateChatCompletionStreamResponse` (openapi.yaml, 2026-08-21).
"""

import json
from collections.abc import Iterator
from typing import Any

from proxy.sandbox.answers import answer_text, body_hash, clip, instance_of, tokens_in
from proxy.sandbox.engine import Execution, new_id
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.fields import check_temperature, forced_function, integer, text_of
from proxy.sandbox.settings import ModelSpec


def complete(body: dict[str, Any], model: ModelSpec, *, now: float, tier: str) -> Execution:
    """Answer a chat body; raises `ApiError` where OpenAI refuses it."""
    messages = _messages(body)
    check_temperature(body)
    copies = integer(body, "n", 1, 128, default=1) or 1
    prompt_tokens = 3 + sum(3 + tokens_in(text_of(message)) for message in messages)
    if prompt_tokens > model.context_tokens:
        raise errors.invalid(
            "messages",
            f"This model's maximum context length is {model.context_tokens} tokens.",
            code="context_length_exceeded",
        )
    digest = body_hash(body)
    choices = [_choice(body, digest, messages, index) for index in range(copies)]
    output_tokens = sum(_choice_tokens(choice) for choice in choices)
    completion = {
        "id": new_id("chatcmpl-"),
        "object": "chat.completion",
        "created": int(now),
        "model": model.id,
        "choices": choices,
        "usage": _usage(prompt_tokens, output_tokens),
        "service_tier": tier,
        "system_fingerprint": "fp_sandbox",
    }
    return Execution(completion, model, digest, prompt_tokens, output_tokens)


def chunks(completion: dict[str, Any], *, include_usage: bool) -> Iterator[dict[str, Any]]:
    """Yield the stream that a finished completion would have been."""
    head = {
        name: completion[name]
        for name in ("id", "created", "model", "service_tier", "system_fingerprint")
    }
    head["object"] = "chat.completion.chunk"
    if include_usage:
        head["usage"] = None
    for choice in completion["choices"]:
        index = choice["index"]
        for delta in _deltas(choice["message"]):
            yield {**head, "choices": [_delta_choice(index, delta, None)]}
        yield {**head, "choices": [_delta_choice(index, {}, choice["finish_reason"])]}
    if include_usage:
        yield {**head, "choices": [], "usage": completion["usage"]}


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    if "messages" not in body:
        raise errors.missing("messages")
    messages = body["messages"]
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise errors.invalid(
            "messages", "Invalid type for 'messages': expected objects.", code="invalid_type"
        )
    if not messages:
        raise errors.invalid("messages", "Invalid 'messages': empty array.", code="empty_array")
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise errors.missing(f"messages[{index}].role")
    return messages


def _choice(
    body: dict[str, Any], digest: str, messages: list[dict[str, Any]], index: int
) -> dict[str, Any]:
    function = forced_function(body)
    if function is not None:
        # A named function ends with `stop`, `required` with `tool_calls`: OpenAI, Function calling.
        named = isinstance(body.get("tool_choice"), dict)
        message = _tool_message(function, digest, index)
        return _finished(index, message, "stop" if named else "tool_calls")
    asked = [message for message in messages if message["role"] == "user"] or messages
    text = _content(body, digest, text_of(asked[-1]), index)
    limit = integer(body, "max_completion_tokens", 1, 10**9)
    text, was_cut = clip(text, limit or integer(body, "max_tokens", 1, 10**9))
    message = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    return _finished(index, message, "length" if was_cut else "stop")


def _content(body: dict[str, Any], digest: str, question: str, index: int) -> str:
    wanted = body.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        schema = (wanted.get("json_schema") or {}).get("schema")
        return json.dumps(instance_of(schema, digest), ensure_ascii=False)
    text = answer_text(digest, question, choice=index)
    if isinstance(wanted, dict) and wanted.get("type") == "json_object":
        return json.dumps({"answer": text}, ensure_ascii=False)
    return text


def _tool_message(function: dict[str, Any], digest: str, index: int) -> dict[str, Any]:
    arguments = json.dumps(instance_of(function.get("parameters"), digest) or {})
    call = {
        # Of the answer, not of the execution: a caller that compares messages sees no difference.
        "id": f"call_{digest[:20]}{index}",
        "type": "function",
        "function": {"name": function.get("name", ""), "arguments": arguments},
    }
    return {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "tool_calls": [call],
    }


def _finished(index: int, message: dict[str, Any], reason: str) -> dict[str, Any]:
    return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}


def _choice_tokens(choice: dict[str, Any]) -> int:
    message = choice["message"]
    calls = message.get("tool_calls", [])
    return tokens_in(message["content"] or "") + sum(
        tokens_in(call["function"]["name"] + call["function"]["arguments"]) for call in calls
    )


def _usage(prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": None if "tool_calls" in message else "", "refusal": None}
    for word in pieces(message["content"] or ""):
        yield {"content": word}
    for index, call in enumerate(message.get("tool_calls", [])):
        function = call["function"]
        opening = {"name": function["name"], "arguments": ""}
        yield {
            "tool_calls": [
                {"index": index, "id": call["id"], "type": "function", "function": opening}
            ]
        }
        for piece in pieces(function["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _delta_choice(index: int, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def pieces(text: str) -> Iterator[str]:
    """Yield a text word by word, spaces included, so that the parts join to the whole."""
    start = 0
    while start < len(text):
        end = text.find(" ", start + 1)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end
