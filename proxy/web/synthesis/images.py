"""The stream of finished images: each as the event that a native stream ends with.

Source of shapes: OpenAI API description, `ImagesResponse`, `ImageGenCompletedEvent` and
`ImageEditCompletedEvent` (openapi.yaml, 2026-08-21). Partial images, which come before it, are
not to be had of a finished one; a caller may be sent fewer than it asked for, or none, there too
("Image generation", "Streaming").
"""

from collections.abc import Iterator
from functools import partial
from typing import Final

from proxy.web.synthesis.parts import Event, JsonObject, UnreadableResultError, objects

_NOTHING_USED: Final[JsonObject] = {
    "total_tokens": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}


def _events(kind: str, result: JsonObject, _include_usage: bool) -> Iterator[Event]:
    """Yield an event for each image.

    Each has to say its usage, and only that of all of them is known: it stands at the last
    one, and zeros at the others, so that they add up.
    """
    images = objects(result, "data")
    common = {name: value for name, value in result.items() if name not in ("created", "data")}
    if "created" in result:
        common["created_at"] = result["created"]
    for number, image in enumerate(images, start=1):
        if not isinstance(image.get("b64_json"), str):
            raise UnreadableResultError("an image of the result has no `b64_json`")
        used = common if number == len(images) else {**common, "usage": _NOTHING_USED}
        yield Event({"type": kind, **used, **image}, name=kind)


generated_events = partial(_events, "image_generation.completed")
"""What a stream of `/v1/images/generations` ends with."""

edited_events = partial(_events, "image_edit.completed")
"""What a stream of `/v1/images/edits` ends with."""
