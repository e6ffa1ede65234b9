"""The events of a finished Response.

Source of shapes: OpenAI API description, `ResponseStreamEvent` (openapi.yaml,
2026-08-21). The last event carries the whole Response, so nothing can be lost;
the events before it are for those who read along. Items and parts of a kind that
is not known here are announced and finished whole.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from proxy.web.synthesis.parts import (
    Event,
    JsonObject,
    maybe_objects,
    objects,
    pieces,
    pieces_with_tokens,
    spells,
)

_TERMINAL: Final[Mapping[object, str]] = {
    "incomplete": "response.incomplete",
    "failed": "response.failed",
    "cancelled": "response.failed",
}

_NOT_BEGUN: Final[Mapping[str, object]] = {
    "status": "in_progress",
    "output": [],
    "usage": None,
    "error": None,
    "incomplete_details": None,
}

_CALLS: Final[Mapping[object, tuple[str, str]]] = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "mcp_call": ("arguments", "response.mcp_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
}
"""Per item type: the member that is streamed, and how its events begin."""


def response_events(response: JsonObject, _include_usage: bool) -> Iterator[Event]:
    """Yield the events, numbered from 0."""
    for number, content in enumerate(_unnumbered(response)):
        data = {"sequence_number": number, **content}
        yield Event(data, name=str(data["type"]))


def _unnumbered(response: JsonObject) -> Iterator[JsonObject]:
    begun = {**response, **_NOT_BEGUN}
    if "completed_at" in begun:
        begun["completed_at"] = None
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(objects(response, "output")):
        yield from _item_events(index, item)
    kind = _TERMINAL.get(str(response.get("status")), "response.completed")
    yield {"type": kind, "response": response}


def _item_events(index: int, item: JsonObject) -> Iterator[JsonObject]:
    place: JsonObject = {"item_id": str(item.get("id") or ""), "output_index": index}
    kind = str(item.get("type"))
    emptied: JsonObject = {}
    events: Iterator[JsonObject] = iter(())
    if kind == "message":
        emptied, events = {"content": []}, _parts_events(place, item)
    elif kind == "reasoning":
        emptied = {name: [] for name in ("summary", "content") if item.get(name) is not None}
        events = _reasoning_events(place, item)
    elif kind in _CALLS and isinstance(item.get(_CALLS[kind][0]), str):
        emptied, events = {_CALLS[kind][0]: ""}, _call_events(place, item)
    if emptied and "status" in item:
        emptied["status"] = "in_progress"
    yield {
        "type": "response.output_item.added",
        "output_index": index,
        "item": {**item, **emptied},
    }
    yield from events
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _parts_events(place: JsonObject, item: JsonObject) -> Iterator[JsonObject]:
    for index, part in enumerate(maybe_objects(item, "content")):
        where = {**place, "content_index": index}
        emptied: JsonObject = {}
        events: Iterator[JsonObject] = iter(())
        if part.get("type") == "output_text" and isinstance(part.get("text"), str):
            emptied = {name: [] for name in ("annotations", "logprobs") if part.get(name)}
            emptied["text"] = ""
            events = _text_events(where, part)
        elif part.get("type") == "refusal" and isinstance(part.get("refusal"), str):
            emptied = {"refusal": ""}
            events = _spelt_out(where, "response.refusal", "refusal", str(part["refusal"]))
        elif part.get("type") == "reasoning_text" and isinstance(part.get("text"), str):
            emptied = {"text": ""}
            events = _spelt_out(where, "response.reasoning_text", "text", str(part["text"]))
        yield {"type": "response.content_part.added", **where, "part": {**part, **emptied}}
        yield from events
        yield {"type": "response.content_part.done", **where, "part": part}


def _text_events(where: JsonObject, part: JsonObject) -> Iterator[JsonObject]:
    text, logprobs = str(part["text"]), part.get("logprobs")
    delta = {"type": "response.output_text.delta", **where}
    if spells(logprobs, text):
        for piece, tokens in pieces_with_tokens(logprobs):
            yield {**delta, "delta": piece, "logprobs": tokens}
    else:
        for piece in pieces(text):
            yield {**delta, "delta": piece, "logprobs": []}
    for index, annotation in enumerate(maybe_objects(part, "annotations")):
        yield {
            "type": "response.output_text.annotation.added",
            **where,
            "annotation_index": index,
            "annotation": annotation,
        }
    yield {
        "type": "response.output_text.done",
        **where,
        "text": text,
        "logprobs": logprobs or [],
    }


def _reasoning_events(place: JsonObject, item: JsonObject) -> Iterator[JsonObject]:
    for index, part in enumerate(maybe_objects(item, "summary")):
        where = {**place, "summary_index": index}
        kind = "response.reasoning_summary_part"
        text = part.get("text")
        emptied = {"text": ""} if isinstance(text, str) else {}
        yield {"type": f"{kind}.added", **where, "part": {**part, **emptied}}
        if isinstance(text, str):
            yield from _spelt_out(where, "response.reasoning_summary_text", "text", text)
        yield {"type": f"{kind}.done", **where, "part": part}
    yield from _parts_events(place, item)


def _call_events(place: JsonObject, item: JsonObject) -> Iterator[JsonObject]:
    member, kind = _CALLS[str(item.get("type"))]
    name = {"name": item["name"]} if item.get("type") == "function_call" and "name" in item else {}
    yield from _spelt_out({**place, **name}, kind, member, str(item[member]))


def _spelt_out(where: JsonObject, kind: str, member: str, text: str) -> Iterator[JsonObject]:
    for piece in pieces(text):
        yield {"type": f"{kind}.delta", **where, "delta": piece}
    yield {"type": f"{kind}.done", **where, member: text}
