"""One short day of each kind: every deadline that could be kept is kept, and most is saved.

The long form, with many seeds: `python -m tests.simulation.day`.
"""

from dataclasses import replace

import pytest

from tests.simulation.day.oracle import foresee
from tests.simulation.day.play import play
from tests.simulation.day.report import row
from tests.simulation.day.scenarios import AIMS, START, Day, day
from tests.simulation.day.score import compare
from tests.simulation.day.traffic import Traffic
from tests.simulation.day.weather import HOUR, Spell

SLACK = 0.04
"""How far a short day may stay below the aim: a handful of jobs decides it."""


def short(name: str, share: int = 4) -> Day:
    """Return the day with a `share`th of its traffic."""
    whole = day(name, 1)
    traffic = replace(
        whole.traffic,
        per_hour=whole.traffic.per_hour / share,
        bursts=tuple(replace(one, count=one.count // share) for one in whole.traffic.bursts),
    )
    weather = {
        upstream: replace(one, max_tokens=one.max_tokens and one.max_tokens // share)
        for upstream, one in whole.weather.items()
    }
    return replace(whole, traffic=traffic, weather=weather)


@pytest.mark.parametrize("name", AIMS)
def test_a_day_misses_no_deadline_and_saves_about_what_can_be_saved(name: str) -> None:
    score = compare(play(short(name)))

    assert (score.missed, score.twice) == (0, 0)
    assert score.ratio >= AIMS[name] - SLACK
    assert name in row(name, [score])


def test_a_day_can_be_played_again() -> None:
    first, second = (play(short("quota squeeze", 12)) for _ in range(2))

    assert first.bill == second.bill
    assert [job.lane for job in first.jobs.values()] == [job.lane for job in second.jobs.values()]


def test_the_oracle_makes_no_deadline_within_an_outage_and_saves_nothing_there() -> None:
    whole = short("calm day")
    down = (Spell(START, START + 100 * HOUR),)
    dark = replace(
        whole, weather={key: replace(one, outages=down) for key, one in whole.weather.items()}
    )
    arrivals = whole.traffic.day("1", START)

    assert foresee(dark, arrivals).in_time == frozenset()
    assert foresee(dark, arrivals).saving == 0
    assert len(foresee(whole, arrivals).in_time) == len(arrivals)


def test_the_oracle_shares_the_tokens_that_are_let_in() -> None:
    whole = short("nightly surge")
    arrivals = whole.traffic.day("1", START)

    def saving(most: int | None) -> float:
        weather = {key: replace(one, max_tokens=most) for key, one in whole.weather.items()}
        return foresee(replace(whole, weather=weather), arrivals).saving

    assert saving(500) < saving(3_000) <= saving(None)


def test_a_planner_that_knew_nothing_would_be_seen_to_miss_deadlines() -> None:
    """A day must be hard enough: with hardly any time kept for it, cancelling comes too late."""
    hasty = replace(
        short("tight deadlines"),
        traffic=Traffic(per_hour=20, mix={"tight": 1.0}, without_flex=1.0),
        settings={"lanes": {"cancel_time": "0s", "margin": "0s", "call_time": "1s"}},
    )

    assert compare(play(hasty)).missed > 0
