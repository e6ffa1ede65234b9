"""What an accept costs as the queue grows: `python -m tests.benchmarks.fleet_growth [N ...]`.

At each number of pending jobs some thousand more are accepted, and their cost is the time
that processors spent on them: that of Redis' one thread, and ours. Other work of the
machine makes both a little dearer, and the wall clock, by which Redis counts its own
commands, a lot. So times of commands are shown as shares of all: which one grows.
"""

import asyncio
import resource
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from proxy.stores.redis import RedisStores
from tests.benchmarks.fleet_store import accept_all, new_jobs, opened
from tests.helpers.redis_server import RedisServer, redis_server

STAGES: Final = (1_000, 10_000, 78_000, 112_000)
"""Behind 65,536 the hash tables of all shards are being doubled; behind 98,304 they have been."""

ROUNDS: Final = 3
SAMPLE: Final = 1_000
CHUNK: Final = 5_000
"""Jobs that are made before they are accepted, in memory meanwhile."""


@dataclass(frozen=True)
class Cost:
    """Of one accept, in microseconds of a processor."""

    pending: int
    redis_us: float
    client_us: float
    commands: dict[str, float]
    """Of the time that Redis spent within commands: its share by their name."""


def own_cpu_s() -> float:
    """Return how long processors worked for this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def redis_cpu_s(server: RedisServer) -> float:
    """Return how long a processor worked for the thread that executes commands."""
    used = server.admin.info("cpu")
    return float(used["used_cpu_user_main_thread"]) + float(used["used_cpu_sys_main_thread"])


async def costs(stages: Sequence[int], *, sample: int = SAMPLE) -> AsyncIterator[Cost]:
    """Yield what an accept costs with each number of pending jobs, fewest first."""
    with tempfile.TemporaryDirectory() as name, redis_server(Path(name)) as server:
        async with opened(server) as stores:
            # Scripts are read and connections made by the first.
            await accept_all(stores, new_jobs(100))
            server.admin.flushdb()
            pending = 0
            for stage in sorted(stages):
                while pending < stage:
                    part = min(CHUNK, stage - pending)
                    await accept_all(stores, new_jobs(part))
                    pending += part
                yield await _cost(stores, server, stage, sample)
                pending += ROUNDS * sample


async def _cost(stores: RedisStores, server: RedisServer, pending: int, sample: int) -> Cost:
    server.admin.config_resetstat()
    redis, client = [], []
    for _ in range(ROUNDS):
        news = new_jobs(sample)
        ours, theirs = own_cpu_s(), redis_cpu_s(server)
        await accept_all(stores, news)
        client.append(own_cpu_s() - ours)
        redis.append(redis_cpu_s(server) - theirs)
    stats = server.admin.info("commandstats")
    spent = {
        name.removeprefix("cmdstat_"): one["usec"]
        for name, one in stats.items()
        if one["calls"] >= ROUNDS * sample
    }
    # Jobs share calls of the script, and what its own commands took is part of what it took.
    spent.pop("evalsha", None)
    whole = max(1, stats["cmdstat_evalsha"]["usec"])
    return Cost(
        pending,
        redis_us=median(redis) / sample * 1e6,
        client_us=median(client) / sample * 1e6,
        commands={one: usec / whole for one, usec in sorted(spent.items())},
    )


async def _show(stages: Sequence[int]) -> None:
    print(f"{'pending':>10}{'Redis, us':>12}{'client, us':>12}  of Redis' time in commands")
    first: Cost | None = None
    async for one in costs(stages):
        first = first or one
        shares = ", ".join(f"{name} {share:.0%}" for name, share in one.commands.items())
        print(
            f"{one.pending:>10,}{one.redis_us:>12.0f}{one.client_us:>12.0f}  {shares}; "
            f"{one.redis_us / first.redis_us:.2f} of the first",
            flush=True,
        )


def main(words: Sequence[str]) -> None:
    asyncio.run(_show([int(word) for word in words] or STAGES))


if __name__ == "__main__":
    main(sys.argv[1:])
