"""A certificate for the tests that speak TLS."""

from pathlib import Path

import pytest

from tests.helpers.certificates import write_certificate
from tests.helpers.loops import LOOPS


def pytest_asyncio_loop_factories(config, item):
    """Return the loops that each test runs on."""
    return LOOPS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Path:
    """A self-signed certificate for 127.0.0.1, and its key, in one file."""
    return write_certificate(tmp_path_factory.mktemp("tls") / "upstream.pem")
