"""Reading requests the way Anthropic checks them, for all of its endpoints."""

from datetime import UTC, datetime
from typing import Any, Final

import pydantic_core

from proxy.sandbox.anthropic import errors
from proxy.sandbox.wire import Call

VERSIONS: Final = frozenset({"2023-01-01", "2023-06-01", "2026-10-21"})
"""Values of `anthropic-version` that are taken: those that SDKs are seen to send."""


def check_version(call: Call) -> None:
    """Refuse a request without a known `anthropic-version`."""
    version = call.request.headers.get("anthropic-version")
    if version is None:
        raise errors.invalid("anthropic-version: header is required")
    if version not in VERSIONS:
        raise errors.invalid(f"anthropic-version: {version!r} is not a valid version")


async def json_object(call: Call) -> dict[str, Any]:
    """Return the call's body, which must be a JSON object."""
    try:
        body = pydantic_core.from_json(await call.request.read())
    except ValueError as exc:
        raise errors.invalid("The request body is not valid JSON") from exc
    if not isinstance(body, dict):
        raise errors.invalid("The request body is not a JSON object")
    return body


def page(call: Call, items: list[dict[str, Any]], default: int) -> dict[str, Any]:
    """Return the page of all `items`, in order, that `limit` and the cursors ask for."""
    limit = _limit(call, default)
    after, before = call.argument("after_id"), call.argument("before_id")
    if after is not None and before is not None:
        raise errors.invalid("only one of after_id and before_id may be given")
    if before is not None:
        items = items[: _place(items, before)]
        data, has_more = items[-limit:], len(items) > limit
    else:
        items = items if after is None else items[_place(items, after) + 1 :]
        data, has_more = items[:limit], len(items) > limit
    return {
        "data": data,
        "has_more": has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def moment(at: float | None) -> str | None:
    """Return Unix seconds as the API writes them."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def _limit(call: Call, default: int) -> int:
    text = call.argument("limit") or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= 1_000:
        raise errors.invalid("limit: Input should be between 1 and 1000")
    return int(text)


def _place(items: list[dict[str, Any]], item_id: str) -> int:
    for place, item in enumerate(items):
        if item["id"] == item_id:
            return place
    raise errors.invalid(f"no object with the ID {item_id}")
