"""Objects of providers, read leniently.

What is read is untrusted and varies. A field that cannot be read is as if absent, unless
nothing can be done without it; fields that we do not know are passed over.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

_Object = TypeVar("_Object", bound="Lenient")

_MOMENT: Final = TypeAdapter(datetime)

_YEARS: Final = range(1970, 9_000)
"""A time in one of these can be added to, and moved to another zone; any other says nothing."""


class Lenient(BaseModel):
    """Those fields of an object that we depend on. Built when one is first read."""

    model_config = ConfigDict(extra="ignore", defer_build=True)


def read_as(kind: type[_Object], value: object) -> _Object | None:
    """Return the object of that kind that `value` is, or nothing if it is none."""
    try:
        return kind.model_validate(value)
    except ValidationError:
        return None


def _moment(value: Any) -> datetime | None:
    if isinstance(value, bool) or value in (None, "", 0):
        return None
    try:
        found = _MOMENT.validate_python(value)
    except (ValidationError, OverflowError):
        return None
    if found.year not in _YEARS:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def word(value: Any) -> str | None:
    """Return a text that is not blank, or nothing if `value` is none."""
    return value if isinstance(value, str) and value.strip() else None


def whole_number(value: Any) -> int | None:
    """Return a whole number, or nothing if `value` is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def mapping(value: Any) -> dict[str, Any]:
    """Return `value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


Id = Annotated[str, Field(min_length=1)]
Moment = Annotated[datetime | None, BeforeValidator(_moment)]
Word = Annotated[str | None, BeforeValidator(word)]
Number = Annotated[int | None, BeforeValidator(whole_number)]
Loose = Annotated[dict[str, Any], BeforeValidator(mapping)]
