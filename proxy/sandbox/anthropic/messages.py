"""Messages: the answer to a body, and its stream.

Source of shapes: types of the Anthropic SDK 2.12, `Message` and `RawMessageStreamEvent`.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

from proxy.sandbox.answers import answer_text, body_hash, clip, instance_of, text_within, tokens_in
from proxy.sandbox.anthropic import errors
from proxy.sandbox.engine import Execution, new_id
from proxy.sandbox.openai.chat import pieces
from proxy.sandbox.settings import ModelSpec, SandboxSettings

_THINKING_MIN: Final = 1_024
"""Anthropic, "Extended thinking": the least `budget_tokens`."""


def answer(body: dict[str, Any], settings: SandboxSettings, *, in_batch: bool = False) -> Execution:
    """Answer a body; raises `ApiError` where Anthropic refuses it. Nothing is billed here."""
    model = check_prompt(body, settings)
    limit = _max_tokens(body)
    if in_batch:
        _check_batchable(body)
    input_tokens = prompt_tokens(body)
    if input_tokens > model.context_tokens:
        raise errors.invalid(
            f"prompt is too long: {input_tokens} tokens > {model.context_tokens} maximum"
        )
    digest = body_hash(body)
    content, reason = _content(body, digest, limit)
    output_tokens = sum(map(_block_tokens, content))
    message = {
        "id": new_id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": model.id,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": output_tokens,
            "service_tier": "batch" if in_batch else "standard",
        },
    }
    return Execution(message, model, digest, input_tokens, output_tokens)


def check_prompt(body: dict[str, Any], settings: SandboxSettings) -> ModelSpec:
    """Return the model of a body whose prompt is acceptable."""
    name = body.get("model")
    if name is None:
        raise errors.missing("model")
    model = settings.model(name) if isinstance(name, str) else None
    if model is None or model.kind != "messages":
        raise errors.not_found(f"model: {name}")
    messages = body.get("messages")
    if messages is None:
        raise errors.missing("messages")
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise errors.invalid("messages: Input should be a valid array of objects")
    if not messages:
        raise errors.invalid("messages: at least one message is required")
    for place, message in enumerate(messages):
        if message.get("role") not in ("user", "assistant"):
            raise errors.invalid(f"messages.{place}.role: Input should be 'user' or 'assistant'")
        if "content" not in message:
            raise errors.missing(f"messages.{place}.content")
    return model


def prompt_tokens(body: dict[str, Any]) -> int:
    """Return the input tokens of a body, as both its usage and `count_tokens` tell them."""
    asked = [_text_of(body.get("system"))]
    asked += [_text_of(message.get("content")) for message in body["messages"]]
    tools = json.dumps(body["tools"]) if body.get("tools") else ""
    return 3 + tokens_in(tools) + sum(3 + tokens_in(text) for text in asked if text)


def events(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the stream that a finished message would have been."""
    usage = message["usage"]
    opening: dict[str, Any] = {
        "content": [],
        "stop_reason": None,
        "usage": {**usage, "output_tokens": 1},
    }
    yield {"type": "message_start", "message": {**message, **opening}}
    yield {"type": "ping"}
    for index, block in enumerate(message["content"]):
        empty, deltas = _deltas(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ended = {name: message[name] for name in ("stop_reason", "stop_sequence", "stop_details")}
    counts = {"output_tokens": usage["output_tokens"]}
    yield {"type": "message_delta", "delta": ended, "usage": counts}
    yield {"type": "message_stop"}


def _max_tokens(body: dict[str, Any]) -> int:
    limit = body.get("max_tokens")
    if limit is None:
        raise errors.missing("max_tokens")
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise errors.invalid("max_tokens: Input should be a valid integer")
    if limit < 1:
        raise errors.invalid("max_tokens: Input should be greater than or equal to 1")
    return limit


def _check_batchable(body: dict[str, Any]) -> None:
    # Anthropic, "Batch processing": what a line must not ask for.
    for name in ("stream", "speed", "fallbacks"):
        if body.get(name):
            raise errors.invalid(f"{name}: not supported in batches")


def _content(body: dict[str, Any], digest: str, limit: int) -> tuple[list[dict[str, Any]], str]:
    thoughts = _thoughts(body, digest, limit)
    tool = _forced_tool(body)
    if tool is not None:
        call = {
            "type": "tool_use",
            # Of the answer, not of the execution: a caller that compares sees no difference.
            "id": f"toolu_{digest[:24]}",
            "name": tool.get("name", ""),
            "input": instance_of(tool.get("input_schema"), digest) or {},
        }
        return [*thoughts, call], "tool_use"
    asked = [one for one in body["messages"] if one["role"] == "user"] or body["messages"]
    text, was_cut = clip(_text(body, digest, _text_of(asked[-1]["content"])), limit)
    return [*thoughts, {"type": "text", "text": text}], "max_tokens" if was_cut else "end_turn"


def _text(body: dict[str, Any], digest: str, question: str) -> str:
    wanted = (body.get("output_config") or {}).get("format")
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        return json.dumps(instance_of(wanted.get("schema"), digest), ensure_ascii=False)
    return answer_text(digest, question)


def _thoughts(body: dict[str, Any], digest: str, limit: int) -> list[dict[str, Any]]:
    thinking = body.get("thinking")
    if not isinstance(thinking, dict) or thinking.get("type") not in ("enabled", "adaptive"):
        return []
    if thinking["type"] == "enabled":
        budget = thinking.get("budget_tokens")
        if not isinstance(budget, int) or budget < _THINKING_MIN:
            raise errors.invalid(
                f"thinking.budget_tokens: Input should be greater than or equal to {_THINKING_MIN}"
            )
        if budget >= limit:
            raise errors.invalid("max_tokens must be greater than thinking.budget_tokens")
    signature = hashlib.sha256(digest.encode()).hexdigest()
    thought = f"The question has the digest {digest}, and so it has one answer."
    return [{"type": "thinking", "thinking": thought, "signature": signature}]


def _forced_tool(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the tool that `tool_choice` forces, or None if the model may answer in words."""
    tools = [tool for tool in body.get("tools") or () if isinstance(tool, dict)]
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return None
    if choice.get("type") == "any" and tools:
        return tools[0]
    if choice.get("type") == "tool":
        for tool in tools:
            if tool.get("name") == choice.get("name"):
                return tool
        raise errors.invalid(f"Tool '{choice.get('name')}' not found in provided tools")
    return None


def _text_of(content: Any) -> str:
    return text_within(content, ("text", "thinking", "content", "source", "data"))


def _block_tokens(block: dict[str, Any]) -> int:
    if block["type"] == "tool_use":
        return tokens_in(block["name"] + json.dumps(block["input"]))
    return tokens_in(block.get("text") or block.get("thinking") or "")


def _deltas(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if block["type"] == "text":
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        return {"type": "text", "text": ""}, deltas
    if block["type"] == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])
        ]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {"type": "thinking", "thinking": "", "signature": ""}, deltas
    deltas = [
        {"type": "input_json_delta", "partial_json": piece}
        for piece in ("", *pieces(json.dumps(block["input"])))
    ]
    return {**block, "input": {}}, deltas
