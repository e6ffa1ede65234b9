"""Time that stands still, jumps and scales."""

import asyncio
import math

import pytest

from proxy.sandbox.clock import SandboxClock


async def test_a_stopped_clock_moves_by_advance_only():
    clock = SandboxClock(scale=0, epoch=100)

    assert clock.now() == 100
    clock.advance(7)
    assert clock.now() == 107


async def test_time_cannot_go_back():
    with pytest.raises(ValueError, match="back"):
        SandboxClock(scale=0).advance(-1)


async def test_sleepers_wake_when_their_time_has_come_and_not_before():
    clock = SandboxClock(scale=0, epoch=0)
    woken = []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.now()))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleep(10))
        group.create_task(sleep(5))
        await asyncio.sleep(0)
        for _ in range(2):
            clock.advance(5)
            await asyncio.sleep(0.001)

    assert woken == [(5, 5), (10, 10)]


@pytest.mark.parametrize(("scale", "due"), [(0, 1e9), (1, 1e9), (1, math.inf)])
async def test_an_interrupted_wait_ends_early(scale, due):
    clock = SandboxClock(scale=scale, epoch=0)
    is_over = False

    async with asyncio.TaskGroup() as group:
        wait = group.create_task(clock.wait_until(due, interrupted=lambda: is_over))
        await asyncio.sleep(0)
        is_over = True
        clock.nudge()
        await wait

    assert clock.now() < due


async def test_a_scaled_clock_runs_faster():
    clock = SandboxClock(scale=1e6, epoch=0)

    async with asyncio.timeout(20):
        await clock.sleep(1_000)

    assert clock.now() >= 1_000
