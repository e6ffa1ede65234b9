"""What forwarding costs: `python -m tests.benchmarks.forward [--smoke] [--rounds N]`.

Callers and upstream share one core, each proxy has the other to itself. All
proxies take turns within each round, so that neighbours and the clock's speed
meet all alike; what is told is the median of the rounds, as a ratio to another
proxy of the same run. CPU time of the proxy's own process is the figure that
neighbours disturb least.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.benchmarks.forward_stage import OURS, MissingToolError, Seen, Stage, Target


@dataclass(frozen=True)
class Load:
    """One way to call, and what is counted."""

    name: str
    query: str = ""
    callers: int = 64
    rate: float = 0
    seconds: float = 2.0
    tls: bool = False


LOADS: Final = (
    Load("JSON"),
    Load("JSON at 200/s", callers=32, rate=200),
    Load("SSE", "?chunks=50&gap=20", callers=300, rate=100, seconds=3),
    Load("1,000 slow", "?delay=200", callers=1000, seconds=3),
    Load("TLS", callers=16, tls=True),
)
SMOKE: Final = (
    Load("JSON", callers=4, seconds=0.2),
    Load("JSON at 200/s", callers=4, rate=50, seconds=0.2),
    Load("SSE", "?chunks=3&gap=5", callers=4, rate=40, seconds=0.3),
    Load("1,000 slow", "?delay=20", callers=40, seconds=0.3),
    Load("TLS", callers=4, seconds=0.2, tls=True),
)
PROXIES: Final = ("nginx", "go", "naive", *OURS)

Runs = dict[tuple[str, str], list[Seen]]


def cpu_per_call(seen: Seen) -> float:
    return seen.cpu_s * 1e6 / max(seen.answered, 1)


def calls_per_core(seen: Seen) -> float:
    return 1e6 / max(cpu_per_call(seen), 1e-9)


def cpu_per_chunk(seen: Seen) -> float:
    return seen.cpu_s * 1e6 / max(seen.chunks, 1)


def core_share(seen: Seen) -> float:
    return seen.cpu_s / seen.seconds


def share_of_slow_calls(seen: Seen) -> float:
    """Return the share of a core that 1,000 calls of 200 ms each take, all at once.

    From the CPU of a call: on a busy machine so many do not come to pass.
    """
    return cpu_per_call(seen) / 1e6 * 1000 / 0.2


def latency(seen: Seen) -> float:
    return seen.latency_p50_us


def chunk_delay(seen: Seen) -> float:
    return seen.delay_p50_us


@dataclass(frozen=True)
class Ratio:
    """A figure of ours against another's; `added` takes a direct call's off both.

    Less is better, but where `more` says otherwise.
    """

    what: str
    load: str
    figure: Callable[[Seen], float]
    against: str | None
    floor: float
    aim: float
    added: bool = False
    more: bool = False

    def met(self, found: float, asked: float) -> bool:
        """Tell whether a ratio is as good as what is asked."""
        return found >= asked if self.more else found <= asked


RATIOS: Final = (
    Ratio("JSON, CPU per call", "JSON", cpu_per_call, "naive", 0.50, 0.33),
    Ratio("JSON, calls/s per core", "JSON", calls_per_core, "go", 0.7, 1.2, more=True),
    Ratio("added p50 at 200/s", "JSON at 200/s", latency, "nginx", 1.8, 1.4, added=True),
    Ratio("SSE, CPU per chunk", "SSE", cpu_per_chunk, "naive", 0.75, 0.5),
    Ratio("SSE, chunk delay p50", "SSE", chunk_delay, "nginx", 2.5, 1.5),
    Ratio("TLS upstream, CPU per call", "TLS", cpu_per_call, "naive", 0.6, 0.4),
    Ratio("1,000 slow calls, share of a core", "1,000 slow", share_of_slow_calls, None, 0.5, 0.3),
    # The same, whatever core it is: where the naive one takes 190 µs for a call, half a core
    # is 100 µs for each of 5,000 a second.
    Ratio("1,000 slow calls, CPU per call", "1,000 slow", cpu_per_call, "naive", 0.53, 0.32),
)


@dataclass(frozen=True)
class Idle:
    """What the service takes before its first call."""

    name: str
    pss_mb: float
    ready_s: float

    def lines(self) -> list[str]:
        """Return its rows of the table."""
        return [
            f"{what:36}{self.name:9}{floor:7.2f}{aim:7.2f}{found:9.2f}"
            + ("+" if found <= aim else " " if found <= floor else "!")
            for what, found, floor, aim in (
                ("idle memory (PSS), MB", self.pss_mb, 60, 35),
                ("ready to accept, s", self.ready_s, 1, 0.4),
            )
        ]


def measure(stage: Stage, loads: tuple[Load, ...], rounds: int) -> tuple[Runs, list[Idle]]:
    """Let each proxy carry each load, in turns; tell of ours what they take idle."""
    plain = [stage.upstream, *_proxies(stage, tls=False)]
    idle = [
        Idle(one.name, one.pss_mb(), stage.ready_s[one.pid])
        for one in plain
        if one.name in OURS and one.pid is not None
    ]
    secured = list(_proxies(stage, tls=True))
    runs: Runs = {}
    for target in (*plain, *secured):
        stage.run(target, "", seconds=0.3, callers=8, rate=0)
    for _ in range(rounds):
        for load in loads:
            for target in secured if load.tls else plain:
                seen = stage.run(
                    target, load.query, seconds=load.seconds, callers=load.callers, rate=load.rate
                )
                runs.setdefault((load.name, target.name), []).append(seen)
    return runs, idle


def _proxies(stage: Stage, *, tls: bool) -> Iterator[Target]:
    for kind in PROXIES:
        target = stage.proxy(kind, tls=tls)
        if target is not None:
            yield target


def table(runs: Runs) -> str:
    """Write down every figure, then the ratios with what is asked of them.

    `+` marks a ratio that meets its aim, `!` one that misses its floor.
    """
    names = ("CPU µs/call", "CPU µs/chunk", "calls/s", "per core", "p50 µs", "chunk p50", "core")
    lines = [f"{'load':15}{'proxy':9}" + "".join(f"{name:>13}" for name in names)]
    for (load, proxy), seen in runs.items():
        figures = {
            figure: median(map(figure, seen))
            for figure in (cpu_per_call, cpu_per_chunk, latency, chunk_delay, core_share)
        }
        rate = median(one.answered / one.seconds for one in seen)
        chunked = any(one.chunks for one in seen)
        per_core = 1e6 / figures[cpu_per_call] if figures[cpu_per_call] else 0
        per_chunk = f"{figures[cpu_per_chunk]:13.1f}" if chunked else f"{'':13}"
        lines.append(
            f"{load:15}{proxy:9}{figures[cpu_per_call]:13.1f}{per_chunk}{rate:13.0f}"
            f"{per_core:13.0f}{figures[latency]:13.0f}"
            f"{figures[chunk_delay]:13.0f}{figures[core_share]:13.2f}"
        )
    lines += ["", f"{'ratio':36}{'against':9}{'floor':>7}{'aim':>7}"]
    lines[-1] += "".join(f"{name:>9}" for name in OURS)
    for ratio in RATIOS:
        against = ratio.against or "-"
        row = f"{ratio.what:36}{against:9}{ratio.floor:7.2f}{ratio.aim:7.2f}"
        lines.append(row + "".join(f"{_told(ratio, ours, runs):>9}" for ours in OURS))
    return "\n".join(lines)


def _told(ratio: Ratio, ours: str, runs: Runs) -> str:
    found = _found(ratio, ours, runs)
    if found is None:
        return "- "
    missed = " " if ratio.met(found, ratio.floor) else "!"
    return f"{found:.2f}{'+' if ratio.met(found, ratio.aim) else missed}"


def _found(ratio: Ratio, ours: str, runs: Runs) -> float | None:
    """Return the median over the rounds of what ours is to the other in the same round."""
    own = runs[ratio.load, ours]
    if ratio.against is None:
        return median(map(ratio.figure, own))
    other = runs.get((ratio.load, ratio.against))
    if other is None:
        return None
    direct = runs[ratio.load, "direct"] if ratio.added else [None] * len(own)
    found = []
    for one, another, base in zip(own, other, direct, strict=True):
        off = ratio.figure(base) if base is not None else 0.0
        below = ratio.figure(another) - off
        if below > 0:
            found.append((ratio.figure(one) - off) / below)
    return median(found) if found else None


def errors(runs: Runs) -> list[str]:
    """Return what went wrong: a call without an answer, or nothing answered at all."""
    return [
        f"{load}, {proxy}: {sum(one.errors for one in seen)} errors"
        for (load, proxy), seen in runs.items()
        if any(one.errors or not one.answered for one in seen)
    ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.forward")
    parser.add_argument("--smoke", action="store_true", help="a few seconds; only errors count")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    loads, rounds = (SMOKE, 1) if chosen.smoke else (LOADS, chosen.rounds)
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        try:
            stage = Stage(Path(work), stack)
        except MissingToolError as exc:
            print(exc, file=sys.stderr)
            return 2
        runs, idle = measure(stage, loads, rounds)
    print(table(runs))
    print("\n".join(line for one in idle for line in one.lines()))
    wrong = errors(runs)
    print("\n".join(wrong), file=sys.stderr)
    # Those of others are told, and nobody's fault here.
    return 1 if any(f", {ours}:" in line for line in wrong for ours in OURS) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
