"""The table of days."""

from collections.abc import Sequence
from functools import reduce
from typing import Final

from tests.simulation.day.scenarios import AIMS
from tests.simulation.day.score import Score

HEADINGS: Final = (
    "| day | jobs | missed | impossible | batch / flex / full | twice | saving of oracle's"
    " | least | aim |\n|---|---|---|---|---|---|---|---|---|"
)


def row(name: str, scores: Sequence[Score]) -> str:
    """Return the row of one kind of day, over all its seeds."""
    total = reduce(Score.plus, scores)
    bought = total.lanes.total()
    lanes = " / ".join(
        f"{total.lanes[lane] / bought:.0%}" for lane in ("batch", "flex", "full price")
    )
    least = min(one.ratio for one in scores)
    return (
        f"| {name} | {total.jobs:,} | {total.missed} | {total.impossible} | {lanes}"
        f" | {total.twice} | {total.ratio:.1%} | {least:.1%} | {AIMS[name]:.0%} |"
    )
