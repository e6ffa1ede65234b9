"""Gemini's results: lines of a file, and elements of what an operation carries inline.

A line is `{"key": ..., "response": ...}`, an element has its key in `metadata`; either
has `error` (or, seen as well, `status`) in place of the response, a `google.rpc.Status`
with the number of its code (google-genai SDK 3.6, `InlinedResponse`; Gemini API,
"Batch API").
"""

import json
import re
from collections.abc import Mapping
from typing import Final

from proxy.core.refusals import error_code
from proxy.ports.provider import LineKind, ResultLine
from proxy.providers.gemini_objects import rpc_name
from proxy.providers.item_cutter import MARK, rest_of_string
from proxy.providers.result_lines import (
    LINE_BYTES_MAX,
    SCALAR_MEMBERS,
    STRING,
    answer_in,
    overlong,
    parsed_line,
)

_NAMED: Final = re.compile(
    rb'\s*+\{\s*+(?:"metadata"\s*+:\s*+\{\s*+)?+"key"\s*+:\s*+(' + STRING + rb")", re.DOTALL
)
_USUAL_HEAD: Final = re.compile(rb"\s*+\{" + SCALAR_MEMBERS + rb'"response"\s*+:\s*+', re.DOTALL)
_USUAL_TAIL: Final = re.compile(rb"\s*+\}\s*+\Z")

_OPENING: Final = re.compile(rb'"inlinedResponses"\s*+:\s*+\[')
_KEPT_BYTES: Final = 64
"""How much before an opening may not have arrived whole yet."""


def result_line(line: bytes) -> ResultLine:
    """Read one line or element; a broken one says so, with its key if that can be read."""
    parsed = parsed_line(line)
    if not isinstance(parsed, dict):
        return _unreadable(line)
    custom_id = _key(parsed)
    if custom_id is None:
        return _unreadable(line)
    refusal = _refusal(parsed)
    # An answer counts wherever there is one, and nothing at all beside an error is none.
    if isinstance(parsed.get("response"), dict) and (parsed["response"] or refusal is None):
        return ResultLine(
            kind=LineKind.ANSWERED,
            custom_id=custom_id,
            status_code=200,
            body=answer_in(line, (b"response",), _USUAL_HEAD, _USUAL_TAIL),
            content=parsed["response"],
        )
    if refusal is not None:
        return _refused(custom_id, refusal)
    return ResultLine(kind=LineKind.UNREADABLE, custom_id=custom_id)


def _refusal(parsed: Mapping[str, object]) -> Mapping[str, object] | None:
    for name in ("error", "status"):
        error = parsed.get(name)
        if isinstance(error, dict) and error:
            return error
    return None


def _key(parsed: Mapping[str, object]) -> str | None:
    metadata = parsed.get("metadata")
    for holder in (parsed, metadata):
        key = holder.get("key") if isinstance(holder, dict) else None
        if isinstance(key, str) and key:
            return key
    return None


def _refused(custom_id: str, error: Mapping[str, object]) -> ResultLine:
    """Return the answer that the API gives for an error: its envelope, with the HTTP status."""
    status, name = rpc_name(error)
    message = error.get("message")
    told: dict[str, object] = {
        "code": status,
        "message": message if isinstance(message, str) else "",
        "status": name,
    }
    if error.get("details"):
        told["details"] = error["details"]
    return ResultLine(
        kind=LineKind.ANSWERED,
        custom_id=custom_id,
        status_code=status,
        body=json.dumps({"error": told}).encode(),
        error_code=error_code(told),
    )


def _unreadable(line: bytes) -> ResultLine:
    named = _NAMED.match(line)
    try:
        custom_id = json.loads(named[1]) if named else None
    except ValueError:
        custom_id = None
    return ResultLine(kind=LineKind.UNREADABLE, custom_id=custom_id or None)


class InlineCutter:
    """Cuts the elements of `inlinedResponses` out of an operation as it streams in.

    An operation that is done may tell its results twice, in its metadata and as its
    response: those of the first list are read, and no others. No more than one element
    is held back, and every byte is looked at once, however the stream is cut.
    """

    def __init__(self) -> None:
        self._begun = bytearray()
        self._is_inside = False
        self._is_over = False
        self._at = 0
        """Up to where the begun element is looked through."""

        self._is_in_string = False
        """Whether `_at` is in a string, whose end has not arrived yet."""

        self._depth = 0
        self._ends = b""
        """The first byte and the last one of what is no result."""

    def feed(self, data: bytes) -> list[ResultLine]:
        """Return the elements that `data` completes."""
        if self._is_over:
            return []
        self._begun += data
        if not self._is_inside:
            self._note_ends(data.strip())
            self._enter()
        found = []
        while self._is_inside and (end := self._element_end()) is not None:
            found.append(result_line(self._element(end)))
            del self._begun[:end]
            self._at = 0
        if self._is_over:
            self._begun.clear()
        elif len(self._begun) > LINE_BYTES_MAX:
            # No answer comes near it, and what follows it cannot be told apart any more.
            found.append(overlong(_unreadable(self._element(len(self._begun))[:4_096])))
            self._is_over = True
        return found

    def end(self) -> list[ResultLine]:
        """Return what only the end of the stream completes: nothing, an element ends itself."""
        return []

    @property
    def is_whole(self) -> bool:
        """Whether all of the list was there; or, without one, an object with both of its ends."""
        return self._is_over or (not self._is_inside and self._ends == b"{}")

    def _note_ends(self, data: bytes) -> None:
        if data:
            self._ends = (self._ends or data)[:1] + data[-1:]

    def _enter(self) -> None:
        opening = _OPENING.search(self._begun)
        if opening is not None:
            self._is_inside = True
        del self._begun[: opening.end() if opening else -_KEPT_BYTES]

    def _element(self, end: int) -> bytes:
        """Return the first element, which ends there, without what divides it from others."""
        return bytes(self._begun[max(0, self._begun.find(b"{", 0, end)) : end])

    def _element_end(self) -> int | None:
        """Return where the first element ends, or nothing if it has not arrived whole."""
        while not self._is_in_string or self._ends_string():
            mark = MARK.search(self._begun, self._at)
            if mark is None:
                self._at = len(self._begun)
                break
            self._at = mark.end()
            if mark[0] == b'"':
                self._is_in_string = True
            elif mark[0] in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth < 0:
                    self._is_over = True
                    break
                if self._depth == 0:
                    return self._at
        return None

    def _ends_string(self) -> bool:
        """Read on in a string; return whether it ends in what is here."""
        self._at, ends = rest_of_string(self._begun, self._at)
        if not ends:
            return False
        self._at += 1
        self._is_in_string = False
        return True
