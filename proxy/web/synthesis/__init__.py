"""The stream that a finished result would have been.

Pure: bytes of server-sent events out of the bytes of a body. Nothing is dropped:
what an SDK accumulates from the events equals the object that it would have
parsed from the body, and fields that no SDK knows are carried along.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from proxy.core.dialects import Shape
from proxy.web.synthesis.chat import chat_events
from proxy.web.synthesis.completions import completion_events
from proxy.web.synthesis.generate import generate_events
from proxy.web.synthesis.images import edited_events, generated_events
from proxy.web.synthesis.messages import message_events
from proxy.web.synthesis.parts import Event, JsonObject, UnreadableResultError, is_object
from proxy.web.synthesis.responses import response_events

__all__ = ["UnreadableResultError", "synthesise", "synthesise_array"]

_DONE: Final = b"data: [DONE]\n\n"

_TIMES_MOST: Final = 64
_ROOM_BYTES: Final = 64 << 20
"""How much longer than its result a stream may be. Usually it is six times as long, and thirty
times with a thousand texts of a word each. But each event repeats whose it is: an `id` of a
megabyte would make gigabytes."""


def synthesise(shape: Shape, body: bytes, *, include_usage: bool) -> list[bytes]:
    """Return the events of a successful result, in the order in which they are sent.

    `include_usage` is the caller's `stream_options.include_usage`; the Responses
    and Messages APIs report usage in any case.

    Raises:
        UnreadableResultError: if the body is not what its API answers.
    """
    events = _made(shape, body, _encoded, include_usage=include_usage)
    end = _SHAPES[shape][1]
    return [*events, end] if end else events


def synthesise_array(shape: Shape, body: bytes) -> bytes:
    """Return the same chunks as one JSON array, as Gemini streams without `alt=sse`.

    Raises:
        UnreadableResultError: if the body is not what its API answers.
    """
    return b"[%b]" % b",\r\n".join(_made(shape, body, _data, include_usage=True))


def _made(
    shape: Shape, body: bytes, encoded: Callable[[Event], bytes], *, include_usage: bool
) -> list[bytes]:
    make, _ = _SHAPES.get(shape, (None, b""))
    if make is None:
        raise UnreadableResultError(f"the {shape} API has no streams")
    try:
        events = make(_parsed(body), include_usage)
        return list(_bounded(map(encoded, events), _TIMES_MOST * len(body) + _ROOM_BYTES))
    except UnreadableResultError:
        raise
    except (ValueError, RecursionError) as exc:
        raise UnreadableResultError("the result is not readable JSON") from exc


def _bounded(events: Iterator[bytes], room: int) -> Iterator[bytes]:
    for event in events:
        room -= len(event)
        if room < 0:
            raise UnreadableResultError("a stream would be far longer than the result")
        yield event


def _parsed(body: bytes) -> JsonObject:
    result = json.loads(body)
    if not is_object(result):
        raise UnreadableResultError("the result is not a JSON object")
    return result


def _encoded(event: Event) -> bytes:
    head = b"event: %b\n" % event.name.encode() if event.name else b""
    return b"%bdata: %b\n\n" % (head, _data(event))


def _data(event: Event) -> bytes:
    # Escaped, because some SDKs split lines as `str.splitlines` does, at U+2028
    # too. No `NaN`: it is not JSON, though Python reads it.
    return json.dumps(event.data, allow_nan=False, separators=(",", ":")).encode()


_SHAPES: Final[Mapping[Shape, tuple[Callable[[JsonObject, bool], Iterator[Event]], bytes]]] = {
    Shape.CHAT: (chat_events, _DONE),
    Shape.COMPLETIONS: (completion_events, _DONE),
    Shape.RESPONSES: (response_events, b""),
    Shape.MESSAGES: (message_events, b""),
    Shape.GENERATE: (generate_events, b""),
    Shape.IMAGES: (generated_events, b""),
    Shape.IMAGE_EDITS: (edited_events, b""),
}
