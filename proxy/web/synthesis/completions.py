"""The chunks of a finished legacy completion.

Source of shapes: OpenAI API description, `CreateCompletionResponse`
(openapi.yaml, 2026-08-21): streamed and whole objects share one shape.
"""

from collections.abc import Iterator
from typing import Final

from proxy.web.synthesis.parts import (
    Event,
    JsonObject,
    UnreadableResultError,
    objects,
    pieces,
)

_IN_EVERY_CHUNK: Final = ("id", "object", "created", "model", "system_fingerprint")


def completion_events(
    completion: JsonObject,
    include_usage: bool,
) -> Iterator[Event]:
    """Yield every chunk but the final `[DONE]`.

    Log probabilities come with the last chunk of a choice, whole.
    """
    head: JsonObject = {name: completion[name] for name in _IN_EVERY_CHUNK if name in completion}
    if include_usage:
        head["usage"] = None
    first = {**completion, **head}
    if not include_usage:
        first.pop("usage", None)
    choices = objects(completion, "choices")
    if not choices:
        yield Event(first)
    for choice in choices:
        text = choice.get("text")
        if not isinstance(text, str):
            raise UnreadableResultError("a choice of the result has no text")
        place = {"index": choice.get("index"), "logprobs": None, "finish_reason": None}
        for piece in pieces(text):
            yield Event({**first, "choices": [{**place, "text": piece}]})
            first = head
        yield Event({**first, "choices": [{**choice, "text": ""}]})
        first = head
    if include_usage and completion.get("usage") is not None:
        yield Event({**head, "choices": [], "usage": completion["usage"]})
