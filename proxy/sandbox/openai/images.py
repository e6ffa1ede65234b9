"""Images: the answers to their bodies, and the streams of those.

Source of shapes: OpenAI API description, `CreateImageRequest`, `EditImageBodyJsonParam`,
`ImagesResponse` and `ImageGenCompletedEvent` (openapi.yaml, 2026-08-21). Uploads by
`multipart/form-data` are not served: no batch can carry them.
"""

import base64
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

from proxy.sandbox.answers import body_hash, tokens_in
from proxy.sandbox.engine import Execution
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.fields import integer, prompt_of
from proxy.sandbox.settings import ModelSpec

_TOKENS_OF_IMAGE: Final = 272
"""What OpenAI counts for a square one of low quality ("Image generation", "Cost")."""

_TOKENS_OF_SOURCE: Final = 323
_SIDE: Final = 16


def generate(body: dict[str, Any], model: ModelSpec, *, now: float, tier: str) -> Execution:  # noqa: ARG001
    """Answer a body that asks for new images."""
    return _drawn(body, model, now=now, sources=0)


def edit(body: dict[str, Any], model: ModelSpec, *, now: float, tier: str) -> Execution:  # noqa: ARG001
    """Answer a body that asks for changed images."""
    sources = body.get("images")
    if not isinstance(sources, list) or not sources:
        raise errors.missing("images")
    return _drawn(body, model, now=now, sources=len(sources))


def image_events(kind: str, answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events with which the stream of finished images would have ended."""
    common = {name: value for name, value in answer.items() if name not in ("created", "data")}
    for image in answer["data"]:
        yield {"type": kind, "created_at": answer["created"], **common, **image}


def _drawn(body: dict[str, Any], model: ModelSpec, *, now: float, sources: int) -> Execution:
    prompt = prompt_of(body)
    copies = integer(body, "n", 1, 10, default=1) or 1
    background = body.get("background", "opaque")
    if background not in ("transparent", "opaque", "auto"):
        raise errors.invalid("background", "Invalid 'background': transparent, opaque or auto.")
    if body.get("partial_images") and not body.get("stream"):
        raise errors.invalid("partial_images", "'partial_images' takes 'stream'.")
    # Elsewhere `background` is a matter of the lane, and no part of the question.
    digest = body_hash({**body, "behind": background})
    text_tokens, image_tokens = tokens_in(prompt), sources * _TOKENS_OF_SOURCE
    input_tokens, output_tokens = text_tokens + image_tokens, copies * _TOKENS_OF_IMAGE
    answer = {
        "created": int(now),
        "data": [{"b64_json": _png(f"{digest}/{copy}")} for copy in range(copies)],
        "background": "opaque" if background == "auto" else background,
        "output_format": "png",
        "size": "1024x1024",
        "quality": "low",
        "usage": {
            "total_tokens": input_tokens + output_tokens,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "input_tokens_details": {"text_tokens": text_tokens, "image_tokens": image_tokens},
        },
    }
    return Execution(answer, model, digest, input_tokens, output_tokens)


def _png(seed: str) -> str:
    """Return a picture, smaller than it says it is, of one colour that the seed decides."""
    colour = zlib.crc32(seed.encode()).to_bytes(4, "big")[:3]
    rows = (b"\0" + colour * _SIDE) * _SIDE
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    encoded = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + encoded).decode()
