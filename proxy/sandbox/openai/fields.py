"""Reading request fields the way OpenAI checks them, for all of its endpoints."""

from typing import Any

from proxy.sandbox.answers import text_within
from proxy.sandbox.openai import errors
from proxy.sandbox.wire import Call


def text_of(message: Any) -> str:
    """Return all text of a message or input item: plain, in parts, and in tool calls."""
    fields = ("content", "text", "output", "arguments", "tool_calls", "function", "summary")
    return text_within(message, fields)


def prompt_of(body: dict[str, Any]) -> str:
    """Return the prompt, which must be a text that is not empty."""
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise errors.missing("prompt")
    return prompt


def check_temperature(body: dict[str, Any]) -> None:
    """Check the temperature, if there is one."""
    name, value = "temperature", body.get("temperature")
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise errors.invalid(
            name, f"Invalid type for '{name}': expected a decimal.", code="invalid_type"
        )
    _within(value, name, 0, 2, kind="decimal")


def integer(
    body: dict[str, Any], name: str, low: int, high: int, *, default: int | None = None
) -> int | None:
    """Return an optional integer within its bounds."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise errors.invalid(
            name, f"Invalid type for '{name}': expected an integer.", code="invalid_type"
        )
    _within(value, name, low, high, kind="integer")
    return value


def _within(value: float, name: str, low: float, high: float, *, kind: str) -> None:
    if value < low:
        raise errors.invalid(
            name, f"Invalid '{name}': below minimum value {low}.", code=f"{kind}_below_min_value"
        )
    if value > high:
        raise errors.invalid(
            name, f"Invalid '{name}': above maximum value {high}.", code=f"{kind}_above_max_value"
        )


def forced_function(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the function that `tool_choice` forces, or None if the model may answer in words.

    Chat completions nest it under `function`, Responses do not; both are read. `any` is what
    Mistral called `required` before.
    """
    functions = [
        tool.get("function", tool)
        for tool in body.get("tools") or ()
        if isinstance(tool, dict) and tool.get("type") == "function"
    ]
    choice = body.get("tool_choice")
    if choice in ("required", "any") and functions:
        return functions[0]  # type: ignore[no-any-return]
    if isinstance(choice, dict) and choice.get("type") == "function":
        name = choice.get("function", choice).get("name")
        for function in functions:
            if function.get("name") == name:
                return function  # type: ignore[no-any-return]
        raise errors.invalid("tool_choice", f"Tool choice '{name}' not found in 'tools'.")
    return None


def page_limit(call: Call, *, default: int, highest: int) -> int:
    """Return the `limit` of a listing, within 1 and `highest`."""
    text = call.argument("limit")
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= highest:
        raise errors.invalid("limit", f"Invalid 'limit': expected 1 to {highest}.")
    return value


def paginate(items: list[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    """Return OpenAI's list object: up to `limit` items behind the one with the ID `after`."""
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise errors.invalid("after", f"Invalid 'after': no object with id '{after}'.")
        items = items[places[0] + 1 :]
    page = items[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > limit,
    }
