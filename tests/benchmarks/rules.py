"""What rules cost: `python -m tests.benchmarks.rules [CALLS]`.

Forwarding with 200 rules on headers is compared with forwarding without any: CPU
of the proxy's process alone, in rounds that take turns, so that neighbours and
the clock's speed meet both alike. Rules on the body are timed by themselves,
with the body already parsed; over the wire they cost that parse as well.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

from policies.headers import read_headers
from policies.load import load_policies
from policies.model import CallFacts
from policies.policy import Policy
from proxy.core.body import parse_body
from tests.benchmarks.load import answers

RULES: Final = 200
CALLS: Final = 2_000
ROUNDS: Final = 15
CONNECTIONS: Final = 16
HEAD_RATIO_FLOOR: Final = 1.10
BODY_US_FLOOR: Final = 50.0

HEADERS: Final = {
    "Host": "127.0.0.1:8080",
    "Accept-Encoding": "gzip, deflate",
    "Connection": "keep-alive",
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": "AsyncOpenAI/Python 3.54.0",
    "X-Stainless-Lang": "python",
    "X-Stainless-Package-Version": "3.54.0",
    "X-Stainless-OS": "Linux",
    "X-Stainless-Arch": "x64",
    "X-Stainless-Runtime": "CPython",
    "X-Stainless-Runtime-Version": "3.11.13",
    "X-Stainless-Async": "async:asyncio",
    "x-stainless-retry-count": "0",
    "x-stainless-read-timeout": "600",
    "Authorization": "Bearer sk-benchmark",
}
"""What the stock SDK of OpenAI sends."""

BODY: Final = json.dumps(
    {
        "model": "gpt-4o-mini",
        "metadata": {"job": "answering"},
        "messages": [{"role": "user", "content": "word " * 560}],
    }
).encode()
REPLY: Final = b'{"object": "chat.completion"%s}' % (b" " * 1_400)


def head_rules() -> list[dict[str, Any]]:
    """Rules that this call meets none of, on a header that it has and on one that it has not."""
    names = ("x-job", "user-agent")
    return [
        {
            "name": f"r{number}",
            "when": {"headers": {names[number % 2]: f"*job-{number}-*"}},
            "then": "defer",
        }
        for number in range(RULES)
    ]


def body_rules() -> list[dict[str, Any]]:
    """Rules that this call meets none of, on a field that it has and on its model."""
    wants: Sequence[Mapping[str, Any]] = (
        {"body": {"metadata.job": "job-%d-*"}},
        {"model": "*-%d-mini", "tokens": {"max": 20_000}},
    )
    return [
        {
            "name": f"r{number}",
            "when": json.loads(json.dumps(wants[number % 2]).replace("%d", str(number))),
            "then": "defer",
        }
        for number in range(RULES)
    ]


def body_rules_us(repeat: int = 2_000) -> float:
    """Return the microseconds that 200 rules on the body take, its parse not among them."""
    rules = load_policies(json.dumps({"rules": body_rules()}), "rules").rules
    policy, now = Policy(rules), datetime(2026, 11, 23, 12, tzinfo=UTC)
    headers = tuple((name.encode(), value.encode()) for name, value in HEADERS.items())
    asked = read_headers(headers, now=now)
    fields = parse_body(BODY, max_bytes=1 << 20).fields
    facts = CallFacts(
        method="POST",
        upstream="openai",
        path="/v1/chat/completions",
        headers=headers,
        now=now,
        obstacle=None,
        body=lambda: fields,
        tokens=lambda: 700,
    )
    assert policy.wants_body(asked, facts)
    assert policy.decide(asked, facts).decided_by == "default"
    taken = []
    for _ in range(repeat):
        started = perf_counter()
        policy.wants_body(asked, facts)
        policy.decide(asked, facts)
        taken.append(perf_counter() - started)
    return median(taken) * 1e6


@dataclass(frozen=True)
class Served:
    """A proxy in a process of its own."""

    name: str
    pid: int
    port: int

    def cpu_s(self) -> float:
        """Return the CPU time of all its threads (Linux, `Documentation/scheduler/sched-stats`)."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((each / "schedstat").read_text().split()[0]) for each in threads) / 1e9


@asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    """Serve the same answer to every call; yield the port."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    reply = head % len(REPLY) + REPLY

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = asked.partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def proxy(
    folder: Path, name: str, rules: list[dict[str, Any]], port: int
) -> AsyncIterator[Served]:
    """Run a proxy with these rules in front of the upstream at `port`."""
    place = folder / name
    place.mkdir()
    settings: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "admin": {"listen": "127.0.0.1:0"},
        "store": f"sqlite://{place}/offramp.db",
        "upstreams": {"openai": {"dialect": "openai", "base_url": f"http://127.0.0.1:{port}"}},
        "log": {"format": "json"},
    }
    if rules:
        (place / "policies.yaml").write_text(json.dumps({"rules": rules}))
        settings["policies"] = "policies.yaml"
    (place / "offramp.yaml").write_text(json.dumps(settings))
    command = (sys.executable, "-m", "proxy", "serve", "--config", str(place / "offramp.yaml"))
    log = place / "log"
    with log.open("wb") as written:
        process = await asyncio.create_subprocess_exec(
            *command, stderr=written, env={"PATH": os.environ["PATH"], "HOME": str(place)}
        )
    try:
        started = await _started(log, process)
        yield Served(name, process.pid, int(started["listen"].rpartition(":")[2]))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _started(log: Path, process: asyncio.subprocess.Process) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            has_ended = process.returncode is not None
            for line in log.read_text().splitlines():
                if '"instance.started"' in line and line.endswith("}"):
                    event = json.loads(line)
                    assert isinstance(event, dict)
                    return event
            assert not has_ended, log.read_text()
            await asyncio.sleep(0.05)


async def cpu_us(served: Served, calls: int) -> float:
    """Return the microseconds of CPU that one forwarded call takes."""
    lines = [f"{name}: {value}" for name, value in HEADERS.items()]
    lines = ["POST /v1/chat/completions HTTP/1.1", *lines, f"Content-Length: {len(BODY)}", "", ""]
    request = "\r\n".join(lines).encode() + BODY
    before = served.cpu_s()
    await answers(
        ("127.0.0.1", served.port), request, connections=CONNECTIONS, count=calls, status=200
    )
    return (served.cpu_s() - before) / calls * 1e6


async def over_the_wire(*, calls: int, rounds: int) -> dict[str, float]:
    """Return the CPU per call, in microseconds, by the rules that were loaded.

    The ratios of each round, whose median counts, stand under `… / none`.
    """
    sets = {"none": [], "head": head_rules(), "body": body_rules()}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = await stack.enter_async_context(upstream())
        served = [
            await stack.enter_async_context(proxy(folder, name, rules, port))
            for name, rules in sets.items()
        ]
        for each in served:
            await cpu_us(each, max(calls // 4, 1))
        taken: dict[str, list[float]] = {name: [] for name in sets}
        for number in range(rounds):
            # Not always in the same order: who comes second finds the caches warm.
            for each in served if number % 2 else reversed(served):
                taken[each.name].append(await cpu_us(each, calls))
    found = {name: median(values) for name, values in taken.items()}
    for name in ("head", "body"):
        pairs = zip(taken[name], taken["none"], strict=True)
        found[f"{name} / none"] = median(with_rules / without for with_rules, without in pairs)
    return found


async def main(calls: int, rounds: int = ROUNDS) -> None:
    found = await over_the_wire(calls=calls, rounds=rounds)
    print(f"forwarding without rules: {found['none']:.0f} µs of CPU a call")
    print(
        f"with {RULES} rules on headers: {found['head']:.0f} µs, "
        f"{found['head / none']:.3f} of that (floor {HEAD_RATIO_FLOOR})"
    )
    print(
        f"with {RULES} rules on the body: {found['body']:.0f} µs, "
        f"{found['body / none']:.3f} of that, the parse included"
    )
    print(
        f"{RULES} rules on the body beyond the parse: {body_rules_us():.1f} µs "
        f"(floor {BODY_US_FLOOR:.0f})"
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else CALLS))
