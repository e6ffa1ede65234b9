"""What holds for every test: strict events, and no test that depends on speed."""

import gc
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from proxy.telemetry import set_up_logging

# A slow machine is no failed property; `pytest-timeout` ends what hangs.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


# Whoever starts the tests in the background has them ignore Ctrl-C, and what is ignored
# is inherited: the processes that tests interrupt would not notice.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without looking for garbage, and never look at the tests again.

    Twelve thousand of them are some millions of objects that live to the end. Every full
    collection walks all of them, those that tests ask for too: a third of the time that
    collecting tests took, and most of that of a test which asks.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _strict_events() -> Iterator[None]:
    """An event that is not in the closed list fails the test that caused it."""
    with Path(os.devnull).open("wb") as nowhere:
        set_up_logging(level="debug", form="json", stream=nowhere, strict=True, bridge=False)
        yield


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the configuration, a key or the web proxy of whoever runs it."""
    for name in list(os.environ):
        ours = name.startswith("OFFRAMP_") or name.endswith("_API_KEY")
        if ours or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)


@pytest.fixture
def _heeds_hangups() -> Iterator[None]:
    """What a test starts ends with its terminal, also where the tests are run by `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
