"""What tests of the data port share.

What is on the wire of a forwarded call is tried on every event loop and with every client.
"""

from collections.abc import AsyncIterator

import pytest

from tests.helpers.loops import LOOPS
from tests.web.house import House, open_house
from tests.web.transparency.harness import CLIENTS, ClientFactory

_ON_THE_WIRE = ("test_endings", "test_forward", "test_handshakes", "test_server", "test_upgrade")


def pytest_asyncio_loop_factories(config, item):
    """Return the loops that a test runs on."""
    path = item.path
    wire = path.parent.name == "transparency" or path.name.startswith(_ON_THE_WIRE)
    return LOOPS if wire else {"asyncio": LOOPS["asyncio"]}


@pytest.fixture(params=list(CLIENTS))
def factory(request) -> ClientFactory:
    """Makes the upstream client of a proxy: each adapter in turn, and the shortcut."""
    return CLIENTS[request.param]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """A data port as it is set up by default, before an upstream that answers."""
    async with open_house() as opened:
        yield opened
