"""What the tests of one adapter share."""

from collections.abc import AsyncIterator

import pytest

from tests.providers.recorder import Recorder


@pytest.fixture
async def wire() -> AsyncIterator[Recorder]:
    """A provider that answers what it is told to, and keeps what it was asked."""
    async with Recorder.serving() as made:
        yield made
