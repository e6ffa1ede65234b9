"""Times, sizes, money and states, as people say them."""

from datetime import datetime, timedelta
from typing import Final

from proxy.core.prices import NANO

DASH: Final = "\N{EN DASH}"
MINUS: Final = "\N{MINUS SIGN}"

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def duration(span: timedelta) -> str:
    """Return the two largest units: `1 d 2 h`, `3 min 20 s`, `0 s`."""
    seconds = round(abs(span.total_seconds()))
    for place, (name, size) in enumerate(_UNITS):
        if seconds < size:
            continue
        whole, rest = divmod(seconds, size)
        smaller = _UNITS[place + 1 : place + 2]
        # Beside ten hours nobody asks for minutes.
        if smaller and whole < 10 and rest >= smaller[0][1]:
            return f"{whole} {name} {rest // smaller[0][1]} {smaller[0][0]}"
        return f"{whole} {name}"
    return "0 s"


def ago(at: datetime | None, now: datetime) -> str:
    """Return how long ago `at` was, or in how long it will be; a dash for never."""
    if at is None:
        return DASH
    span = now - at
    if abs(span) < timedelta(seconds=1):
        return "now"
    return f"{duration(span)} ago" if span > timedelta(0) else f"in {duration(span)}"


def clock(at: datetime | None) -> str:
    """Return the exact time."""
    return DASH if at is None else at.strftime("%-d %b %Y, %H:%M:%S UTC")


def size(amount: int) -> str:
    """Return a number of bytes: `950 B`, `1.2 KB`, `34 MB`."""
    if amount < 1000:
        return f"{amount} B"
    value, units = amount / 1000, ["KB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.1f} {units[0]}" if value < 9.95 else f"{value:.0f} {units[0]}"


def count(amount: float) -> str:
    """Return a number with its thousands apart."""
    return f"{round(amount):,}"


def money(nano: int) -> str:
    """Return dollars, with as many digits as the amount needs to be seen."""
    dollars = abs(nano) / NANO
    sign = MINUS if nano < 0 else ""
    if dollars >= 1000:
        return f"{sign}${dollars:,.0f}"
    if dollars >= 1 or nano == 0:
        return f"{sign}${dollars:.2f}"
    if dollars >= 0.01:
        return f"{sign}${dollars:.3f}"
    return f"{sign}${dollars:.4f}" if dollars >= 0.0001 else f"{sign}<$0.0001"


def share(part: int, whole: int) -> str:
    """Return a share in per cent; a dash of nothing."""
    return DASH if whole <= 0 else f"{100 * part / whole:.0f} %"


def words(name: str) -> str:
    """Return a name of ours as words: `in_progress` is `in progress`."""
    return name.replace("_", " ")


def short(text: str, most: int = 12) -> str:
    """Return the end of a long ID, by which people tell them apart."""
    return text if len(text) <= most else f"…{text[-most:]}"
