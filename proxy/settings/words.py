"""How values and what is wrong with them are put into words for an operator."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from pydantic import SecretStr

from proxy.settings.layers import KeyPath
from proxy.settings.schema import suggestion
from proxy.settings.upstreams import PUBLIC_BASE_URLS
from proxy.settings.values import StoreUrl, duration_text, hide_secrets

_FIXED: Final[Mapping[str, str]] = {
    "missing": "is required",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be text",
    "tuple_type": "must be a list, such as [a, b]",
    "model_type": "must be a mapping, such as {a: b}",
    "mapping_type": "must be a mapping, such as {a: b}",
    "dict_type": "must be a mapping, such as {a: b}",
    "too_short": "must not be empty",
}
"""By the error types of pydantic (documentation, "Validation Errors")."""

_BOUNDS: Final = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


def problem_text(kind: str, message: str, context: Mapping[str, object], path: KeyPath) -> str:
    """Return a finding of pydantic as what is allowed instead."""
    if kind == "missing" and path[:1] == ("upstreams",) and path[2:] == ("dialect",):
        known = ", ".join(sorted(PUBLIC_BASE_URLS))
        return f"is required, since the name is none of {known}"
    if kind in _FIXED:
        return _FIXED[kind]
    if kind == "extra_forbidden":
        return suggestion(path)
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be one of {str(context['expected']).replace(' or ', ', ')}"
    if len(context) == 1 and (bound := next(iter(context))) in _BOUNDS:
        return f"must be {_BOUNDS[bound]} {context[bound]}"
    return message


def shown_value(path: KeyPath, value: object) -> str:
    """Return a value that is in effect, without its secrets."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case timedelta():
            return duration_text(value)
        case SecretStr():
            return "***"
        case StoreUrl():
            return str(value)
        case tuple():
            # A hash is no secret, but nobody reads 64 digits.
            hashes = path[0] == "owners" or path[2:3] == ("clients",)
            items = [str(item)[:15] + "…" if hashes else str(item) for item in value]
            return f"[{', '.join(items)}]"
        case Mapping():
            return "{}"
    return hide_secrets(str(value))
