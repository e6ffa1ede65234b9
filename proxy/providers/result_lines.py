"""Lines of OpenAI-shaped result files: cut from a stream, read, and told apart.

A caller gets the answer byte for byte, so an answer is never parsed and written
again: its span in the line is found, and cut out. JSON parsers do not tell spans;
the scan here relies on a parser having accepted the whole line before.
"""

import json
import re
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol

from proxy.core.errors import ProviderRejectedError
from proxy.core.loose_json import loose_json
from proxy.core.outcomes import ANSWER_BYTES_MAX
from proxy.core.refusals import error_in
from proxy.ports.provider import LineKind, ResultLine
from proxy.providers import _wire

LINE_BYTES_MAX: Final = ANSWER_BYTES_MAX
"""It also keeps a file without line breaks out of our memory."""

HEAD_BYTES: Final = 4_096
"""What is kept of a result beyond the limit: enough for its name near its start."""

NO_STATUS: Final = "no_status"
"""Error code of a line with status 0: seen at OpenAI for calls that were never made."""

Span = tuple[int, int]
Value = tuple[Span, Any]
"""Where a value stands, and what it says."""

Pattern = re.Pattern[bytes]

STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TOKEN = re.compile(STRING + rb"|[{}\[\]]", re.DOTALL)
_KEY = re.compile(rb"[\s,]*+(" + STRING + rb")\s*+:\s*+", re.DOTALL)
_SCALAR = re.compile(STRING + rb"|[^\s,}\]]++", re.DOTALL)
SCALAR_MEMBERS: Final = (
    rb"(?:\s*+" + STRING + rb"\s*+:\s*+(?:" + STRING + rb"|[^\s,{}\[\]\"]++)\s*+,)*?\s*+"
)
"""Members that stand before the one that is looked for, none of them an object or a list."""

_CUSTOM_ID = re.compile(
    rb"\s*+\{" + SCALAR_MEMBERS + rb'"custom_id"\s*+:\s*+(' + STRING + rb")", re.DOTALL
)
_USUAL_HEAD = re.compile(
    rb"\s*+\{" + SCALAR_MEMBERS + rb'"response"\s*+:\s*+\{' + SCALAR_MEMBERS + rb'"body"\s*+:\s*+',
    re.DOTALL,
)
_USUAL_TAIL = re.compile(rb'\s*+\}\s*+(?:,\s*+"error"\s*+:\s*+null\s*+)?\}\s*+\Z')
_TAIL_BYTES: Final = 64


class LineCutter:
    """Cuts a stream of bytes into lines, holding back no more than one of them.

    `read` makes a result of each, and of the beginning of one that is too long; by default lines
    are of OpenAI's shape.
    """

    def __init__(
        self,
        read: Callable[[bytes], ResultLine] | None = None,
        *,
        line_bytes_max: int = LINE_BYTES_MAX,
    ) -> None:
        self._read = read or result_line
        self._line_bytes_max = line_bytes_max
        self._begun = bytearray()
        self._is_skipping = False
        self._breaks_off = False

    def feed(self, data: bytes) -> list[ResultLine]:
        """Return the lines that `data` completes."""
        *complete, rest = data.split(b"\n")
        lines = [line for piece in complete if (line := self._completed(piece)) is not None]
        self._begin(rest)
        return lines

    def end(self) -> list[ResultLine]:
        """Return the last line, if the stream did not end with a line break."""
        is_long = self._is_skipping
        line = self._completed(b"")
        if line is None:
            return []
        self._breaks_off = line.kind is LineKind.UNREADABLE and not is_long
        return [line]

    @property
    def is_whole(self) -> bool:
        """Whether what has ended did not break off within a line.

        That is all that can tell that some are missing: nothing stands around them.
        """
        return not self._breaks_off

    def _begin(self, piece: bytes) -> None:
        if not self._is_skipping:
            self._begun += piece
            if len(self._begun) > self._line_bytes_max:
                self._is_skipping = True
                self._begun = self._begun[:HEAD_BYTES]

    def _completed(self, piece: bytes) -> ResultLine | None:
        self._begin(piece)
        # Some writers of text begin it with a mark, which is no JSON.
        line, was_skipping = bytes(self._begun).removeprefix(BOM_UTF8), self._is_skipping
        self._begun, self._is_skipping = bytearray(), False
        if was_skipping:
            return overlong(self._read(line))
        return self._read(line) if line.strip() else None


class Cutter(Protocol):
    """Makes results of a stream of bytes."""

    def feed(self, data: bytes) -> list[ResultLine]:
        """Return the results that `data` completes."""
        ...

    def end(self) -> list[ResultLine]:
        """Return what the end of the stream completes."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether what has ended was a whole document, as far as that shows."""
        ...


async def cut(
    stream: AsyncGenerator[bytes, None], cutter: Cutter
) -> AsyncGenerator[Sequence[ResultLine], None]:
    """Yield results as the stream completes them; whoever closes this closes the stream.

    Raises:
        ProviderRejectedError: at the end, if they broke off before it, or were none.
    """
    async with aclosing(stream) as chunks:
        async for chunk in chunks:
            if lines := cutter.feed(chunk):
                yield lines
    if lines := cutter.end():
        yield lines
    check_whole(cutter)


def check_whole(cutter: Cutter) -> None:
    """Raise if what has ended is not all that there is.

    Taken for all, every answer that it lacks would be bought again.
    """
    if not cutter.is_whole:
        raise ProviderRejectedError("the results are no whole document")


