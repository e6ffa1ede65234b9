"""Accepts of a fleet: `python -m tests.benchmarks.fleet_rate [--smoke]`.

One instance and three of them take deferred calls by HTTP, in turns, over one Redis. All of
them, Redis and the callers share the machine's processors, so that three instances can only be
faster than one where there are processors for them. What an accept costs each of them says
more: by it one sees how many instances a Redis carries.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

from proxy.stores.vault import Vault
from tests.benchmarks.deferred import CONNECTIONS, REQUEST, configured, running
from tests.benchmarks.fleet_growth import own_cpu_s, redis_cpu_s
from tests.benchmarks.load import answers, cpu_s
from tests.helpers.redis_server import RedisServer, redis_server

INSTANCES: Final = 3


@dataclass(frozen=True)
class Size:
    """How much is done."""

    accepts: int = 4_000
    rounds: int = 5


SMOKE: Final = Size(accepts=192, rounds=1)


@dataclass(frozen=True)
class Instance:
    """One that runs."""

    pid: int
    port: int


async def measure(size: Size) -> dict[str, float]:
    """Return every number by its name."""
    with tempfile.TemporaryDirectory() as name, redis_server(Path(name)) as server:
        async with fleet(Path(name), server) as instances:
            parts = {"one": instances[:1], "three": instances}
            rounds: dict[str, list[Mapping[str, float]]] = {part: [] for part in parts}
            for number in range(size.rounds + 1):
                for part, some in parts.items():
                    measured = await _round(some, server, size.accepts)
                    if number > 0:  # The first round warms up.
                        rounds[part].append(measured)
    numbers = {
        f"{part}_{what}": median(one[what] for one in its)
        for part, its in rounds.items()
        for what in its[0]
    }
    numbers["three_of_one"] = numbers["three_per_s"] / numbers["one_per_s"]
    numbers["carries"] = numbers["three_instance_us"] / numbers["three_redis_us"]
    return numbers


@asynccontextmanager
async def fleet(folder: Path, server: RedisServer) -> AsyncIterator[Sequence[Instance]]:
    """Run the instances while the block runs."""
    Vault.load_or_create(folder / "key")
    async with AsyncExitStack() as stack:
        programs = []
        for number in range(INSTANCES):
            own = folder / f"instance-{number}"
            own.mkdir()
            file = configured(own)
            shared = {"store": server.url, "secret_key_file": str(folder / "key")}
            file.write_text(json.dumps(json.loads(file.read_text()) | shared))
            words = ("-m", "proxy", "serve", "--config", str(file))
            programs.append(await stack.enter_async_context(running(own, *words)))
        instances = []
        for program in programs:
            port = urlsplit(await program.address()).port
            assert port is not None
            instances.append(Instance(program.pid, port))
        yield instances


async def _round(
    instances: Sequence[Instance], server: RedisServer, accepts: int
) -> Mapping[str, float]:
    """Let the instances share so many calls; return their rate, and what each cost."""
    share, each = accepts // len(instances), CONNECTIONS // len(instances)
    begun, callers, redis = perf_counter(), own_cpu_s(), redis_cpu_s(server)
    used = sum(cpu_s(one.pid) for one in instances)
    async with asyncio.TaskGroup() as tasks:
        for one in instances:
            address = ("127.0.0.1", one.port)
            tasks.create_task(answers(address, REQUEST, connections=each, count=share, status=202))
    seconds, done = perf_counter() - begun, share * len(instances)
    return {
        "per_s": done / seconds,
        "instance_us": (sum(cpu_s(one.pid) for one in instances) - used) / done * 1e6,
        "redis_us": (redis_cpu_s(server) - redis) / done * 1e6,
        "callers_us": (own_cpu_s() - callers) / done * 1e6,
    }


def table(numbers: Mapping[str, float]) -> str:
    """Return a line for each number of instances, and what follows from them."""
    lines = [f"{'instances':>10}{'accepts/s':>12}{'instance':>12}{'Redis':>8}{'callers':>10}, us"]
    for part in ("one", "three"):
        rate, *costs = (
            numbers[f"{part}_{what}"] for what in ("per_s", "instance_us", "redis_us", "callers_us")
        )
        instance, redis, callers = costs
        lines.append(f"{part:>10}{rate:>12.0f}{instance:>12.0f}{redis:>8.0f}{callers:>10.0f}")
    lines.append(f"three accept {numbers['three_of_one']:.2f} of what one does, on this machine")
    lines.append(f"by cost, one Redis carries {numbers['carries']:.1f} instances with a core each")
    return "\n".join(lines)


def main(words: Sequence[str]) -> None:
    print(table(asyncio.run(measure(SMOKE if "--smoke" in words else Size()))))


if __name__ == "__main__":
    main(sys.argv[1:])
