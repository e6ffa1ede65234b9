"""The body of a call: read as JSON, and made a line of a batch.

It is never rebuilt from parsed values: what must go is cut out of the text, member by
member, so numbers, escapes and key order survive exactly as the caller wrote them.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn

from pydantic_core import from_json

from proxy.core.dialects import Streaming
from proxy.core.errors import CallerError

DROPPED_FIELDS: Final = frozenset(
    {
        *("background", "serviceTier", "service_tier", "stream", "stream_options"),
        "background_options",  # of a Response in the background (openai SDK 3.54)
        "partial_images",  # of a streamed image, and refused without a stream
    }
)
"""What a deferred call must not say: the lane decides it, or a batch refuses it."""

MAX_DEPTH: Final = 200
"""Deepest nesting of a body. The JSON parsers behind Python SDKs stop there (jiter)."""

_BOM: Final = b"\xef\xbb\xbf"
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_OPENERS: Final = (b"{", b"[")
_ESCAPED_ASCII: Final = b"\\u00"

NAMES_MAX: Final = 10_000
"""How many the object itself may have; no API has a hundred. Each takes some microseconds."""

BRACKETS_MAX: Final = 500_000
"""Objects and lists, and what looks like one in texts: one for every two tokens of a context of
a million. In a parsed body each takes a hundred bytes, and a microsecond to make."""

COMMAS_MAX: Final = 1_000_000
"""Values, and what looks like their ends in texts: one for every token of such a context. Numbers
take up to half a microsecond each to be read, in which nothing else is done."""

_PLAIN_COMMAS: Final = 500_000
"""With how many a body is read at once, names and all: made into objects, millions of names would
take far more than their bytes."""

_PLAIN_BYTES: Final = 16 << 20
"""How much is searched in all, once for each name: some milliseconds. With many names, or a body of
megabytes, it would add up to gigabytes."""

_BYTES_PER_TOKEN: Final = 4
_ATTACHMENT: Final = re.compile(rb'"(?:data:[^",]{1,128},)?[A-Za-z0-9+/=_\\-]{1024,}"')
"""Base64: counted by piece, since its tokens have nothing to do with its length."""
_ATTACHMENT_TOKENS: Final = 1000
_CARRIED: Final = re.compile(rb'"data:[^",\s]{1,127};base64,|"type"[ ]*:[ ]*"input_audio"')


class _Member(NamedTuple):
    """A member of an object, as it is written."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class ParsedBody:
    """A JSON object."""

    fields: Mapping[str, object]
    """Where two members have one name, the last one counts, as in JSON parsers."""

    raw: bytes
    """The body as it came."""

    members: Sequence[_Member] | None = None
    """All of them in order, duplicates included; nothing if the body can stay as it is."""

    @property
    def streaming(self) -> Streaming | None:
        """How the body asks for a stream, if it does."""
        return Streaming.EVENTS if self.fields.get("stream") is True else None

    @property
    def include_usage(self) -> bool:
        """Whether the stream was asked to end with the usage."""
        options = self.fields.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True


def parse_body(body: bytes, *, max_bytes: int) -> ParsedBody:
    """Parse the body of a call that may be deferred.

    Raises:
        CallerError: if it is longer than `max_bytes` or no JSON object that any
            provider would take.
    """
    check_size(len(body), max_bytes=max_bytes)
    brackets = sum(map(body.count, _OPENERS))
    if brackets > BRACKETS_MAX:
        raise _unreadable(f"it has more than {BRACKETS_MAX} brackets")
    commas = body.count(b",")
    if commas > COMMAS_MAX:
        raise _unreadable(f"it has more than {COMMAS_MAX} commas")
    fields, members = _plain_fields(body) if commas <= _PLAIN_COMMAS else None, None
    if fields is None:
        fields, members = _read(body)
    if brackets > MAX_DEPTH:
        _check_depth(fields)
    return ParsedBody(fields, body, members)


def check_size(size: int, *, max_bytes: int) -> None:
    """Refuse a body that is too long to be deferred, as soon as its length is known.

    Raises:
        CallerError: naming both lengths.
    """
    if size > max_bytes:
        # No 413: LangChain.js, for one, repeats all but 400 and 406, with every byte of them.
        raise CallerError(
            f"the body has {size} bytes; a call that is deferred may have {max_bytes}",
            code="request_too_large",
        )


def line_body(parsed: ParsedBody, *, keep: frozenset[str] = frozenset()) -> bytes:
    """Return the body as a line of a batch holds it: without dropped fields, CR and LF.

    The fields to `keep` are not dropped.
    """
    members = parsed.members
    if members is None:
        kept = parsed.raw.removeprefix(_BOM)
    else:
        dropped = DROPPED_FIELDS - keep
        last = {member.name: member for member in members}
        texts = [
            member.text
            for member in members
            if member.name not in dropped and last[member.name] is member
        ]
        kept = f"{{{','.join(texts)}}}".encode()
    # Outside of strings they are white space next to other separators; inside of strings JSON
    # allows none.
    return kept.translate(None, b"\r\n") if b"\n" in kept or b"\r" in kept else kept


