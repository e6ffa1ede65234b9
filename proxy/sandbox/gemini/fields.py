"""Reading requests and writing answers the way Google's APIs do, for all endpoints."""

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import pydantic_core

from proxy.sandbox.answers import text_within
from proxy.sandbox.gemini import errors
from proxy.sandbox.wire import Call

VERSIONS: Final = ("/v1beta", "/v1")
"""What paths begin with; of what is served here both have the same."""

GENERATE_FIELDS: Final = frozenset(
    {
        *("model", "contents", "tools", "toolConfig", "safetySettings", "systemInstruction"),
        *("generationConfig", "cachedContent", "serviceTier", "labels", "store"),
    }
)
"""Fields of a GenerateContentRequest (google-genai 3.6)."""

EMBED_FIELDS: Final = frozenset(
    {"model", "content", "taskType", "title", "outputDimensionality", "embedContentConfig"}
)

_SNAKE: Final = re.compile(r"_([a-z])")
_MASK_TOKEN: Final = re.compile(r"[A-Za-z@][A-Za-z0-9_@]*|[(),/*]")
_PAGE_MAX: Final = 1_000


async def json_object(call: Call) -> dict[str, Any]:
    """Return the call's body, which must be a JSON object."""
    try:
        body = pydantic_core.from_json(await call.request.read())
    except ValueError as exc:
        raise errors.invalid("Invalid JSON payload received. Unexpected token.") from exc
    if not isinstance(body, dict):
        raise errors.invalid("Invalid JSON payload received. Root element must be a message.")
    return body


def camel(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with the names that protocol buffers' JSON writes; it reads both."""
    return {_SNAKE.sub(lambda m: m[1].upper(), name): value for name, value in message.items()}


def request_message(value: Any, known: Collection[str], *, at: str = "") -> dict[str, Any]:
    """Return a request whose fields are all known; what they hold is not checked here."""
    if not isinstance(value, dict):
        raise errors.invalid(f"Invalid value at '{at}' (type.googleapis.com/google.protobuf).")
    message = camel(value)
    for name, spelt in zip(message, value, strict=True):
        if name not in known:
            raise errors.unknown_name(spelt, at)
    return message


def text_of(content: Any) -> str:
    """Return all text of a content, a list of contents or a part."""
    fields = ("text", "parts", "functionCall", "functionResponse", "args", "response", "name")
    return text_within(content, fields, read=camel)


def moment(at: float) -> str:
    """Return Unix seconds as the API writes them."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def page(call: Call, name: str, items: list[dict[str, Any]], *, default: int) -> dict[str, Any]:
    """Return the page of all `items` that `pageSize` and `pageToken` ask for."""
    size = _count(call, "pageSize", default) or default
    start = _count(call, "pageToken", 0)
    shown = items[start : start + min(size, _PAGE_MAX)]
    end = start + len(shown)
    more = {"nextPageToken": str(end)} if end < len(items) else {}
    return ({name: shown} if shown else {}) | more


def masked(value: Any, mask: str | None) -> Any:
    """Return what a `fields` parameter selects of a value: `a,b/c,d(e,f)`."""
    if mask is None:
        return value
    tokens = _MASK_TOKEN.findall(mask)
    if "".join(tokens) != mask.replace(" ", ""):
        raise errors.invalid(f"Invalid field selection {mask}")
    tree, rest = _selection(tokens)
    if rest:
        raise errors.invalid(f"Invalid field selection {mask}")
    return _selected(value, tree)


_Tree = dict[str, Any]


def _selection(tokens: list[str]) -> tuple[_Tree, list[str]]:
    tree: _Tree = {}
    while tokens:
        name, below, tokens = _selector(tokens)
        tree[name] = {**tree.get(name, {}), **below}
        if tokens[:1] != [","]:
            break
        tokens = tokens[1:]
    return tree, tokens


def _selector(tokens: list[str]) -> tuple[str, _Tree, list[str]]:
    name, *rest = tokens
    if rest[:1] == ["/"] and rest[1:]:
        inner, below, rest = _selector(rest[1:])
        return name, {inner: below}, rest
    if rest[:1] != ["("]:
        return name, {}, rest
    below, rest = _selection(rest[1:])
    if rest[:1] != [")"]:
        raise errors.invalid("Invalid field selection")
    return name, below, rest[1:]


def _selected(value: Any, tree: _Tree) -> Any:
    if not tree:
        return value
    if isinstance(value, list):
        return [_selected(one, tree) for one in value]
    if not isinstance(value, dict):
        return value
    return {name: _selected(value[name], below) for name, below in tree.items() if name in value}


def _count(call: Call, name: str, default: int) -> int:
    text = call.argument(name) or str(default)
    if not text.isdecimal():
        raise errors.invalid(f"Invalid value at '{name}' (TYPE_INT32), \"{text}\"")
    return int(text)
