"""Fixtures of the sandbox's tests; the helpers themselves stand in `rigs`."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from anthropic import AsyncAnthropic

from tests.sandbox.anthropic_rigs import KEY
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


@pytest.fixture
async def claude(rig: Rig) -> AsyncIterator[Any]:
    """Anthropic's SDK at that sandbox; its types are of no interest."""
    options: Any = {"base_url": rig.running.base_url, "api_key": KEY, "max_retries": 0}
    async with AsyncAnthropic(**options) as client:
        yield client