def with_model(line: bytes, model: str) -> bytes:
    """Return an admitted body that names another model, and is the same in all else."""
    text = line.decode()
    texts = [
        f'"model":{json.dumps(model)}' if member.name == "model" else member.text
        for member in _members(text)[1]
    ]
    return f"{{{','.join(texts)}}}".encode()


def estimate_tokens(body: bytes) -> int:
    """Return about how many prompt tokens a body has: a quarter of its bytes.

    Base64 attachments count 1,000 tokens each.
    """
    attachments = _ATTACHMENT.findall(body) if len(body) > 1024 else []
    text_bytes = len(body) - sum(map(len, attachments))
    return -(-text_bytes // _BYTES_PER_TOKEN) + _ATTACHMENT_TOKENS * len(attachments)


def carries_data(body: bytes) -> bool:
    """Return whether a body holds an image, a sound or a file, in place of its URL."""
    return _CARRIED.search(body) is not None


def _plain_fields(body: bytes) -> dict[str, object] | None:
    """Return the fields of a body if none of them has to be cut out; else nothing.

    Most are like that, and noting where members stand takes three times as long.
    """
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not DROPPED_FIELDS.isdisjoint(fields):
        return None
    if len(fields) * len(body) > _PLAIN_BYTES:
        return None
    if _ESCAPED_ASCII in body:
        # A name may be written in two ways.
        return None
    for name in fields:
        is_plain = name.isascii() and name.isidentifier()
        if not is_plain or body.count(b'"%b"' % name.encode()) != 1:
            # The parser keeps the last of two members of one name, and does not tell.
            return None
    return fields


def _read(body: bytes) -> tuple[dict[str, object], Sequence[_Member] | None]:
    """Return the fields of any body, and its members if some must be cut out of it."""
    try:
        text = body.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise _unreadable(f"byte {exc.start} is no UTF-8") from exc
    try:
        fields, members = _members(text)
    except RecursionError as exc:
        raise _too_deep() from exc
    except ValueError as exc:
        # Python reads no integer of more than 4,300 digits (`sys.set_int_max_str_digits`).
        raise _unreadable("it holds a number that is too long") from exc
    can_stay = len(members) == len(fields) and DROPPED_FIELDS.isdisjoint(fields)
    return fields, None if can_stay else members


def _members(text: str) -> tuple[dict[str, object], list[_Member]]:
    """Parse the top-level object and note how each member is written."""
    members: list[_Member] = []
    fields: dict[str, object] = {}
    opening = _OPENING.match(text)
    if opening is None:
        raise _unreadable("it must be an object")
    at = opening.end()
    if text[at : at + 1] == "}":
        at += 1
    else:
        while True:
            start = at
            name, value, at = _member(text, at)
            members.append(_Member(name, text[start:at]))
            if len(members) > NAMES_MAX:
                raise _unreadable(f"it has more than {NAMES_MAX} names")
            fields[name] = value
            divider = _DIVIDER.match(text, at)
            if divider is None:
                at = _skip(text, at)
                raise _unreadable(f"a comma or a brace is missing at character {at}")
            at = divider.end()
            if divider[1] == "}":
                break
    at = _skip(text, at)
    if at != len(text):
        raise _unreadable(f"something follows its end at character {at}")
    return fields, members


def _member(text: str, at: int) -> tuple[str, object, int]:
    """Return name, value and end of the member that starts at `at`."""
    try:
        plain = _PLAIN_NAME.match(text, at)
        if plain is not None:
            value, at = _scan(text, plain.end())
            return plain[1], value, at
        if text[at : at + 1] != '"':
            raise _unreadable(f"a name is missing at character {at}")
        name, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise _unreadable(f"a colon is missing at character {at}")
        value, at = _scan(text, _skip(text, at + 1))
    except json.JSONDecodeError as exc:
        raise _unreadable(f"{exc.msg} at character {exc.pos}") from exc
    except StopIteration as exc:
        raise _unreadable(f"Expecting value at character {exc.value}") from exc
    return name, value, at


# What stands before the first member; a name without escapes, up to its value; and what
# stands between two members.
_OPENING: Final = re.compile(r"[ \t\r\n]*\{[ \t\r\n]*")
_PLAIN_NAME: Final = re.compile(r'"([^"\\\x00-\x1f]*)"[ \t\r\n]*:[ \t\r\n]*')
_DIVIDER: Final = re.compile(r"[ \t\r\n]*(?:(})|,[ \t\r\n]*)")


def _refuse_constant(name: str) -> NoReturn:
    raise _unreadable(f"{name} is no JSON number")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
# `raw_decode` without what it adds in Python; typeshed does not know it.
_scan: Final[Callable[[str, int], tuple[object, int]]] = _DECODER.scan_once  # type: ignore[attr-defined]


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _check_depth(fields: Mapping[str, object]) -> None:
    level: list[Mapping[str, object] | list[object]] = [fields]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node if isinstance(node, list) else node.values())
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _unreadable(reason: str) -> CallerError:
    return CallerError(f"the body cannot be read as JSON: {reason}", code="invalid_json")


def _too_deep() -> CallerError:
    return _unreadable(f"it is nested deeper than {MAX_DEPTH}")
