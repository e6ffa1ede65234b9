"""Callers that send the same request again and again, and the CPU of a process."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


async def answers(
    address: tuple[str, int], request: bytes, *, connections: int, count: int, status: int
) -> float:
    """Send `count` requests over so many connections; return the seconds they took.

    Raises:
        AssertionError: if an answer has another status.
    """
    left = iter(range(count))

    async def caller(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in left:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status), head
            await reader.readexactly(_length(head))

    pairs = [await asyncio.open_connection(*address) for _ in range(connections)]
    try:
        started = perf_counter()
        async with asyncio.TaskGroup() as group:
            for pair in pairs:
                group.create_task(caller(*pair))
        return perf_counter() - started
    finally:
        for _, writer in pairs:
            writer.close()
        # A loop that ends before them leaves sockets to the collector, and a warning to others.
        for _, writer in pairs:
            with suppress(ConnectionError):
                await writer.wait_closed()


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process, all its threads together (proc(5), `stat`)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mb() -> float:
    """Return the resident memory of this process (proc(5), `statm`)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Watch:
    """Notes the longest stall of the event loop and the most memory while work is done."""

    TICK_S: Final = 0.001
    TICKS_PER_LOOK: Final = 20
    """Asking for the memory takes 20 µs, which is not to be measured."""

    def __init__(self) -> None:
        self.stall_s = 0.0
        self.growth_mb = 0.0
        self.seconds = 0.0

    async def over(self, work: Callable[[], Awaitable[object]]) -> "Watch":
        """Do the work; return what was noted."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._run())
            started = perf_counter()
            await work()
            self.seconds = perf_counter() - started
            watching.cancel()
        return self

    async def _run(self) -> None:
        base = resident_mb()
        while True:
            for _ in range(self.TICKS_PER_LOOK):
                before = perf_counter()
                await asyncio.sleep(self.TICK_S)
                self.stall_s = max(self.stall_s, perf_counter() - before - self.TICK_S)
            self.growth_mb = max(self.growth_mb, resident_mb() - base)