def result_line(line: bytes) -> ResultLine:
    """Read one line; a broken one says so, with its `custom_id` if that can be read.

    An answer counts wherever there is one: it was paid for, whatever else the line
    says. A success of which the body is missing, or null, is none.
    """
    usual = _usual_body(line)
    # In most lines what is left without the body is short, and the body is read once.
    parsed = parsed_line(line if usual is None else _without(line, usual[0]))
    if not isinstance(parsed, dict):
        return unreadable(line)
    custom_id = parsed.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return unreadable(line)
    response, error = parsed.get("response"), parsed.get("error")
    told = response.get("status_code") if isinstance(response, dict) else None
    status = _wire.status(told)
    if isinstance(response, dict) and status is not None:
        body = usual[1] if usual is not None else response.get("body")
        if body is not None or status >= 400:
            return _answered(line, custom_id, response, status, usual)
    if error:
        return _not_executed(custom_id, _wire.error_code(error))
    if told == 0:
        return _not_executed(custom_id, NO_STATUS)
    return ResultLine(kind=LineKind.UNREADABLE, custom_id=custom_id)


def _usual_body(line: bytes) -> Value | None:
    return _usual_value(line, _USUAL_HEAD, _USUAL_TAIL)


def _without(line: bytes, span: Span) -> bytes:
    return line[: span[0]] + b"null" + line[span[1] :]


def member_span(line: bytes, path: tuple[bytes, ...]) -> Span | None:
    """Return where the value that `path` names stands in a line of valid JSON.

    Among equal keys the last one counts, as it does for parsers.
    """
    return _member(line, line.index(b"{"), path)[1]


def _usual_value(line: bytes, usual_head: Pattern, usual_tail: Pattern) -> Value | None:
    """Return what stands between head and tail, if it is one value and the last of its line.

    Eight times as fast as the walk, and as sure: what begins where the body begins
    and is one whole JSON value is the body, and after it nothing can override it.
    """
    head, tail = usual_head.match(line), usual_tail.search(line, max(0, len(line) - _TAIL_BYTES))
    if head is None or tail is None or tail.start() <= head.end():
        return None
    span = (head.end(), tail.start())
    try:
        return span, loose_json(line[slice(*span)])
    except ValueError:
        return None


def answer_in(
    line: bytes, path: tuple[bytes, ...], usual_head: Pattern, usual_tail: Pattern
) -> bytes:
    """Return the very bytes of the answer that a parser found at `path` of a line."""
    usual = _usual_value(line, usual_head, usual_tail)
    span = usual[0] if usual is not None else member_span(line, path)
    assert span is not None, "a parser found it there"
    return line[slice(*span)]


def _answered(
    line: bytes, custom_id: str, response: dict[str, object], status: int, usual: Value | None
) -> ResultLine:
    if usual is not None:
        span, body = usual
    else:
        # An error may come without a body.
        span = member_span(line, (b"response", b"body")) or (0, 0)
        body = response.get("body")
    error = error_in(body) if status >= 400 else None
    return ResultLine(
        kind=LineKind.ANSWERED,
        custom_id=custom_id,
        status_code=status,
        body=line[slice(*span)],
        request_id=_wire.request_id(response.get("request_id")),
        error_code=_wire.error_code(error),
        content=body,
    )


def _not_executed(custom_id: str, code: str | None) -> ResultLine:
    return ResultLine(kind=LineKind.NOT_EXECUTED, custom_id=custom_id, error_code=code)


def unreadable(line: bytes, named: Pattern = _CUSTOM_ID) -> ResultLine:
    """Return what is left of a broken line: its name, if `named` finds it and it can be read."""
    found = named.match(line)
    custom_id = _text(found[1]) if found else None
    return ResultLine(kind=LineKind.UNREADABLE, custom_id=custom_id or None)


def overlong(line: ResultLine) -> ResultLine:
    """Return what a line comes to of which only the head was kept, and read as a broken one."""
    return line if line.custom_id is None else line._replace(kind=LineKind.OVERLONG)


def parsed_line(line: bytes) -> object:
    """Return the JSON of a line, or nothing if it is none."""
    try:
        return loose_json(line)
    except ValueError:
        pass
    try:
        # Slower, but goes deeper than the other, and an answer is one at any depth.
        return json.loads(line.decode())
    except (ValueError, RecursionError):
        return None


def _text(string: bytes) -> str | None:
    try:
        text = json.loads(string)
    except ValueError:
        return None
    return text if isinstance(text, str) else None


def _member(line: bytes, start: int, path: tuple[bytes, ...]) -> tuple[int, Span | None]:
    """Walk the object at `start`; return where it ends, and the span of what `path` names."""
    found = None
    at = start + 1
    while key := _KEY.match(line, at):
        value = key.end()
        if not _is_name(key[1], path[0]):
            at = _value_end(line, value)
        elif len(path) == 1:
            at = _value_end(line, value)
            found = (value, at)
        elif line[value : value + 1] == b"{":
            at, found = _member(line, value, path[1:])
        else:
            at, found = _value_end(line, value), None
    return line.index(b"}", at) + 1, found


def _is_name(string: bytes, name: bytes) -> bool:
    if b"\\" in string:
        return _text(string) == name.decode()
    return string[1:-1] == name


def _value_end(line: bytes, start: int) -> int:
    if line[start : start + 1] not in (b"{", b"["):
        scalar = _SCALAR.match(line, start)
        assert scalar, "the line is valid JSON"
        return scalar.end()
    depth = 0
    for token in _TOKEN.finditer(line, start):
        first = token[0][:1]
        if first in b"{[":
            depth += 1
        elif first in b"}]":
            depth -= 1
            if depth == 0:
                return token.end()
    raise AssertionError("the line is valid JSON")
