"""Measure an upload and a download of one big batch; run as a program, prints JSON.

The server is another process, so that only the adapter's memory is seen. The
results that come down are the lines that went up, each wrapped as an answer.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from proxy.ports.provider import Provider, Submission
from tests.providers.kit import KEY, MachineClock, make_batch_id
from tests.providers.wires import WIRES, Wire

TICK_S = 0.001


def resident_bytes() -> int:
    """Return the resident memory of this process (proc(5), `statm`)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Watch:
    """Records peak memory and the longest stall of the event loop, until stopped."""

    def __init__(self) -> None:
        self.base = resident_bytes()
        self.peak = self.base
        self.stall_s = 0.0

    async def run(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(TICK_S)
            self.stall_s = max(self.stall_s, time.perf_counter() - before - TICK_S)
            self.peak = max(self.peak, resident_bytes())

    def report(self) -> dict[str, float]:
        return {
            "growth_mb": (self.peak - self.base) / 1e6,
            "stall_ms": self.stall_s * 1e3,
        }


@dataclass(frozen=True)
class Names:
    """By what results are asked for: few lines, and very many."""

    tiny: str
    big: str


NAMES = {
    "openai": Names("file-tiny", "file-big"),
    "gemini": Names("batches/tiny", "batches/big"),
}


async def measure(
    provider: Provider, wire: Wire, names: Names, *, count: int, body_bytes: int
) -> dict[str, dict[str, float]]:
    credential, endpoint = wire.credential(KEY), wire.endpoint
    body = wire.body("word " * (body_bytes // 5))
    frames = [provider.frame(f"job-{n}", endpoint) for n in (0, count)]
    assert len({len(after) for _, after in frames}) == 1

    def line(n: int) -> bytes:
        before, after = provider.frame(f"job-{n:07}", endpoint)
        return before + body + after

    async def lines() -> AsyncIterator[bytes]:
        for start in range(0, count, 500):
            yield b"".join(line(n) for n in range(start, min(count, start + 500)))
            await asyncio.sleep(0)

    submission = Submission(
        batch_id=make_batch_id(),
        endpoint=endpoint,
        model=wire.model,
        headers=(),
        count=count,
        input_bytes=count * len(line(0)),
        lines=lines,
    )
    # The import of the client is paid once, whatever is done afterwards.
    await provider.find_batches(credential, submission.batch_id, created_after=MachineClock().now())
    await provider.delete_file(credential, names.tiny)
    async for _ in provider.results(credential, names.tiny):
        pass
    phases: dict[str, dict[str, float]] = {}

    async def idle() -> None:
        await asyncio.sleep(1)

    async def upload() -> None:
        assert await provider.upload(credential, submission)

    async def download() -> None:
        seen = 0
        async for chunk in provider.results(credential, names.big):
            seen += len(chunk)
        assert seen == count, seen

    for name, phase in (("idle", idle), ("upload", upload), ("download", download)):
        watch, started = Watch(), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch.run())
            await phase()
            watching.cancel()
        phases[name] = {**watch.report(), "seconds": time.perf_counter() - started}
    phases["upload"]["bytes"] = submission.input_bytes
    return phases


async def main(name: str, base_url: str, count: int, body_bytes: int) -> None:
    wire = WIRES[name]
    async with wire.opened(base_url) as provider:
        phases = await measure(provider, wire, NAMES[name], count=count, body_bytes=body_bytes)
    print(json.dumps(phases))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
