"""What a `Retry-After` asks for: a number of seconds, or a time to come back at."""

import math
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

_LONGEST_S: Final = 86_400.0
"""The longest pause that is granted: a day is what the longest limits of providers span."""


def pause_asked_for(value: str | None, *, now: datetime) -> timedelta | None:
    """Return for how long to stay away (RFC 9110, section 10.2.3), a day at most.

    Nothing if there is no such header, or none that can be read.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - now).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    if not math.isfinite(seconds):
        return None
    return timedelta(seconds=min(max(0.0, seconds), _LONGEST_S))
