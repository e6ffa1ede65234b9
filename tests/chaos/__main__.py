"""Hurt a fleet: `python -m tests.chaos [--seconds S] [--seed N] [--failover | --cluster]`.

Prints what goes wrong as it does, and then whether every promise was kept. The same
seed hurts in the same way.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import chaos
from tests.chaos.seeds import draw
from tests.chaos.store import Cluster, Failover, Restarted


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.chaos")
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--pause", type=float, default=0.05, help="of each caller between calls")
    store = options.add_mutually_exclusive_group()
    store.add_argument("--failover", action="store_true", help="a replica takes over")
    store.add_argument("--cluster", action="store_true", help="so it does in a cluster")
    given = options.parse_args()
    seed = given.seed or draw()
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        outcome = asyncio.run(
            chaos(
                Path(folder),
                seed=seed,
                seconds=given.seconds,
                pause_s=given.pause,
                say=print,
                make_store=Cluster if given.cluster else Failover if given.failover else Restarted,
            )
        )
    print(
        f"{outcome.faults} faults, {len(outcome.history.promised)} promised jobs of"
        f" {len(outcome.history.listed)}; seed {seed}"
    )
    for problem in outcome.problems:
        print(f"WRONG: {problem}")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
