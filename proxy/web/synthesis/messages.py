"""The events of a finished message.

Source of shapes: types of the Anthropic SDK 2.12, `RawMessageStreamEvent`. Where
they leave a choice, the SDK's accumulator decides: it begins with the message of
the first event as it is, appends each block as it is announced, and overwrites
what the last delta tells. So whatever is not known here goes with the first
event or with its block, whole.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Final

from proxy.web.synthesis.parts import (
    Event,
    JsonObject,
    UnreadableResultError,
    is_object,
    maybe_objects,
    objects,
    pieces,
)

_TOLD_LAST: Final = ("stop_reason", "stop_sequence", "stop_details", "container")
"""What of a message the last delta tells; all of it is null at the beginning."""

_CUMULATIVE: Final = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "server_tool_use",
    "output_tokens_details",
    "output_tokens",
)
"""The usage that the last delta tells again."""

_CALLS: Final = frozenset({"tool_use", "server_tool_use"})
"""Blocks whose input is streamed; the accumulator knows no others."""


def message_events(message: JsonObject, _include_usage: bool) -> Iterator[Event]:
    """Yield the events, from `message_start` to `message_stop`."""
    for data in _contents(message):
        yield Event(data, name=str(data["type"]))


def _contents(message: JsonObject) -> Iterator[JsonObject]:
    blocks = objects(message, "content")
    usage = message.get("usage")
    if not is_object(usage):
        raise UnreadableResultError("the result has no usage")
    nulls: JsonObject = {name: None for name in _TOLD_LAST if name in message}
    begun = {**message, **nulls, "content": [], "usage": _at_first(usage)}
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(blocks):
        yield from _block_events(index, block)
    told = {name: message[name] for name in _TOLD_LAST if name in message}
    counts = {name: usage[name] for name in _CUMULATIVE if usage.get(name) is not None}
    yield {"type": "message_delta", "delta": told, "usage": counts}
    yield {"type": "message_stop"}


def _at_first(usage: JsonObject) -> JsonObject:
    """Return the usage before anything was written: some add it to the last one."""
    return {**usage, "output_tokens": 0} if "output_tokens" in usage else usage


def _block_events(index: int, block: JsonObject) -> Iterator[JsonObject]:
    emptied, deltas = _split(block)
    begun = {**block, **emptied}
    yield {"type": "content_block_start", "index": index, "content_block": begun}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _split(block: JsonObject) -> tuple[JsonObject, Iterator[JsonObject]]:
    """Return what of a block is empty at first, and the deltas that fill it."""
    kind = str(block.get("type"))
    if kind == "text" and isinstance(block.get("text"), str):
        # An empty list cannot be told by deltas; null is what a text without has.
        emptied: JsonObject = {"citations": None} if block.get("citations") else {}
        return {"text": "", **emptied}, _text_deltas(block)
    if kind == "thinking" and isinstance(block.get("thinking"), str):
        signed = isinstance(block.get("signature"), str)
        return {"thinking": "", **({"signature": ""} if signed else {})}, _thoughts(block)
    if kind in _CALLS and is_object(block.get("input")):
        return {"input": {}}, _input_deltas(block)
    # Redacted thinking, results of server tools, and blocks to come: whole.
    return {}, iter(())


def _text_deltas(block: JsonObject) -> Iterator[JsonObject]:
    for citation in maybe_objects(block, "citations"):
        yield {"type": "citations_delta", "citation": citation}
    for piece in pieces(str(block["text"])):
        yield {"type": "text_delta", "text": piece}


def _thoughts(block: JsonObject) -> Iterator[JsonObject]:
    for piece in pieces(str(block["thinking"])):
        yield {"type": "thinking_delta", "thinking": piece}
    if block.get("signature"):
        yield {"type": "signature_delta", "signature": block["signature"]}


def _input_deltas(block: Mapping[str, object]) -> Iterator[JsonObject]:
    if not block["input"]:
        # Natively one empty piece; it says that there is no more.
        yield {"type": "input_json_delta", "partial_json": ""}
        return
    for piece in pieces(json.dumps(block["input"], ensure_ascii=False)):
        yield {"type": "input_json_delta", "partial_json": piece}
