"""An hour of everything at once: `python -m tests.benchmarks.soak [--minutes N | --smoke]`.

Calls of all kinds, callers who leave, callers who send nonsense, an upstream that
refuses, resets and breaks off; and every few seconds a look at the memory, open
files, tasks and threads of the proxy. Told are the slope of its memory after the
warm-up, what is left once the traffic has ended, and every answer that the faults
do not explain. The exit code is 1 if anything is left over or unexplained.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Final

import aiohttp

from proxy.sandbox import HttpFault, SandboxSettings
from proxy.sandbox import Running as Provider
from tests.e2e.processes import KEY, MODEL, Proxy, body_of, proxy_and_provider

WARM_UP: Final = 0.5
"""The share of the time after which the memory's slope is taken: until then the stores' caches
of pages fill, of 8 MB each."""

STEADY_MB_PER_HOUR: Final = 5.0
"""A slope that half an hour cannot tell from none: what the collector lets wait comes and goes."""

REFUSED: Final = 503
"""What the upstream says when it is told to refuse; nothing else of ours says it here."""

PROVIDER: Final = SandboxSettings(latency_s=0.02, stream_pause_s=0.002, turnaround_s=0.5)

OPEN: Final = ("filling", "sealed", "submitting", "in_progress", "cancelling")
"""The states of batches whose jobs have no answer yet."""

BROKEN: Final = -1
"""The connection broke: the faults do that, and so does who leaves."""


@dataclass(frozen=True)
class Kind:
    """One kind of caller: how often it calls, and what answers it can be given."""

    name: str
    per_s: float
    call: Callable[["Scene"], Awaitable[int]]
    allowed: frozenset[int]


@dataclass
class Scene:
    """The proxy, who calls it, and what came of it."""

    proxy: Proxy
    http: aiohttp.ClientSession
    chance: random.Random
    seen: Counter[tuple[str, int]] = field(default_factory=Counter)
    longest_s: dict[str, float] = field(default_factory=dict)
    """How long the slowest call of each kind took."""

    async def post(
        self, body: dict[str, object], *, leave_after: float | None = None, **headers: str
    ) -> int:
        """Send a chat call; return its status, or that it broke."""
        given = {"Authorization": f"Bearer {KEY}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        url = f"{self.proxy.base_url}/v1/chat/completions"
        try:
            async with (
                asyncio.timeout(leave_after),
                self.http.post(url, json=body, headers=given) as answer,
            ):
                await answer.read()
                return answer.status
        except (TimeoutError, aiohttp.ClientError):
            return BROKEN

    def prompt(self) -> dict[str, object]:
        return body_of(f"soak {self.chance.random()}", model=MODEL)


async def interactive(scene: Scene) -> int:
    return await scene.post(scene.prompt())


async def stream(scene: Scene) -> int:
    return await scene.post(scene.prompt() | {"stream": True})


async def leaves(scene: Scene) -> int:
    patience = scene.chance.uniform(0.0005, 0.01)
    return await scene.post(scene.prompt() | {"stream": True}, leave_after=patience)


async def defers(scene: Scene) -> int:
    return await scene.post(scene.prompt(), X_Deferrable="job")


async def waits(scene: Scene) -> int:
    return await scene.post(scene.prompt(), X_Deferrable="wait")


async def waits_and_leaves(scene: Scene) -> int:
    return await scene.post(scene.prompt(), leave_after=0.3, X_Deferrable="wait")


async def lists(scene: Scene) -> int:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with scene.http.get(f"{scene.proxy.base_url}/v1/jobs?limit=20", headers=headers) as page:
        await page.read()
        return page.status


async def nonsense(scene: Scene) -> int:
    return await scene.post({"model": 7}, X_Deferrable="perhaps")


async def half_a_head(scene: Scene) -> int:
    host, _, port = scene.proxy.base_url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 10\r\n")
    await writer.drain()
    writer.transport.abort()
    return BROKEN


UPSTREAM: Final = frozenset({200, REFUSED, BROKEN, 502})
KINDS: Final = (
    Kind("interactive", 20, interactive, UPSTREAM),
    Kind("stream", 5, stream, UPSTREAM),
    Kind("leaves", 3, leaves, UPSTREAM),
    Kind("defers", 8, defers, frozenset({202})),
    # A job may be called directly in the end, and be refused for good.
    Kind("waits", 2, waits, frozenset({200, REFUSED})),
    Kind("waits, leaves", 2, waits_and_leaves, frozenset({200, BROKEN})),
    Kind("lists", 1, lists, frozenset({200})),
    Kind("nonsense", 1, nonsense, frozenset({400})),
    Kind("half a head", 1, half_a_head, frozenset({BROKEN})),
)

QUICK_FAULTS: Final = (
    HttpFault(action="status", status=REFUSED, path="/v1/chat/*", count=3),
    HttpFault(action="reset_before", path="/v1/chat/*", count=2),
    HttpFault(action="truncate", path="/v1/chat/*", after_bytes=40, count=2),
)
SLOW_FAULTS: Final = (
    # From these a batch recovers within its retries' pauses, some of them half a minute; and
    # after a create without an answer, a list of thousands of batches is searched.
    HttpFault(action="status", status=500, path="/v1/batches*", count=2),
    HttpFault(action="reset_after", path="/v1/batches", method="POST"),
    HttpFault(action="truncate", path="/v1/files/*/content", after_bytes=500),
)


@dataclass(frozen=True)
class Footprint:
    """What the proxy holds at one moment."""

    at_s: float
    memory_mb: float
    """Its own, that backs no file: of what it shares with others, its share depends on how many
    they are just now."""

    files: int
    tasks: int
    threads: int

    def exceeds(self, other: "Footprint") -> list[str]:
        """Return what there is more of than before, beyond what pools keep."""
        grown = []
        for name, slack in (("files", 16), ("tasks", 8), ("threads", 4)):
            before, now = getattr(other, name), getattr(self, name)
            if now > before + slack:
                grown.append(f"{name}: {before} before, {now} after")
        return grown


async def footprint(proxy: Proxy, at_s: float) -> Footprint:
    assert proxy.process is not None
    folder = Path(f"/proc/{proxy.process.pid}")
    rollup = (folder / "smaps_rollup").read_text().splitlines()
    (anonymous,) = [line for line in rollup if line.startswith("Anonymous:")]
    return Footprint(
        at_s=at_s,
        memory_mb=int(anonymous.split()[1]) / 1024,
        files=len(list((folder / "fd").iterdir())),
        tasks=int(await proxy.metric("offramp_tasks")),
        threads=len(list((folder / "task").iterdir())),
    )


@dataclass(frozen=True)
class Plan:
    """How long to go on, and how roughly."""

    seconds: float
    slow_faults: bool = True
    rest_s: float = 300
    """After the last job, at most: connections to an upstream are kept for half a minute, and
    what nobody waits for, such as searches for twins, takes its time."""


SMOKE: Final = Plan(4, slow_faults=False, rest_s=1)


async def soak(folder: Path, plan: Plan) -> tuple[Scene, list[Footprint]]:
    """Let everybody call for so long; return what they saw and what the proxy held.

    The first look is before the first call, the last one after all have ended.
    """
    seconds, look_s = plan.seconds, max(1.0, plan.seconds / 120)
    changes = {"retention": {"results": "1m"}, "log": {"level": "info"}}
    async with (
        proxy_and_provider(folder, provider_settings=PROVIDER, changes=changes) as (
            proxy,
            provider,
        ),
        # Nobody gives up by itself: who is held must be answered in the end.
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1000), timeout=aiohttp.ClientTimeout(total=None)
        ) as http,
    ):
        scene = Scene(proxy, http, random.Random(1))
        # The first call of each kind loads what is loaded when it is needed.
        for kind in KINDS:
            await kind.call(scene)
        looks = [await footprint(proxy, 0)]
        clock = asyncio.get_running_loop().time
        began = clock()
        async with asyncio.TaskGroup() as tasks:
            for kind in KINDS:
                tasks.create_task(_call_on(scene, kind, until=began + seconds))
            breaking = [(QUICK_FAULTS, 5.0), *([(SLOW_FAULTS, 20.0)] if plan.slow_faults else [])]
            for faults, every_s in breaking:
                until = began + seconds
                tasks.create_task(_break_on(provider, scene.chance, faults, every_s, until))
            while (left := began + seconds - clock()) > 0:
                await asyncio.sleep(min(look_s, left))
                looks.append(await footprint(proxy, clock() - began))
        provider.faults.clear()
        await _end(scene)
        resting_until = clock() + plan.rest_s
        last = await footprint(proxy, clock() - began)
        while last.exceeds(looks[0]) and clock() < resting_until:
            await asyncio.sleep(look_s)
            last = await footprint(proxy, clock() - began)
        return scene, [*looks, last]


async def _call_on(scene: Scene, kind: Kind, *, until: float) -> None:
    clock = asyncio.get_running_loop().time
    async with asyncio.TaskGroup() as tasks:

        async def one() -> None:
            began = clock()
            scene.seen[kind.name, await kind.call(scene)] += 1
            scene.longest_s[kind.name] = max(scene.longest_s.get(kind.name, 0), clock() - began)

        while clock() < until:
            tasks.create_task(one())
            await asyncio.sleep(scene.chance.expovariate(kind.per_s))


async def _break_on(
    provider: Provider,
    chance: random.Random,
    faults: Sequence[HttpFault],
    every_s: float,
    until: float,
) -> None:
    clock = asyncio.get_running_loop().time
    while clock() < until:
        _break(provider, chance.choice(faults))
        await asyncio.sleep(chance.expovariate(1 / every_s))


def _break(provider: Provider, fault: HttpFault) -> None:
    """Put a fault in force, unless the last of its kind has not struck yet.

    They would pile up while the provider is asked little, and then strike each question.
    """
    for armed in provider.faults.armed():
        if armed.hits == armed.fault.count:
            provider.faults.remove(armed.id)
        elif armed.fault is fault:
            return
    provider.faults.add(fault)


async def _end(scene: Scene) -> None:
    """Close the connections of callers, and wait until no job is left."""
    await scene.http.close()
    for _ in range(600):
        waits = await scene.proxy.metric("offramp_queued_jobs")
        # One that ended may wait a day for its twin, after a create that was in doubt.
        owed = [await scene.proxy.metric("offramp_batched_jobs", f'"{state}"') for state in OPEN]
        if not waits and not any(owed):
            break
        await asyncio.sleep(0.5)


def slope_mb_per_hour(looks: Sequence[Footprint]) -> float:
    """Return how fast memory grew after the warm-up: the median of all pairs of looks.

    One look at a peak moves it by nothing (Theil and Sen).
    """
    last = looks[-2].at_s if len(looks) > 2 else looks[-1].at_s
    steady = [look for look in looks[1:-1] if look.at_s >= last * WARM_UP]
    slopes = [
        (later.memory_mb - look.memory_mb) / (later.at_s - look.at_s)
        for look, later in combinations(steady, 2)
    ]
    return median(slopes) * 3600 if len(steady) > 2 else 0.0


def unexplained(scene: Scene) -> list[str]:
    """Return the answers that no fault explains."""
    allowed = {kind.name: kind.allowed for kind in KINDS}
    return [
        f"{name}: {count} answers {status}"
        for (name, status), count in sorted(scene.seen.items())
        if status not in allowed[name]
    ]


def report(scene: Scene, looks: Sequence[Footprint]) -> str:
    """Write down what was called, what was held, and how that grew."""
    lines = [f"{'calls':16}{'slowest':>8}  answers"]
    for kind in KINDS:
        seen = {status: count for (name, status), count in scene.seen.items() if name == kind.name}
        told = ", ".join(
            f"{'broken' if status == BROKEN else status}: {count}"
            for status, count in sorted(seen.items())
        )
        lines.append(f"{kind.name:16}{scene.longest_s.get(kind.name, 0):7.1f}s  {told}")
    lines += ["", f"{'after':>8}{'memory MB':>11}{'files':>8}{'tasks':>8}{'threads':>9}"]
    step = max(1, len(looks) // 12)
    lines += [
        f"{look.at_s:7.0f}s{look.memory_mb:11.1f}{look.files:8}{look.tasks:8}{look.threads:9}"
        for look in [*looks[:-1:step], looks[-1]]
    ]
    lines.append(f"\nmemory after the warm-up: {slope_mb_per_hour(looks):+.1f} MB an hour")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.soak")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--smoke", action="store_true", help="a few seconds")
    chosen = parser.parse_args(arguments)
    plan = SMOKE if chosen.smoke else Plan(chosen.minutes * 60)
    with tempfile.TemporaryDirectory() as folder:
        scene, looks = asyncio.run(soak(Path(folder), plan))
    print(report(scene, looks))
    wrong = unexplained(scene)
    if not chosen.smoke:
        wrong += looks[-1].exceeds(looks[0])
        if slope_mb_per_hour(looks) > STEADY_MB_PER_HOUR:
            wrong.append("memory grows")
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
