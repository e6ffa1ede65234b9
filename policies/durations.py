"""Durations as people write them in headers and configuration: `10s`, `5m`, `1h30m`, `1d`."""

import re
from datetime import timedelta
from typing import Final

UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

ALLOWED: Final = "whole numbers with s, m, h or d, such as 10s, 6h, 1h30m or 1d"

LONGEST: Final = timedelta(days=3_650)
"""Ten years: more is a slip of the finger, and would overflow dates further on."""

_PART: Final = re.compile(r"([0-9]{1,9})([smhd])")
_WHOLE: Final = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(text: str) -> timedelta:
    """Return the duration that `text` stands for; zero is one.

    Raises:
        ValueError: naming the text, shortened, and what is allowed.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a duration: write {ALLOWED}")
    seconds = sum(int(count) * UNITS[unit] for count, unit in _PART.findall(text))
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"{text[:40]!r} is longer than {format_duration(LONGEST)}")
    return timedelta(seconds=seconds)


def format_duration(duration: timedelta) -> str:
    """Return the shortest text that `parse_duration` reads back, to the second below."""
    seconds = int(duration.total_seconds())
    unit = next(unit for unit in reversed(UNITS) if seconds % UNITS[unit] == 0 or unit == "s")
    return "0s" if seconds == 0 else f"{seconds // UNITS[unit]}{unit}"
