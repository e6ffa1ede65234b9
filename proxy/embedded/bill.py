"""What a command's calls came to."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, TextIO

from rich.console import Console
from rich.table import Table

from proxy.app import Running

_LANES: Final[Mapping[str, str]] = {
    "batch": "in batches",
    "flex": "at the flex tier",
    "trickle": "one after the other",
    "interactive": "called directly",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """Jobs that ended and calls that went through since the command was started."""

    lanes: Mapping[str, int] = field(default_factory=dict)
    """Jobs that were completed, by the lane that brought their answer."""

    failed: int = 0
    """Jobs that ended without a success."""

    forwarded: int = 0
    """Calls that were not deferred."""

    possible_doubles: int = 0
    """Calls that may have been bought twice: nobody can tell."""


def bill_of(proxy: Running) -> Bill:
    """Return the bill as it stands."""
    values = proxy.metrics.snapshot().values
    lanes: dict[str, int] = {}
    failed = 0
    for (state, lane), count in values.get("job_ended", {}).items():
        if state == "completed":
            lanes[lane] = lanes.get(lane, 0) + int(count)
        else:
            failed += int(count)
    forwarded = sum(
        count for labels, count in values.get("calls", {}).items() if labels[0] == "forward"
    )
    doubles = sum(values.get("possible_double", {}).values())
    return Bill(lanes=lanes, failed=failed, forwarded=int(forwarded), possible_doubles=int(doubles))


def print_bill(bill: Bill, stream: TextIO, *, as_json: bool) -> None:
    """Print it for people, or as one line of JSON."""
    if as_json:
        print(json.dumps(asdict(bill)), file=stream)
        return
    if bill == Bill():
        return
    table = Table(box=None, pad_edge=False, show_header=True, header_style="bold")
    table.add_column("offramp", no_wrap=True)
    table.add_column("calls", justify="right")
    for lane, words in _LANES.items():
        if bill.lanes.get(lane):
            table.add_row(words, f"{bill.lanes[lane]:,}")
    for words, count in (
        ("not deferred", bill.forwarded),
        ("failed", bill.failed),
        ("possibly bought twice", bill.possible_doubles),
    ):
        if count:
            table.add_row(words, f"{count:,}")
    Console(file=stream, highlight=False).print(table)
