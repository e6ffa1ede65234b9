"""What the fleet's store costs: `python -m tests.benchmarks.fleet_store [--pending N] [--smoke]`.

Accepts are compared with PING from the same client, one call for each of as many
callers, in the same run. How long Redis was held is what Redis itself noted (SLOWLOG),
for scripts and plain commands alike. The server is one of the benchmark's own.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count, islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from redis.asyncio import Redis

from proxy.core.ids import shard_for
from proxy.ports.batches import ClaimLimits
from proxy.ports.jobs import NewJob
from proxy.stores.redis import RedisStores
from proxy.stores.vault import Vault
from tests.helpers.factories import T0, IdFactory, make_batch, make_job
from tests.helpers.redis_server import RedisServer, redis_server

CALLERS: Final = 64
SLOW_US: Final = 500
"""From here on Redis notes a command: enough to find the longest."""

PROMPT: Final = (
    "You are given a support ticket and a list of categories. Answer with the one category that "
    "fits best, and nothing else. The categories are billing, login, delivery, returns, other. "
)


@dataclass(frozen=True)
class Size:
    """How much is done."""

    sample: int = 20_000
    rounds: int = 5
    batch: int = 50_000
    pending: int = 100_000


SMOKE: Final = Size(sample=200, rounds=1, batch=150, pending=300)

FLOORS: Final = {
    "accept_of_ping": ("accepts/s, of PING from the same client", 0.75, 2.0),
    "claim_ms": ("claim of the batch, ms", 200.0, 50.0),
    "claim_hold_ms": ("  longest hold of Redis meanwhile, ms", 5.0, 2.0),
    "accept_hold_ms": ("longest hold of Redis by accepts, ms", 5.0, 2.0),
    "accept_growth": ("accept with all pending, of that with 1,000", 1.3, 1.05),
    "bytes_per_job": ("memory per pending job of 2 KB, bytes", 2_500.0, 1_700.0),
}
"""What is asked: in words, the least, and the aim."""

LATER: Final = T0 + timedelta(hours=1)
_IDS: Final = IdFactory()
_NUMBERS: Final = count(1)


def body(number: int) -> bytes:
    """Return a call of 2 KB: an instruction that many share, and a text of its own."""
    text = os.urandom(450).hex()
    return (
        b'{"model":"gpt-4o-mini","messages":[{"role":"system","content":"%s"},'
        b'{"role":"user","content":"%d %s"}],"max_tokens":64}'
        % ((PROMPT * 5)[:1_000].encode(), number, text.encode())
    )


def new_jobs(many: int) -> list[NewJob]:
    base = make_job()
    news = []
    for number in islice(_NUMBERS, many):
        content, call = body(number), f"fingerprint-{number}"
        at = T0 + timedelta(microseconds=number)
        job = replace(
            base,
            id=_IDS.job(at, shard=shard_for(call)),
            accepted_at=at,
            # No two are equal, as in life: of equal ones Redis compares the members, too.
            deadline=at + timedelta(hours=26),
            fingerprint=call,
            body_bytes=len(content),
            affinity=f"{number % 50:04}",
        )
        news.append(NewJob(job=job, body=content, retry_count=0, waiter_until=at))
    return news


async def rate(many: int, work: Callable[[int], Awaitable[object]]) -> float:
    """Return how often a second `work` is done, by `CALLERS` at once."""

    async def caller(place: int) -> None:
        for number in range(place, many, CALLERS):
            await work(number)

    started = perf_counter()
    async with asyncio.TaskGroup() as group:
        for place in range(CALLERS):
            group.create_task(caller(place))
    return many / (perf_counter() - started)


async def accept_all(stores: RedisStores, news: Sequence[NewJob]) -> float:
    return await rate(len(news), lambda number: stores.jobs.accept(news[number]))


async def measure(size: Size) -> dict[str, float]:
    """Return every number by its name."""
    with tempfile.TemporaryDirectory() as name, redis_server(Path(name)) as server:
        server.admin.config_set("slowlog-log-slower-than", SLOW_US)
        server.admin.config_set("slowlog-max-len", 100_000)
        async with opened(server) as stores:
            numbers = await _accepts(stores, server, size)
            numbers |= await _growth(stores, server, size)
            numbers["accept_hold_ms"] = _hold_ms(server)
            numbers |= await _claim(stores, server, size, int(numbers["pending"]))
            numbers["claim_hold_ms"] = _hold_ms(server)
        return numbers


def _hold_ms(server: RedisServer) -> float:
    """Return how long Redis was held at its longest since the last time, outliers apart.

    One command in a thousand is left out: on a machine with other work Redis is put
    aside by the system in the midst of some.
    """
    count = sum(one["calls"] for one in server.admin.info("commandstats").values())
    held = sorted(one["duration"] for one in server.admin.slowlog_get(100_000))
    server.admin.slowlog_reset()
    server.admin.config_resetstat()
    left_out = int(count) // 1_000
    counted = held[: len(held) - left_out]
    return counted[-1] / 1e3 if counted else SLOW_US / 1e3


@asynccontextmanager
async def opened(server: RedisServer) -> AsyncIterator[RedisStores]:
    vault = Vault(keys=[b"k" * 32], hash_key=b"h" * 32)
    async with asyncio.TaskGroup() as tasks:
        stores = await RedisStores.open(server.url, vault, tasks)
        try:
            yield stores
        finally:
            await stores.aclose()


async def _accepts(stores: RedisStores, server: RedisServer, size: Size) -> dict[str, float]:
    library = Redis(host="127.0.0.1", port=server.port)
    pings, accepts = [], []
    for _ in range(size.rounds):
        pings.append(await rate(size.sample // size.rounds, lambda _: library.ping()))
        accepts.append(await accept_all(stores, new_jobs(size.sample // size.rounds)))
    await library.aclose()
    return {
        "ping_per_s": median(pings),
        "accepts_per_s": median(accepts),
        "accept_of_ping": median(accepts) / median(pings),
    }


async def _growth(stores: RedisStores, server: RedisServer, size: Size) -> dict[str, float]:
    """Fill the queue up; compare an accept then with one while few were pending."""
    server.admin.flushall()
    part = max(1, min(1_000, size.sample // size.rounds))
    await stores.jobs.accept(new_jobs(1)[0])
    before = int(server.admin.info("memory")["used_memory"])
    await accept_all(stores, new_jobs(min(1_000, size.pending)))
    few = [await accept_all(stores, new_jobs(part)) for _ in range(size.rounds)]
    done = 1 + min(1_000, size.pending) + part * size.rounds
    while done < size.pending:
        chunk = min(10_000, size.pending - done)
        await accept_all(stores, new_jobs(chunk))
        done += chunk
    many = [await accept_all(stores, new_jobs(part)) for _ in range(size.rounds)]
    done += part * size.rounds
    used = int(server.admin.info("memory")["used_memory"]) - before
    started = perf_counter()
    (head,) = await stores.batches.heads()
    return {
        "accept_growth": median(few) / median(many),
        "bytes_per_job": used / done,
        "heads_ms": (perf_counter() - started) * 1e3,
        "pending": head.count,
    }


async def _claim(
    stores: RedisStores, server: RedisServer, size: Size, pending: int
) -> dict[str, float]:
    batch = make_batch()
    await stores.batches.add(batch)
    limits = ClaimLimits(max_requests=size.batch, max_bytes=10**12)
    started, calls, complete = perf_counter(), 0, False
    while not complete:
        claimed = await stores.batches.claim(batch.key, batch.id, limits, ready_at=LATER)
        complete, calls = claimed.complete, calls + 1
    seconds = perf_counter() - started
    assert claimed.count == min(size.batch, pending), claimed
    stats = server.admin.info("commandstats")
    busy_us = sum(one["usec"] for name, one in stats.items() if "evalsha" in name)
    started, lines = perf_counter(), 0
    async for page in stores.batches.lines(batch.id):
        lines += len(page)
    assert lines == claimed.count
    return {
        "claim_ms": seconds * 1e3,
        "claim_redis_ms": busy_us / 1e3,
        "claim_calls": calls,
        "lines_s": perf_counter() - started,
    }


def table(numbers: dict[str, float]) -> str:
    """Return what is asked and what is, and every other number below."""
    lines = [f"{'':54}{'measured':>10}{'floor':>8}{'aim':>8}"]
    for name, (what, floor, aim) in FLOORS.items():
        lines.append(f"{what:54}{numbers[name]:>10.2f}{floor:>8g}{aim:>8g}")
    rest = [f"{name} {number:.5g}" for name, number in numbers.items() if name not in FLOORS]
    return "\n".join([*lines, "", ", ".join(rest)])


def main(words: list[str]) -> None:
    size = SMOKE if "--smoke" in words else Size()
    if "--pending" in words:
        size = replace(size, pending=int(words[words.index("--pending") + 1]))
    print(table(asyncio.run(measure(size))))


if __name__ == "__main__":
    main(sys.argv[1:])
