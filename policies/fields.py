"""Readers of single header values: each takes trimmed text, or says what would do.

They raise `ValueError` whose message says in words what is allowed, and never
repeats the text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from policies.durations import ALLOWED, parse_duration

LONGEST_DEADLINE: Final = timedelta(days=30)
"""No provider keeps results for longer (OpenAI, Batch: output files expire after 30 days)."""

MAX_TAGS: Final = 16
MAX_KEY_LENGTH: Final = 255
"""The longest idempotency key; the bound that clients of other APIs are used to."""

_MIN_READ_TIMEOUT_S: Final = 3
_MAX_READ_TIMEOUT_S: Final = 600
_MAX_RETRY_COUNT: Final = 1_000

_TIME: Final = "an RFC 3339 time with an offset, such as 2026-11-24T06:00:00Z"
_DEADLINE: Final = f"{ALLOWED}, or {_TIME}; in the future, within 30 days"
_TAGS: Final = (
    f"up to {MAX_TAGS} of name=value, separated by commas, such as team=etl, run=42; names of up to"
    " 64 letters, digits, '.', '_' and '-', each once; values of up to 128, also with ':/@+#' and"
    " inner spaces"
)

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TAG_VALUE: Final = re.compile(r"[A-Za-z0-9._:/@+# -]{1,128}")
_RUN_ID: Final = "[A-Za-z0-9._:/@+#-]{1,128}"
_RUN: Final = re.compile(rf"(?P<run>{_RUN_ID})(?:[ \t]*;[ \t]*session=(?P<session>{_RUN_ID}))?")

# RFC 3339, section 5.6. `fromisoformat` alone would also read week dates, and
# times without an offset, which mean another moment to every reader.
_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)

_DIGITS: Final = re.compile(rb"[0-9]{1,9}")
_NUMBER: Final = re.compile(rb"[0-9]{1,9}(?:\.[0-9]{1,9})?")


class Tag(StrEnum):
    """What `X-Deferrable` can say."""

    TRUE = "true"
    JOB = "job"
    WAIT = "wait"
    BACKGROUND = "background"
    RAISE = "raise"
    FALSE = "false"


def read_tag(text: str) -> Tag:
    """Read `X-Deferrable`, in any case."""
    try:
        return Tag(text.lower())
    except ValueError:
        raise ValueError(", ".join(Tag)) from None


def read_deadline(text: str, now: datetime) -> timedelta | datetime:
    """Read a duration from now, or a time after `now`; both within 30 days."""
    try:
        deadline = _read_time(text) if _RFC3339.fullmatch(text) else parse_duration(text)
    except ValueError:
        raise ValueError(_DEADLINE) from None
    left = deadline - now if isinstance(deadline, datetime) else deadline
    if not timedelta() < left <= LONGEST_DEADLINE:
        raise ValueError(_DEADLINE)
    return deadline


def read_time(text: str) -> datetime:
    """Read an RFC 3339 time, which always has an offset."""
    if _RFC3339.fullmatch(text) is None:
        raise ValueError(_TIME)
    return _read_time(text)


def _read_time(text: str) -> datetime:
    # Python keeps microseconds; the nine digits that others send are cut by it.
    return datetime.fromisoformat(text.upper())


def read_tags(text: str) -> Mapping[str, str]:
    """Read a list of `name=value`; empty elements do not count (RFC 9110, section 5.6.1)."""
    tags: dict[str, str] = {}
    elements = [element for part in text.split(",") if (element := part.strip(" \t"))]
    for element in elements:
        name, equals, value = element.partition("=")
        name, value = name.rstrip(" \t"), value.lstrip(" \t")
        if not (equals and _NAME.fullmatch(name) and _TAG_VALUE.fullmatch(value)):
            raise ValueError(_TAGS)
        if tags.setdefault(name, value) != value:
            raise ValueError(_TAGS)
    if not 1 <= len(tags) <= MAX_TAGS:
        raise ValueError(_TAGS)
    return tags


def read_tag_name(text: str) -> str:
    """Read the name of one tag."""
    if _NAME.fullmatch(text) is None:
        raise ValueError("names of tags have up to 64 letters, digits, '.', '_' and '-'")
    return text


def read_tag_value(text: str) -> str:
    """Read the value of one tag."""
    if _TAG_VALUE.fullmatch(text) is None or text.strip() != text:
        raise ValueError("values of tags have up to 128 letters, digits and any of '._:/@+# -'")
    return text


def read_name(text: str) -> str:
    """Read the name of something configured."""
    if _NAME.fullmatch(text) is None:
        raise ValueError("the name of a configured endpoint, never a URL")
    return text


@dataclass(frozen=True, slots=True)
class Run:
    """Whose calls are numbered: the n-th of equal ones is the n-th job of the run.

    Each session numbers anew, so that a script that starts again under the same run
    with a session of its own finds the jobs that the one before it made.
    """

    id: str
    session: str | None = None


def read_run(text: str) -> Run:
    """Read the ID of a run, and that of a session if one follows: `ID; session=ID`."""
    ids = _RUN.fullmatch(text)
    if ids is None:
        raise ValueError(
            "an ID of up to 128 letters, digits and any of '._:/@+#-',"
            " and after it '; session=' and such an ID, or nothing"
        )
    return Run(ids["run"], ids["session"])


def key_problem(keys: list[str]) -> str | None:
    """Return why a call cannot be deferred under these idempotency keys, or nothing."""
    if any(key != keys[0] for key in keys):
        return "two values of Idempotency-Key differ"
    if keys and not 1 <= len(keys[0]) <= MAX_KEY_LENGTH:
        return f"Idempotency-Key must have 1 to {MAX_KEY_LENGTH} characters"
    return None


def read_retry_count(value: bytes | None) -> int:
    """Read how often an SDK says it has tried; what is no count counts as the first try."""
    if value is None or _DIGITS.fullmatch(value) is None:
        return 0
    return min(int(value), _MAX_RETRY_COUNT)


def read_read_timeout(value: bytes | None) -> timedelta | None:
    """Read how many seconds an SDK waits for bytes, clamped to 3 to 600."""
    if value is None or _NUMBER.fullmatch(value) is None:
        return None
    seconds = min(max(float(value), _MIN_READ_TIMEOUT_S), _MAX_READ_TIMEOUT_S)
    return timedelta(seconds=seconds)
