"""Measure an upload and a download of one big batch; run as a program, prints JSON.

The server is another process, so that only the adapter's memory is seen. The
results that come down are the lines that went up, each wrapped as an answer.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from proxy.ports.provider import Submission
from tests.providers.kit import CHAT, MachineClock, make_batch_id, make_credential, openai_at

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


async def measure(base_url: str, count: int, body_bytes: int) -> dict[str, dict[str, float]]:
    provider, credential = openai_at(base_url), make_credential()
    body = b'{"model":"gpt-5.4-mini","messages":[{"role":"user","content":"%s"}]}' % (
        b"word " * (body_bytes // 5)
    )
    frames = [provider.frame(f"job-{n}", CHAT) for n in (0, count)]
    assert len({len(after) for _, after in frames}) == 1

    def line(n: int) -> bytes:
        before, after = provider.frame(f"job-{n:07}", CHAT)
        return before + body + after

    async def lines() -> AsyncIterator[bytes]:
        for start in range(0, count, 500):
            yield b"".join(line(n) for n in range(start, min(count, start + 500)))
            await asyncio.sleep(0)

    submission = Submission(
        batch_id=make_batch_id(),
        endpoint=CHAT,
        model="gpt-5.4-mini",
        headers=(),
        count=count,
        input_bytes=count * len(line(0)),
        lines=lines,
    )
    # The import of the client is paid once, whatever is done afterwards.
    await provider.find_batches(credential, submission.batch_id, created_after=MachineClock().now())
    await provider.delete_file(credential, "file-none")
    async for _ in provider.results(credential, "file-tiny"):
        pass
    phases: dict[str, dict[str, float]] = {}

    async def idle() -> None:
        await asyncio.sleep(1)

    async def upload() -> None:
        assert await provider.upload(credential, submission)

    async def download() -> None:
        seen = 0
        async for chunk in provider.results(credential, "file-big"):
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
    await provider.aclose()
    return phases


if __name__ == "__main__":
    url, lines_count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    print(json.dumps(asyncio.run(measure(url, lines_count, size))))
