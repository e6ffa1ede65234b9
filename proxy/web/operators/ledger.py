"""The ledger as JSON, for operators: `GET /ledger?by=model&since=2026-11-01`."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date, timedelta
from typing import Final, Protocol

from proxy.core.errors import CallerError
from proxy.core.ledger import BY, Booking, Sums, broken_down, total
from proxy.core.prices import NANO

DAYS: Final = 30
"""How many days are shown if none are asked for, today included."""

_DAYS_MAX: Final = 3_700
_QUERY: Final = frozenset({"by", "since", "until"})
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class LedgerFacts(Protocol):
    """What this page asks of the application."""

    def today(self) -> date:
        """Return the day that it is, in UTC."""
        ...

    async def ledger(self, *, since: date, until: date) -> Sequence[Booking]:
        """Return the rows of these days.

        Raises:
            StoreUnavailableError: if the store does not answer.
        """
        ...

    def prices(self) -> Mapping[str, str]:
        """Return `as_of` and `source` of the price list."""
        ...


async def ledger_object(facts: LedgerFacts, query: Mapping[str, str]) -> dict[str, object]:
    """Return the sums of the days that a query asks for, broken down as it says.

    Raises:
        CallerError: if the query makes no sense.
        StoreUnavailableError: if the store does not answer.
    """
    by, since, until = _read(query, facts.today)
    rows = await facts.ledger(since=since, until=until)
    # In a thread: tens of thousands of rows take a while, for which calls would wait.
    return await asyncio.to_thread(_object, facts.prices(), rows, by, since, until)


def _object(
    prices: Mapping[str, str],
    rows: Sequence[Booking],
    by: Sequence[str],
    since: date,
    until: date,
) -> dict[str, object]:
    return {
        "object": "ledger",
        "since": since.isoformat(),
        "until": until.isoformat(),
        "prices": dict(prices),
        "total": sums_object(total(rows)),
        "by": list(by),
        "rows": [
            {**dict(zip(by, place, strict=True)), **sums_object(sums)}
            for place, sums in (broken_down(rows, by).items() if by else ())
        ],
    }


def sums_object(sums: Sums) -> dict[str, object]:
    """Return sums as they are shown, money in dollars.

    `saved_usd` is what all came to less than ordinary calls, after what was bought in
    vain. What is `unpriced` is in none of the amounts, possible doubles likewise.
    """
    return {
        "jobs": sums.jobs,
        "expired": sums.expired,
        "answers": sums.answers,
        "unpriced": sums.unpriced,
        "tokens": {
            "input": sums.input_tokens,
            "cached": sums.cached_tokens,
            "output": sums.output_tokens,
        },
        "list_usd": sums.list_nano / NANO,
        "paid_usd": sums.paid_nano / NANO,
        "saved_usd": sums.saved_nano / NANO,
        "useless": {"answers": sums.useless, "usd": sums.useless_nano / NANO},
        "escalated": {"answers": sums.escalated, "usd": sums.escalated_nano / NANO},
        "cache_lost_usd": sums.cache_lost_nano / NANO,
        "possible_doubles": {
            "attempts": sums.possible_doubles,
            "usd": sums.possible_nano / NANO,
            "unpriced": sums.possible_unpriced,
        },
    }


def _read(query: Mapping[str, str], today: Callable[[], date]) -> tuple[Sequence[str], date, date]:
    unknown = sorted(set(query) - _QUERY)
    if unknown:
        raise _bad(f"unknown parameter {unknown[0]!r}; there are {', '.join(sorted(_QUERY))}")
    by = list(dict.fromkeys(name for name in query.get("by", "").split(",") if name))
    if not set(by) <= set(BY):
        raise _bad(f"by must be some of {', '.join(BY)}, with commas between")
    if "tag" in by and not set(by) <= {"tag", "day"}:
        raise _bad("tags have sums of their own: by=tag goes together with day alone")
    until = _day(query, "until") or today()
    # No day is before the first one that there is.
    first = date.fromordinal(max(1, until.toordinal() - DAYS + 1))
    since = _day(query, "since") or first
    if not timedelta(0) <= until - since <= timedelta(days=_DAYS_MAX):
        raise _bad(f"since must not be after until, and at most {_DAYS_MAX} days before it")
    return by, since, until


def _day(query: Mapping[str, str], name: str) -> date | None:
    text = query.get(name)
    if text is None:
        return None
    with suppress(ValueError):
        # It reads other forms too, some of them as days that nobody meant.
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    raise _bad(f"{name} must be a day, e.g. 2026-11-26")


def _bad(message: str) -> CallerError:
    return CallerError(message, code="bad_query")
