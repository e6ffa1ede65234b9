"""What was bought, as the provider's own results report it."""

from collections.abc import Mapping


def usage_of(body: Mapping[str, object]) -> Mapping[str, int] | None:
    """Return the token counts of a result's `usage`, nested ones under dotted names.

    Nothing if the body has none: unknown is never zero.
    """
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return None
    counts: dict[str, int] = {}
    for name, value in usage.items():
        if _is_count(value):
            counts[str(name)] = value
        elif isinstance(value, Mapping):
            counts |= {f"{name}.{key}": count for key, count in value.items() if _is_count(count)}
    return counts


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
