"""The chunks of a finished GenerateContentResponse.

Source of shapes: types of the google-genai SDK 3.6, `GenerateContentResponse`. Every
chunk is such a response by itself, so nothing needs a name or an order: texts are
told in pieces, a candidate's other fields with its last piece, and the fields of the
response that are nobody's part, its usage among them, with every chunk, as natively.
"""

from collections.abc import Iterator

from proxy.web.synthesis.parts import (
    Event,
    JsonObject,
    UnreadableResultError,
    is_object,
    maybe_objects,
    pieces,
)


def generate_events(response: JsonObject, _include_usage: bool) -> Iterator[Event]:
    """Yield the chunks; one whose candidates are absent is one chunk."""
    shared = {name: value for name, value in response.items() if name != "candidates"}
    candidates = maybe_objects(response, "candidates")
    if not candidates:
        # A prompt that was blocked has none.
        yield Event(dict(response))
        return
    for candidate in candidates:
        for chunk in _candidate_chunks(candidate):
            yield Event({"candidates": [chunk], **shared})


def _candidate_chunks(candidate: JsonObject) -> Iterator[JsonObject]:
    content = candidate.get("content")
    if content is None:
        yield candidate
        return
    if not is_object(content):
        raise UnreadableResultError("a candidate's `content` is not an object")
    told = [piece for part in maybe_objects(content, "parts") for piece in _part_pieces(part)]
    if not told:
        yield candidate
        return
    begun = {"index": candidate["index"]} if "index" in candidate else {}
    for piece in told[:-1]:
        yield {"content": {**content, "parts": [piece]}, **begun}
    yield {**candidate, "content": {**content, "parts": [told[-1]]}}


def _part_pieces(part: JsonObject) -> Iterator[JsonObject]:
    """Yield a text in pieces, all of which say what kind of text it is; other parts whole."""
    text = part.get("text")
    if not isinstance(text, str) or not text:
        yield part
        return
    *begun, last = pieces(text)
    kind = {"thought": part["thought"]} if "thought" in part else {}
    for piece in begun:
        yield {"text": piece, **kind}
    # A signature is for the whole of its part, and comes with the end of it.
    yield {**part, "text": last}
