"""The Responses API: the answer to a body, and its event sequence.

Source of shapes: OpenAI API description, `Response` and `ResponseStreamEvent` (openapi.yaml,
2026-08-21).
"""

import json
from collections.abc import Iterator
from typing import Any

from proxy.sandbox.answers import answer_text, body_hash, clip, instance_of, tokens_in
from proxy.sandbox.engine import Execution, new_id
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.chat import pieces
from proxy.sandbox.openai.fields import check_temperature, forced_function, integer, text_of
from proxy.sandbox.settings import ModelSpec

Event = dict[str, Any]


def respond(body: dict[str, Any], model: ModelSpec, *, now: float, tier: str) -> Execution:
    """Answer a Responses body; raises `ApiError` where OpenAI refuses it."""
    question = _question(body)
    check_temperature(body)
    asked = text_of(body["input"]) + text_of(body.get("instructions"))
    input_tokens = 3 + tokens_in(asked)
    if input_tokens > model.context_tokens:
        raise errors.invalid(
            "input",
            "Your input exceeds the context window of this model.",
            code="context_length_exceeded",
        )
    digest = body_hash(body)
    item, was_cut = _output_item(body, digest, question)
    output_tokens = tokens_in(text_of(item.get("content", item)))
    response = shell(body, model, now=now, tier=tier)
    response.update(
        status="incomplete" if was_cut else "completed",
        incomplete_details={"reason": "max_output_tokens"} if was_cut else None,
        output=[item],
        usage=_usage(input_tokens, output_tokens),
    )
    if not was_cut:
        response["completed_at"] = int(now)
    return Execution(response, model, digest, input_tokens, output_tokens)


def shell(body: dict[str, Any], model: ModelSpec, *, now: float, tier: str) -> dict[str, Any]:
    """Return a response that was just accepted: `queued`, no output, no usage."""
    return {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": int(now),
        "status": "queued",
        "background": bool(body.get("background", False)),
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": model.id,
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": body.get("reasoning") or {"effort": None, "summary": None},
        "service_tier": tier,
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": [_complete_tool(tool) for tool in body.get("tools") or ()],
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "usage": None,
        "metadata": body.get("metadata") or {},
    }


def events(response: dict[str, Any]) -> Iterator[Event]:
    """Yield the event sequence that a finished response would have been."""
    for sequence, event in enumerate(_unnumbered(response)):
        yield {"sequence_number": sequence, **event}


def _unnumbered(response: dict[str, Any]) -> Iterator[Event]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    begun.pop("completed_at", None)
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(response["output"]):
        tell = _message_events if item["type"] == "message" else _function_events
        yield from tell(index, item)
    kind = "response.incomplete" if response["status"] == "incomplete" else "response.completed"
    yield {"type": kind, "response": response}


def _message_events(index: int, item: dict[str, Any]) -> Iterator[Event]:
    part = item["content"][0]
    place = {"item_id": item["id"], "output_index": index, "content_index": 0}
    yield {
        "type": "response.output_item.added",
        "output_index": index,
        "item": {**item, "status": "in_progress", "content": []},
    }
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _function_events(index: int, item: dict[str, Any]) -> Iterator[Event]:
    place = {"item_id": item["id"], "output_index": index}
    yield {
        "type": "response.output_item.added",
        "output_index": index,
        "item": {**item, "status": "in_progress", "arguments": ""},
    }
    for piece in pieces(item["arguments"]):
        yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
    yield {
        "type": "response.function_call_arguments.done",
        **place,
        "name": item["name"],
        "arguments": item["arguments"],
    }
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _question(body: dict[str, Any]) -> str:
    if "input" not in body:
        raise errors.missing("input")
    asked = body["input"]
    if isinstance(asked, str):
        return asked
    if not isinstance(asked, list) or not all(isinstance(item, dict) for item in asked):
        raise errors.invalid(
            "input", "Invalid type for 'input': expected a string or items.", code="invalid_type"
        )
    users = [item for item in asked if item.get("role") == "user"] or asked
    return text_of(users[-1]) if users else ""


def _output_item(body: dict[str, Any], digest: str, question: str) -> tuple[dict[str, Any], bool]:
    function = forced_function(body)
    if function is not None:
        return {
            "type": "function_call",
            "id": f"fc_{digest}",
            "call_id": f"call_{digest[:20]}",
            "name": function.get("name", ""),
            "arguments": json.dumps(instance_of(function.get("parameters"), digest) or {}),
            "status": "completed",
        }, False
    limit = integer(body, "max_output_tokens", 16, 10**9)
    text, was_cut = clip(_content(body, digest, question), limit)
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "type": "message",
        "id": f"msg_{digest}",
        "role": "assistant",
        "status": "incomplete" if was_cut else "completed",
        "content": [part],
    }, was_cut


def _content(body: dict[str, Any], digest: str, question: str) -> str:
    text = body.get("text")
    wanted = text.get("format") if isinstance(text, dict) else None
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        return json.dumps(instance_of(wanted.get("schema"), digest), ensure_ascii=False)
    answer = answer_text(digest, question)
    if isinstance(wanted, dict) and wanted.get("type") == "json_object":
        return json.dumps({"answer": answer}, ensure_ascii=False)
    return answer


def _complete_tool(tool: Any) -> Any:
    if isinstance(tool, dict) and tool.get("type") == "function":
        return {"description": None, "strict": True, "parameters": None, **tool}
    return tool


def _usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }
