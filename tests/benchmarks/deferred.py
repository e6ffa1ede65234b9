"""What deferring costs: `python -m tests.benchmarks.deferred [--smoke] [--pending N]`.

Each number stands beside what is asked of it, and rates beside those of the least
that could be done on the same machine in the same run. The proxy, the static server
and the instance that carries the batch are processes of their own; this one calls
them, and is their provider.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import urlsplit

from tests.benchmarks.carrier import BODY, PROMPT
from tests.benchmarks.load import answers, cpu_s
from tests.benchmarks.stand_in import StandIn

CONNECTIONS: Final = 64
HEAD: Final = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    b"Authorization: Bearer sk-benchmark\r\nContent-Type: application/json\r\n"
    b"Accept: application/json\r\nUser-Agent: OpenAI/Python 3.3.0\r\n"
    b"X-Stainless-Lang: python\r\nX-Stainless-Retry-Count: 0\r\nX-Deferrable: job\r\n"
    b"Content-Length: %d\r\n\r\n"
)
REQUEST: Final = HEAD % len(BODY) + BODY


@dataclass(frozen=True)
class Size:
    """How much is done."""

    accepts: int = 8_000
    counted: int = 2_000
    rounds: int = 5
    batch: int = 50_000
    pending: int = 100_000


SMOKE: Final = Size(accepts=128, counted=128, rounds=1, batch=120, pending=64)


@dataclass(frozen=True)
class Asked:
    """What a number should be: at least so much, or at most if `most`."""

    name: str
    what: str
    floor: float
    aim: float
    most: bool = True


ASKED: Final = (
    Asked("accept_rate", "durable accepts/s, of a static answer's", 0.5, 0.65, most=False),
    Asked("claim_ms", "claim of the batch, ms", 200, 50),
    Asked("claim_hold_ms", "  longest wait of a write beside it, ms", 5, 2),
    Asked("upload_s", "build and upload, s", 2, 0.5),
    Asked("upload_mb", "  memory growth, MB", 32, 10),
    Asked("ingest_s", "results, s", 4, 2),
    Asked("ingest_mb", "  memory growth, MB", 32, 10),
    Asked("ingest_stall_ms", "  longest stall of the event loop, ms", 20, 5),
    Asked("accept_growth", "accept latency with many pending, of that with 1,000", 1.3, 1.05),
)


async def measure(size: Size) -> dict[str, float]:
    """Return every number by its name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbers = await accepts(folder, size) | await batch(folder, size)
        numbers["accept_calls"] = await calls(folder, size)
    numbers["accept_growth"] = numbers["accept_many_us"] / numbers["accept_few_us"]
    return numbers


async def accepts(folder: Path, size: Size) -> dict[str, float]:
    """Compare deferred calls with calls that are answered without doing anything."""
    (folder / "static").mkdir()
    async with (
        running(folder / "static", "-m", "tests.benchmarks.static_server") as static,
        running(folder, "-m", "proxy", "serve", "--config", str(configured(folder))) as proxy,
    ):
        port = urlsplit(await proxy.address()).port
        assert port is not None
        ports = {static.pid: int(await static.line()), proxy.pid: port}
        rates: dict[int, list[float]] = {static.pid: [], proxy.pid: []}
        cpu = dict.fromkeys(rates, 0.0)
        for number in range(size.rounds + 1):
            for pid, port in ports.items():
                before = cpu_s(pid)
                seconds = await answers(
                    ("127.0.0.1", port),
                    REQUEST,
                    connections=CONNECTIONS,
                    count=size.accepts,
                    status=202,
                )
                if number > 0:  # The first round warms up.
                    rates[pid].append(size.accepts / seconds)
                    cpu[pid] += cpu_s(pid) - before
        each_us = 1e6 / (size.accepts * size.rounds)
        return {
            "static_per_s": median(rates[static.pid]),
            "accepts_per_s": median(rates[proxy.pid]),
            "accept_rate": median(rates[proxy.pid]) / median(rates[static.pid]),
            "static_cpu_us": cpu[static.pid] * each_us,
            "accept_cpu_us": cpu[proxy.pid] * each_us,
        }


