"""Every client, through a real proxy: `python -m tests.callers [WORD...]`.

`deploy/setup.sh callers` installs them. A whole run is kept in `results.json`, and the README's
table is made of it; with words, only clients whose names hold one of them are played, and
nothing is kept.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.callers.clients import CLIENTS, Client
from tests.callers.record import Record
from tests.callers.run import Played, played, stage


def main(words: Sequence[str]) -> int:
    """Play, print, keep; the exit code is 1 if a scene failed."""
    chosen = [one for one in CLIENTS if not words or any(word in one.name for word in words)]
    absent = [one.name for one in chosen if not one.is_installed]
    if absent:
        print(f"not installed: {', '.join(absent)}\ninstall them by: deploy/setup.sh callers")
        return 1
    found = asyncio.run(_all(chosen))
    if not words:
        Record(time.strftime("%Y-%m-%d", time.gmtime()), found).write()
        subprocess.run([sys.executable, "-m", "tests.deploy.generated"], check=True)
    return int(any(one.failures for one in found.values()))


async def _all(clients: Sequence[Client]) -> dict[str, Played]:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        async with stage(Path(folder)) as on:
            for client in clients:
                found[client.name] = await played(on, client)
                _print(client, found[client.name])
    return found


def _print(client: Client, told: Played) -> None:
    posts, bought = sum(told.posts.values()), sum(told.bought.values())
    right = len(client.scenes) - len(told.failures)
    print(f"{client.name}: {right} of {len(client.scenes)} scenes", end="")
    print(f", {posts} POSTs, {bought} bought", flush=True)
    for scene, wrong in told.failures.items():
        print(f"    {scene}: {wrong}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
