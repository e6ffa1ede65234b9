"""Play the five days and print how they went: `python -m tests.simulation.day`.

--seeds 4          how many days of each kind
--first 1000       the first seed; the planner was tuned on those below 1000
--only "calm day"  one kind
"""

import argparse

import structlog

from tests.simulation.day.report import HEADINGS, row
from tests.simulation.day.scenarios import AIMS, day
from tests.simulation.day.score import score


def main() -> None:
    """Print one row per kind of day, over all its seeds."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.day")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--only", choices=AIMS)
    arguments = parser.parse_args()
    structlog.configure(processors=[_drop])
    print(HEADINGS)
    for name in [arguments.only] if arguments.only else AIMS:
        seeds = range(arguments.first, arguments.first + arguments.seeds)
        scores = [score(day(name, seed)) for seed in seeds]
        print(row(name, scores), flush=True)


def _drop(*_: object) -> str:
    raise structlog.DropEvent


if __name__ == "__main__":
    main()
