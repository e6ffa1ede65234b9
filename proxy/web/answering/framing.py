"""What a held answer looks like on the wire: plain JSON, a stream of events, or an array.

Pure: bytes out of a final answer. When anything is sent is decided in
`proxy.web.answering.held`.
"""

import json
from dataclasses import dataclass, replace
from typing import Final, Protocol

from proxy.core.dialects import ANTHROPIC_STATUS, Family, Shape, Streaming, gemini_error
from proxy.core.refusals import error_in
from proxy.web.answering.final import FinalAnswer
from proxy.web.synthesis import UnreadableResultError, synthesise, synthesise_array

# Proxies before us would collect heartbeats until a buffer is full: nginx,
# ngx_http_proxy_module, `proxy_buffering`.
_UNBUFFERED: Final = (("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no"))

_EVENT_STREAM: Final = "text/event-stream; charset=utf-8"


class Framing(Protocol):
    """How one kind of answer is held."""

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Header fields of an answer whose status is sent before it is known."""
        ...

    @property
    def heartbeat(self) -> bytes:
        """What every client of this kind reads over."""
        ...

    def early(self, answer: FinalAnswer) -> FinalAnswer:
        """Return `answer` as it is sent while nothing is."""
        ...

    def late(self, answer: FinalAnswer) -> bytes | None:
        """Return the body after heartbeats; nothing if it cannot be told any more."""
        ...


class JsonFraming:
    """A JSON body behind white space, which every parser skips (RFC 8259, section 2)."""

    headers: Final = (("Content-Type", "application/json"), *_UNBUFFERED)
    heartbeat: Final = b"\n"

    def early(self, answer: FinalAnswer) -> FinalAnswer:
        """Return the very same answer."""
        return answer

    def late(self, answer: FinalAnswer) -> bytes | None:
        """Return the provider's bytes; nothing for a failure. An error within a 200 would not do:
        SDKs make hollow objects of it and raise nothing.
        """
        return answer.body if answer.is_success else None


@dataclass(frozen=True, slots=True)
class EventFraming:
    """The events that the API would have streamed."""

    family: Family
    shape: Shape
    include_usage: bool

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Header fields of a stream."""
        return (("Content-Type", _EVENT_STREAM), *_UNBUFFERED)

    @property
    def heartbeat(self) -> bytes:
        """A blank line; comments break google-genai, and `ping` all but Anthropic's."""
        if self.family is Family.ANTHROPIC:
            return b'event: ping\ndata: {"type": "ping"}\n\n'
        return b"\n"

    def early(self, answer: FinalAnswer) -> FinalAnswer:
        """Return the whole stream at once; a failure with its own status and body."""
        if not answer.is_success:
            return answer
        try:
            body = self._events(answer)
        except UnreadableResultError as error:
            content = _envelope(self.family, _error_member(error))
            return replace(answer, status=502, body=json.dumps(content).encode())
        kept = tuple(pair for pair in answer.headers if pair[0].lower() != "content-type")
        return FinalAnswer(answer.status, (*self.headers, *kept), body)

    def late(self, answer: FinalAnswer) -> bytes | None:
        """Return the whole stream, which for a failure is the API's error event."""
        if not answer.is_success:
            return self._error_event(_told_error(answer))
        try:
            return self._events(answer)
        except UnreadableResultError as error:
            return self._error_event(_error_member(error))

    def _events(self, answer: FinalAnswer) -> bytes:
        return b"".join(synthesise(self.shape, answer.body, include_usage=self.include_usage))

    def _error_event(self, error: dict[str, object]) -> bytes:
        content = _envelope(self.family, error)
        if self.family is Family.ANTHROPIC:
            return _event("error", content)
        if self.shape is Shape.RESPONSES:
            # `ResponseErrorEvent` is flat, and the SDKs hand it out as one event
            # among others; with the `error` member beside it they raise.
            flat = {name: error.get(name) for name in ("code", "message", "param")}
            return _event("error", {"type": "error", "sequence_number": 0, **flat, **content})
        return _event(None, content)


@dataclass(frozen=True, slots=True)
class ArrayFraming:
    """The chunks that the API would have streamed, as one JSON array."""

    family: Family
    shape: Shape

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Header fields of a JSON body that comes late."""
        return JsonFraming.headers

    @property
    def heartbeat(self) -> bytes:
        """White space before the array."""
        return JsonFraming.heartbeat

    def early(self, answer: FinalAnswer) -> FinalAnswer:
        """Return the whole array; a failure with its own status and body."""
        if not answer.is_success:
            return answer
        try:
            return replace(answer, body=synthesise_array(self.shape, answer.body))
        except UnreadableResultError as error:
            return replace(answer, status=502, body=self._failure(_error_member(error)))

    def late(self, answer: FinalAnswer) -> bytes | None:
        """Return the whole array, which for a failure holds the error alone, as natively."""
        if not answer.is_success:
            return self._failure(_told_error(answer))
        return self.early(answer).body

    def _failure(self, error: dict[str, object]) -> bytes:
        return json.dumps([_envelope(self.family, error)]).encode()


def framing_for(
    family: Family, shape: Shape, *, streaming: Streaming | None, include_usage: bool
) -> Framing:
    """Return how the answer to a call is held."""
    match streaming:
        case Streaming.EVENTS:
            return EventFraming(family, shape, include_usage)
        case Streaming.ARRAY:
            return ArrayFraming(family, shape)
        case None:
            return JsonFraming()


def _envelope(family: Family, error: dict[str, object]) -> dict[str, object]:
    if family is Family.ANTHROPIC:
        # Its SDK tells failures apart by type, and knows none of OpenAI's.
        kind = error.get("type")
        named = error if kind in ANTHROPIC_STATUS else {**error, "type": "api_error"}
        return {"type": "error", "error": named}
    if family is Family.GEMINI and "status" not in error:
        return gemini_error(502, str(error.get("message")), reason=str(error.get("code")))
    return {"error": error}


def _event(name: str | None, content: dict[str, object]) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(content)}\n\n".encode()


def _told_error(answer: FinalAnswer) -> dict[str, object]:
    """Return the `error` member of a provider's failure, or one that says its status."""
    try:
        content = json.loads(answer.body)
    except (ValueError, RecursionError):
        content = None
    error = error_in(content)
    if isinstance(error, dict) and error:
        return error
    told = {"type": "server_error", "param": None, "code": "provider_error"}
    if isinstance(error, str) and error:
        return {"message": error, **told}
    if isinstance(content, dict) and isinstance(content.get("message"), str):
        # Mistral's is flat.
        flat = {name: content[name] for name in told if content.get(name) is not None}
        return {"message": content["message"], **told, **flat}
    return {"message": f"the provider answered {answer.status}", **told}


def _error_member(error: UnreadableResultError) -> dict[str, object]:
    return {
        "message": str(error),
        "type": "server_error",
        "param": None,
        "code": "unreadable_result",
    }
