"""What a command's calls came to, over all its starts."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TextIO

from rich.console import Console
from rich.table import Table

from proxy.app import Running
from proxy.core.ledger import Sums, broken_down
from proxy.core.plural import plural
from proxy.core.prices import NANO, dollar_digits, dollar_text
from proxy.embedded.line import write_if_heard

_LANES: Final[Mapping[str, str]] = {
    "batch": "in batches",
    "flex": "at the flex tier",
    "trickle": "one after the other",
    "interactive": "called directly",
}

_LONGEST: Final = timedelta(days=366)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What the ledger of the command's own store says, and what was not deferred."""

    lanes: Mapping[str, Sums] = field(default_factory=dict)
    forwarded: int = 0
    """Calls of this start that went straight through; what they cost is not known here."""

    prices_as_of: str = ""

    @property
    def total(self) -> Sums:
        return sum(self.lanes.values(), Sums())


async def bill_of(proxy: Running) -> Bill:
    """Return the bill as it stands.

    Raises:
        StoreError: if the store does not tell.
    """
    ground = proxy.house.ground
    today = ground.now().date()
    rows = await ground.books.rows(since=today - _LONGEST, until=today)
    calls = proxy.metrics.snapshot().values.get("calls", {})
    return Bill(
        lanes={lane: sums for (lane,), sums in broken_down(rows, ("lane",)).items()},
        forwarded=int(sum(count for labels, count in calls.items() if labels[0] == "forward")),
        prices_as_of=proxy.house.prices.list.as_of,
    )


def print_bill(bill: Bill, stream: TextIO, *, as_json: bool) -> None:
    """Print it for people, or as one line of JSON."""
    if as_json:
        write_if_heard(stream, f"{json.dumps(_content(bill))}\n")
        return
    total = bill.total
    if not total.jobs and not bill.forwarded:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("offramp: the bill", no_wrap=True)
    for title in ("calls", "as ordinary calls", "paid", "saved"):
        table.add_column(title, justify="right", no_wrap=True)
    dollars = _dollars_of(total)
    for lane, words in _LANES.items():
        if lane in bill.lanes:
            _add(table, words, bill.lanes[lane], dollars)
    if len(bill.lanes) > 1:
        _add(table, "in all", total, dollars, style="bold")
    console = Console(file=stream, highlight=False)
    # Written by us, since the library ends the process where nobody reads.
    with console.capture() as shown:
        if bill.lanes:
            console.print(table)
        else:
            console.print("offramp: no call was deferred", style="bold")
        for remark in _remarks(bill, total, dollars):
            console.print(remark, style="dim")
    write_if_heard(stream, shown.get())


def _add(
    table: Table, words: str, sums: Sums, dollars: Callable[[int], str], *, style: str | None = None
) -> None:
    if sums.unpriced and not (sums.list_nano or sums.useless_nano):
        money = ["unknown"] * 3
    else:
        money = [dollars(n) for n in (sums.list_nano, sums.paid_nano, sums.saved_nano)]
    table.add_row(words, f"{sums.answers:,}", *money, style=style)


def _remarks(bill: Bill, total: Sums, dollars: Callable[[int], str]) -> list[str]:
    failed = total.jobs - total.answers
    doubled = total.price_of_doubles(dollars)
    remarks = {
        f"{plural(bill.forwarded, 'call')} could not be deferred and went straight through": (
            bill.forwarded
        ),
        f"{plural(failed, 'call')} failed": failed,
        f"{plural(total.unpriced, 'answer')} without a known price, in no amount": total.unpriced,
        f"{plural(total.useless, 'answer')} bought in vain, for {dollars(total.useless_nano)}": (
            total.useless
        ),
        f"{plural(total.possible_doubles, 'call')} possibly bought twice, {doubled}": (
            total.possible_doubles
        ),
        f"estimated by list prices of {bill.prices_as_of}": total.list_nano,
    }
    return [remark for remark, counts in remarks.items() if counts]


def _content(bill: Bill) -> dict[str, object]:
    total = bill.total
    return {
        "lanes": {lane: sums.answers for lane, sums in bill.lanes.items()},
        "failed": total.jobs - total.answers,
        "forwarded": bill.forwarded,
        "list_usd": total.list_nano / NANO,
        "paid_usd": total.paid_nano / NANO,
        "saved_usd": total.saved_nano / NANO,
        "unpriced": total.unpriced,
        "useless": total.useless,
        "possible_doubles": total.possible_doubles,
        "prices_as_of": bill.prices_as_of,
    }


def _dollars_of(total: Sums) -> Callable[[int], str]:
    digits = dollar_digits(total.list_nano / NANO)
    return lambda nano: dollar_text(nano / NANO, digits=digits)
