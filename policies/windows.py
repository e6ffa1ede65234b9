"""Windows of the day and the week, by the clock on the wall of some time zone.

By the wall: in the night when clocks go back, the hour that comes twice is in
the window both times, and the hour that is skipped in spring is in none.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_BETWEEN: Final = re.compile(r"([0-9]{2}):([0-9]{2}) ?- ?([0-9]{2}):([0-9]{2})")
_MINUTES_A_DAY: Final = 24 * 60

ZONE_NAME: Final = re.compile(r"[A-Za-z0-9_+/-]{1,64}")


@dataclass(frozen=True, slots=True)
class Span:
    """Minutes of a day from `start` to before `end`; past midnight if `end` is not later."""

    start: int
    end: int

    @property
    def crosses_midnight(self) -> bool:
        """Whether it ends on the day after it began."""
        return self.end < self.start


WHOLE_DAY: Final = Span(0, _MINUTES_A_DAY)


@dataclass(frozen=True, slots=True)
class Window:
    """Recurring times. A span past midnight belongs to the day on which it begins."""

    span: Span = WHOLE_DAY
    days: frozenset[int] = frozenset(range(7))
    """0 is Monday."""

    zone: tzinfo = UTC

    def __str__(self) -> str:
        days = (
            "" if len(self.days) == 7 else ", " + " ".join(DAYS[day] for day in sorted(self.days))
        )
        start, end = (f"{m // 60:02}:{m % 60:02}" for m in (self.span.start, self.span.end))
        return f"{start}-{end} {self.zone}{days}"

    def contains(self, moment: datetime) -> bool:
        """Return whether the aware `moment` lies in the window."""
        local = moment.astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        weekday = local.weekday()
        if not self.span.crosses_midnight:
            return self.span.start <= minute < self.span.end and weekday in self.days
        if minute >= self.span.start:
            return weekday in self.days
        return minute < self.span.end and (weekday - 1) % 7 in self.days


def parse_span(text: str) -> Span:
    """Read `20:00-06:00`; `24:00` is the end of a day.

    Raises:
        ValueError: saying what is allowed.
    """
    match = _BETWEEN.fullmatch(text)
    if match is not None:
        hours, minutes, end_hours, end_minutes = map(int, match.groups())
        start, end = hours * 60 + minutes, end_hours * 60 + end_minutes
        if max(minutes, end_minutes) < 60 and start < _MINUTES_A_DAY >= end and start != end:
            # An end at 00:00 is the end of the day on which the span began.
            return Span(start, end or _MINUTES_A_DAY)
    raise ValueError("two different times of day such as 20:00-06:00 (the end may be 24:00)")


def parse_days(text: str) -> frozenset[int]:
    """Read `mon` or `mon-fri`, which may run past Sunday (`sat-mon`).

    Raises:
        ValueError: saying what is allowed.
    """
    first, dash, last = text.lower().partition("-")
    if first not in DAYS or (dash and last not in DAYS):
        raise ValueError(f"days are {', '.join(DAYS)}, or a range such as mon-fri")
    start = DAYS.index(first)
    length = (DAYS.index(last or first) - start) % 7
    return frozenset((start + step) % 7 for step in range(length + 1))


def parse_zone(text: str) -> ZoneInfo:
    """Read the name of a time zone.

    Raises:
        ValueError: if no such zone is known here.
    """
    try:
        if ZONE_NAME.fullmatch(text) is not None:
            return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # A directory of the database (`Europe`) is an OSError.
        pass
    raise ValueError("a time zone of the IANA database, such as Europe/Berlin or UTC")
