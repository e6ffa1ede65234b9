"""Tell from arrivals alone whether anybody waits for the answers.

A person who waits reads a stream, or makes single calls through the day. A program that nobody
waits for comes in bursts, at night, by the clock, many calls at once, and repeats what failed. None
of these alone proves anything, so they are weighed; whatever is unclear stays interactive, since a
wrong rule costs more than a missed one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from itertools import groupby
from statistics import median
from typing import Final

from proxy.core.plural import plural

GAP: Final = timedelta(seconds=30)
"""A longer silence ends a session."""

BURST_CALLS: Final = 20
"""A session with fewer calls may be a person's."""

BURST_SHARE: Final = 0.8
BURST_DUTY: Final = 0.15
"""A service that people use is busy for hours: longer than this share of all time, its
sessions are no bursts."""

NIGHT: Final = (time(22), time(6))
NIGHT_SHARE: Final = 0.9
NIGHTS_MIN: Final = 2
PARALLEL_MIN: Final = 8
RETRY_SHARE: Final = 0.02
STREAM_SHARE_MAX: Final = 0.01
TOOLS_SHARE_MAX: Final = 0.1
"""A loop of calls with tools waits for each answer: in batches it would take days."""

CALLS_MIN: Final = 50
"""Fewer calls prove nothing, and save nothing."""

ENOUGH: Final = 3
_CLOCK_SLACK_MIN: Final = 10
_DAYS_BY_THE_CLOCK: Final = 3
_HOURS_BY_THE_CLOCK: Final = 6
_HOURLY_SLACK_MIN: Final = 2


@dataclass(frozen=True, slots=True)
class Arrival:
    """One call of a segment."""

    at: datetime
    duration: timedelta
    streams: bool = False
    has_tools: bool = False
    is_retry: bool = False


@dataclass(frozen=True, slots=True)
class Opinion:
    """Whether anybody waits, as far as it shows."""

    nobody_waits: bool
    reasons: tuple[str, ...]
    """What speaks for it or, if somebody seems to wait, what kept it from being plain."""


def opinion(calls: Sequence[Arrival], *, span: timedelta, zone: tzinfo) -> Opinion:
    """Weigh the calls of one segment, which are in the order of time.

    `span` is how long was recorded; `zone` where night is looked for.
    """
    kept = _kept(calls)
    if kept is not None:
        return Opinion(False, (kept,))
    sessions = list(_sessions(calls))
    bursts = [one for one in sessions if len(one) >= BURST_CALLS]
    signs = [*_burst_signs(calls, bursts, span), *_night_signs(calls, zone)]
    if not signs:
        # Whatever some of them are, a person may be behind most.
        return Opinion(False, ("single calls, spread over the day",))
    signs += [*_clock_signs(bursts, zone), *_program_signs(calls, bursts)]
    reasons = tuple(text for _, text in signs)
    return Opinion(sum(weight for weight, _ in signs) >= ENOUGH, reasons)


def at_night(at: datetime, zone: tzinfo) -> bool:
    """Return whether it is night at that time in that zone."""
    clock = at.astimezone(zone).time()
    return clock >= NIGHT[0] or clock < NIGHT[1]


def _kept(calls: Sequence[Arrival]) -> str | None:
    """Return the one sign that is enough to conclude that somebody waits, if there is one."""
    if len(calls) < CALLS_MIN:
        return f"only {plural(len(calls), 'call')}"
    if _share(one.streams for one in calls) > STREAM_SHARE_MAX:
        return "answers are streamed to somebody"
    if _share(one.has_tools for one in calls) > TOOLS_SHARE_MAX:
        return "calls offer tools: loops, in which each answer is waited for"
    return None


def _burst_signs(
    calls: Sequence[Arrival], bursts: Sequence[Sequence[Arrival]], span: timedelta
) -> Iterator[tuple[int, str]]:
    share = sum(map(len, bursts)) / len(calls)
    busy = sum((one[-1].at - one[0].at for one in bursts), timedelta())
    if share >= BURST_SHARE and busy <= BURST_DUTY * max(span, timedelta(days=1)):
        yield 2, f"{share:.0%} of calls in {len(bursts)} bursts"


def _night_signs(calls: Sequence[Arrival], zone: tzinfo) -> Iterator[tuple[int, str]]:
    nightly = [one for one in calls if at_night(one.at, zone)]
    share = len(nightly) / len(calls)
    # An evening and the morning after it are one night.
    nights = {(one.at.astimezone(zone) - timedelta(hours=12)).date() for one in nightly}
    if share >= NIGHT_SHARE and len(nights) >= NIGHTS_MIN:
        yield 2, f"{share:.0%} of calls at night"


def _clock_signs(bursts: Sequence[Sequence[Arrival]], zone: tzinfo) -> Iterator[tuple[int, str]]:
    starts = [one[0].at.astimezone(zone) for one in bursts]
    firsts = [min(group) for _, group in groupby(starts, key=lambda start: start.date())]
    if len(firsts) >= _DAYS_BY_THE_CLOCK:
        minutes_of_day = [start.hour * 60 + start.minute for start in firsts]
        usual = round(median(minutes_of_day))
        if all(abs(one - usual) <= _CLOCK_SLACK_MIN for one in minutes_of_day):
            yield 2, f"every day at {usual // 60:02}:{usual % 60:02}"
            return
    minutes = [start.minute for start in starts]
    if len(minutes) >= _HOURS_BY_THE_CLOCK:
        usual_minute = round(median(minutes))
        near = _share(abs(one - usual_minute) <= _HOURLY_SLACK_MIN for one in minutes)
        if near >= BURST_SHARE:
            yield 2, f"at minute {usual_minute} of the hour"


def _program_signs(
    calls: Sequence[Arrival], bursts: Sequence[Sequence[Arrival]]
) -> Iterator[tuple[int, str]]:
    parallel = max(map(_parallel, bursts), default=0)
    if parallel >= PARALLEL_MIN:
        yield 1, f"up to {parallel} calls at once"
    retries = _share(one.is_retry for one in calls)
    if retries >= RETRY_SHARE:
        yield 1, f"{retries:.0%} of calls are a script's retries"


def _sessions(calls: Sequence[Arrival]) -> Iterator[Sequence[Arrival]]:
    """Cut the calls into sessions, at long silences."""
    begun = 0
    for place in range(1, len(calls) + 1):
        if place == len(calls) or calls[place].at - calls[place - 1].at > GAP:
            yield calls[begun:place]
            begun = place


def _parallel(calls: Sequence[Arrival]) -> int:
    """Return how many calls were under way at once, at most."""
    changes = sorted(
        [(one.at, 1) for one in calls] + [(one.at + one.duration, -1) for one in calls]
    )
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _share(flags: Iterable[bool]) -> float:
    found = list(flags)
    return sum(found) / len(found) if found else 0.0
