"""Fixtures of the sandbox's tests; the helpers themselves stand in `rigs`."""

from collections.abc import AsyncIterator

import pytest

from tests.sandbox.rigs import Rig, started


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """A sandbox in which everything happens at once, with a clock that stands still."""
    async with started() as running:
        yield running


@pytest.fixture
async def slow() -> AsyncIterator[Rig]:
    """Validation takes a minute, the lines an hour, finalizing a minute, a cancel ten."""
    async with started(
        validation_s=60, turnaround_s=3_600, finalizing_s=60, cancel_s=600
    ) as running:
        yield running
