"""How a day went, beside what was possible."""

from collections import Counter
from dataclasses import dataclass
from typing import Self

from tests.simulation.day.oracle import foresee
from tests.simulation.day.play import Outcome, play
from tests.simulation.day.scenarios import Day


@dataclass(frozen=True, slots=True)
class Score:
    """One day, or several added up."""

    jobs: int
    missed: int
    """Deadlines that were missed and that the oracle makes."""

    impossible: int
    """Deadlines that not even the oracle makes."""

    saving: float
    possible: float
    lanes: Counter[str]
    twice: int
    """Answers that were bought more than once."""

    @property
    def ratio(self) -> float:
        """Return the saving as a share of the oracle's."""
        return self.saving / self.possible if self.possible else 1.0

    def plus(self, other: Self) -> "Score":
        """Return both together."""
        return Score(
            self.jobs + other.jobs,
            self.missed + other.missed,
            self.impossible + other.impossible,
            self.saving + other.saving,
            self.possible + other.possible,
            self.lanes + other.lanes,
            self.twice + other.twice,
        )


def score(day: Day) -> Score:
    """Play the day and compare it with what was possible."""
    return compare(play(day))


def compare(outcome: Outcome) -> Score:
    """Return the score of a day that was played."""
    possible = foresee(outcome.day, outcome.arrivals)
    missed = [
        one
        for one in outcome.arrivals
        if one.number in possible.in_time and not outcome.is_in_time(one)
    ]
    return Score(
        jobs=len(outcome.arrivals),
        missed=len(missed),
        impossible=len(outcome.arrivals) - len(possible.in_time),
        saving=outcome.saving,
        possible=possible.saving,
        lanes=Counter(outcome.bill.by_lane),
        twice=sum(times - 1 for times in outcome.bill.bought.values()),
    )
