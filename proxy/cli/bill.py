"""`offramp bill`."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import click

from proxy.cli.batches import operators, remote_options
from proxy.cli.output import print_json, print_table
from proxy.core.ledger import BY
from proxy.core.plural import plural
from proxy.core.prices import dollar_digits, dollar_text

_SPARE = ("in vain", "unpriced", "out", "tokens in", "list", "jobs")
"""Columns that a narrow terminal goes without, from the first on: the sums below have most of
them, and a model's name in three pieces helps nobody."""

_Dollars: TypeAlias = Callable[[object], str]


@click.command("bill")
@click.option(
    "--by",
    default="model",
    show_default=True,
    metavar="NAMES",
    help=f"What to break it down by: {', '.join(BY)}; several with commas between.",
)
@click.option("--since", metavar="DAY", help="First day, e.g. 2026-11-01; 30 days if not given.")
@click.option("--until", metavar="DAY", help="Last day; today if not given. Days are in UTC.")
@remote_options
def command(
    *, by: str, since: str | None, until: str | None, admin_url: str, as_json: bool
) -> None:
    """Show what deferred calls cost at a running proxy, and what that saved.

    What is saved is the price of the same tokens in ordinary calls, less what was
    paid and less what was bought in vain. Prices are those of the proxy's list and
    configuration: an estimate of the provider's bill, not the bill.
    """
    query = {"by": by, "since": since, "until": until}
    bill = operators(admin_url, "the bill").get("/ledger", query).json()
    if as_json:
        print_json(bill)
        return
    names = [name for name in by.split(",") if name]
    dollars = _dollars_of(_member(bill, "total"))
    print_table(
        (*names, "jobs", "tokens in", "out", "list", "paid", "in vain", "saved", "unpriced"),
        [_row(row, names, dollars) for row in _list(bill.get("rows"))],
        spare=_SPARE,
    )
    click.echo()
    print_table(("", ""), _summary(bill, dollars))


def _row(row: Mapping[str, object], names: list[str], dollars: _Dollars) -> list[object]:
    tokens, useless = _member(row, "tokens"), _member(row, "useless")
    amounts = (row.get("list_usd"), row.get("paid_usd"), useless.get("usd"), row.get("saved_usd"))
    if row.get("unpriced") and not any(amounts):
        money = ["unknown"] * len(amounts)
    else:
        money = [dollars(amount) for amount in amounts]
    return [
        *(row.get(name) or "-" for name in names),
        row.get("jobs"),
        tokens.get("input"),
        tokens.get("output"),
        *money,
        row.get("unpriced") or "-",
    ]


def _summary(bill: Mapping[str, object], dollars: _Dollars) -> list[tuple[str, object]]:
    total, prices = _member(bill, "total"), _member(bill, "prices")
    useless, escalated = _member(total, "useless"), _member(total, "escalated")
    doubles = _member(total, "possible_doubles")
    lines: list[tuple[str, object]] = [
        ("from - to", f"{bill.get('since')} - {bill.get('until')}"),
        ("as ordinary calls", dollars(total.get("list_usd"))),
        ("paid", dollars(total.get("paid_usd"))),
        ("bought in vain", _answers(useless, dollars)),
        ("saved", dollars(total.get("saved_usd"))),
        ("not saved: called at full price", _answers(escalated, dollars)),
        ("not saved: cached tokens in batches", dollars(total.get("cache_lost_usd"))),
        ("possibly bought twice, at most", _doubtful(doubles, dollars)),
    ]
    if total.get("unpriced"):
        unpriced = _counted(total["unpriced"], "answer")
        lines.append(("without a known price", f"{unpriced}, in no amount above"))
    lines.append(("prices as of", f"{prices.get('as_of')}, {prices.get('source')}"))
    return lines


def _answers(bought: Mapping[str, object], dollars: _Dollars) -> str:
    return f"{dollars(bought.get('usd'))} ({_counted(bought.get('answers'), 'answer')})"


def _doubtful(doubles: Mapping[str, object], dollars: _Dollars) -> str:
    unknown, attempts = doubles.get("unpriced"), _counted(doubles.get("attempts"), "attempt")
    if unknown and unknown == doubles.get("attempts"):
        return f"unknown ({attempts})"
    some = f", {unknown} of them in no amount" if unknown else ""
    return f"{dollars(doubles.get('usd'))} ({attempts}{some})"


def _counted(amount: object, noun: str) -> str:
    return plural(amount, noun) if isinstance(amount, int) else "-"


def _dollars_of(total: Mapping[str, object]) -> _Dollars:
    listed = total.get("list_usd")
    digits = dollar_digits(listed if isinstance(listed, int | float) else 0)
    return lambda amount: (
        dollar_text(amount, digits=digits) if isinstance(amount, int | float) else "-"
    )


def _member(content: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = content.get(name)
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Mapping[str, object]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