async def calls(folder: Path, size: Size) -> float:
    """Return how many functions an accept calls: the same on any machine, however busy."""
    (folder / "counted").mkdir()
    words = ("-m", "tests.benchmarks.counted_proxy", str(configured(folder / "counted")))
    async with running(folder / "counted", *words) as proxy:
        address, counted = ("127.0.0.1", int(await proxy.line())), 0
        for _ in range(2):  # The first round warms up.
            proxy.tell()
            await proxy.line()
            await answers(address, REQUEST, connections=CONNECTIONS, count=size.counted, status=202)
            proxy.tell()
            counted = int(await proxy.line())
    return counted / size.counted


async def batch(folder: Path, size: Size) -> dict[str, float]:
    """Carry one batch from its claim to the last of its results."""
    provider = StandIn(answer)
    numbers: dict[str, float] = {}
    async with provider.serve() as url:
        words = ("-m", "tests.benchmarks.carrier", str(folder), url)
        async with running(folder, *words, str(size.batch), str(size.pending)) as carrier:
            for _ in ("claim", "upload"):
                numbers |= json.loads(await carrier.line())
            assert provider.prepare() == size.batch
            carrier.tell()
            for _ in ("ingest", "accept"):
                numbers |= json.loads(await carrier.line())
            assert await carrier.process.wait() == 0
    return numbers


def answer(number: int) -> bytes:
    """Return an answer of 1.5 KB."""
    text = f"{number} {PROMPT}"[:1_200]
    return json.dumps(
        {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 1_795_435_200,
            "model": "gpt-4o-mini-2024-07-18",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 812,
                "completion_tokens": 400,
                "total_tokens": 1_212,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        }
    ).encode()


@dataclass(frozen=True)
class Program:
    """A Python program that runs, and where what it complains of is written."""

    process: asyncio.subprocess.Process
    errors: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    async def line(self) -> bytes:
        """Return its next line of output."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line, "it ended"
        return line

    def tell(self) -> None:
        """Send it an empty line."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    async def address(self) -> str:
        """Return where a proxy listens, as it logs it once it does."""
        for _ in range(3_000):
            for line in self.errors.read_bytes().splitlines():
                if b'"instance.started"' in line:
                    return str(json.loads(line)["listen"])
            assert self.process.returncode is None, "it ended"
            await asyncio.sleep(0.02)
        raise AssertionError("it did not start")


@asynccontextmanager
async def running(folder: Path, *words: str) -> AsyncIterator[Program]:
    """Run a Python program while the block runs."""
    pipe, errors = asyncio.subprocess.PIPE, folder / "errors.txt"
    with errors.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdin=pipe, stdout=pipe, stderr=file
        )
        try:
            yield Program(process, errors)
        except BaseException:
            sys.stderr.write(errors.read_text(errors="replace")[-4_000:])
            raise
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def configured(folder: Path) -> Path:
    """Write a configuration in which nothing happens but what callers ask for."""
    file = folder / "offramp.yaml"
    file.write_text(
        json.dumps(
            {
                "listen": "127.0.0.1:0",
                "admin": {"listen": "127.0.0.1:0"},
                "store": f"sqlite://{folder}/accepts.db",
                "upstreams": {"openai": {"dialect": "openai", "base_url": "http://127.0.0.1:9"}},
                "batching": {"linger": "1h", "linger_max": "1h"},
                "deferral": {"max_unverified_jobs": 10**7, "max_unverified_bytes": "64GB"},
                "log": {"format": "json"},
            }
        )
    )
    return file


def table(numbers: Mapping[str, float]) -> str:
    """Return what is asked and what is, and every other number below."""
    lines = [f"{'':54}{'measured':>10}{'floor':>8}{'aim':>8}"]
    for asked in ASKED:
        measured = numbers[asked.name]
        lines.append(f"{asked.what:54}{measured:>10.2f}{asked.floor:>8g}{asked.aim:>8g}")
    named = {asked.name for asked in ASKED}
    rest = [f"{name} {number:.4g}" for name, number in numbers.items() if name not in named]
    return "\n".join([*lines, "", ", ".join(rest)])


def main(words: list[str]) -> None:
    size = SMOKE if "--smoke" in words else Size()
    if "--pending" in words:
        size = replace(size, pending=int(words[words.index("--pending") + 1]))
    print(table(asyncio.run(measure(size))))


if __name__ == "__main__":
    main(sys.argv[1:])
