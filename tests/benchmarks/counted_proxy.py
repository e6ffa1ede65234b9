"""The proxy, counting the calls of functions that it makes: a measure no neighbour disturbs.

Run as a program with a configuration file it prints its port, and after each line of
its input how many functions its event loop's thread has called since the one before.
"""

import asyncio
import cProfile
import sys
from pathlib import Path
from pstats import Stats
from urllib.parse import urlsplit

from proxy.app import serving
from proxy.runtime import run
from proxy.settings import load
from proxy.telemetry import set_up_logging


async def main(config: Path) -> None:
    async with serving(load(config).settings) as running:
        print(urlsplit(running.base_url).port, flush=True)
        while True:
            profile = cProfile.Profile()
            profile.enable()
            line = await asyncio.to_thread(sys.stdin.readline)
            profile.disable()
            if not line:
                return
            print(Stats(profile).total_calls, flush=True)  # type: ignore[attr-defined]


if __name__ == "__main__":
    set_up_logging(level="info", form="json")
    # As it runs in earnest: Python's own loop calls some eighty functions more.
    run(main(Path(sys.argv[1])), "uvloop")
