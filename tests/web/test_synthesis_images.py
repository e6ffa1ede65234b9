"""Streams of images, read by the stock SDK."""

import json

import pytest

from proxy.core.dialects import Shape
from proxy.web.synthesis import UnreadableResultError, synthesise
from tests.web.replay import Player

PLAYER = Player()
USAGE = {
    "total_tokens": 302,
    "input_tokens": 30,
    "output_tokens": 272,
    "input_tokens_details": {"text_tokens": 20, "image_tokens": 10},
}
SAID = {
    "background": "transparent",
    "output_format": "png",
    "size": "1024x1024",
    "quality": "low",
    "provider": "x",
}


def stream(*images: dict[str, object], shape: Shape = Shape.IMAGES) -> list[bytes]:
    content = {"created": 1_790_000_000, "data": list(images), **SAID, "usage": USAGE}
    return synthesise(shape, json.dumps(content).encode(), include_usage=False)


@pytest.mark.parametrize(
    ("shape", "kind", "api"),
    [
        (Shape.IMAGES, "image_generation.completed", "generate"),
        (Shape.IMAGE_EDITS, "image_edit.completed", "edit"),
    ],
)
def test_an_image_comes_as_the_event_that_ends_a_native_stream(shape, kind, api):
    PLAYER.events = stream({"b64_json": "aGk=", "revised_prompt": "hi"}, shape=shape)
    more = {"image": b"png"} if api == "edit" else {}

    (event,) = getattr(PLAYER.sync.images, api)(model="m", prompt="p", stream=True, **more)

    assert event.to_dict() == {
        "type": kind,
        "created_at": 1_790_000_000,
        "b64_json": "aGk=",
        "revised_prompt": "hi",
        **SAID,
        "usage": USAGE,
    }
    assert PLAYER.events[0].startswith(f"event: {kind}\n".encode())


def test_the_usage_of_several_images_adds_up_to_that_of_the_call():
    PLAYER.events = stream({"b64_json": "aQ=="}, {"b64_json": "ag=="}, {"b64_json": "aw=="})

    events = list(PLAYER.sync.images.generate(model="m", prompt="p", stream=True))

    assert [event.b64_json for event in events] == ["aQ==", "ag==", "aw=="]
    assert [event.usage.total_tokens for event in events] == [0, 0, 302]
    assert [event.usage.input_tokens_details.image_tokens for event in events] == [0, 0, 10]


@pytest.mark.parametrize("image", [{}, {"url": "https://example.com/a.png"}, {"b64_json": 1}])
def test_an_image_without_its_data_makes_no_stream(image):
    with pytest.raises(UnreadableResultError):
        stream(image)
