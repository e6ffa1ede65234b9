"""How the process runs the service: its event loop, its garbage, its open files.

Nothing here changes what a call gets; measured, both together take a quarter off
what a forwarded call costs (`python -m tests.benchmarks.forward`).
"""

import asyncio
import gc
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Literal, NamedTuple

from proxy.core.errors import ConfigError

EventLoop = Literal["uvloop", "asyncio"]

_GARBAGE_AFTER: Final = (20_000, 10, 10)
"""Objects kept before the young are looked through, and how often the older are with them.

By default it is 700: with a thousand calls open, each holding some dozens of
objects, the collector would look through all of them several times a second and
find nothing, since a call is freed by its last reference. What is left for it are
cycles of libraries, some hundred objects a second at most: 4 MB of them may wait.
"""

_STOCK_BYTES: Final = 4096
"""Random bytes fetched at once: a hundred and fifty jobs' worth."""

_TURN_S: Final = 0.001
"""Shorter ones cost more switches than they save waiting."""


def run(main: Coroutine[Any, Any, None], event_loop: EventLoop) -> None:
    """Run `main` to its end on a loop of that kind, as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=loop_factory(event_loop)) as runner:
        runner.run(main)


def loop_factory(event_loop: EventLoop) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes a loop of that kind."""
    if event_loop == "asyncio":
        return asyncio.new_event_loop
    # Imported only where it is used: the short commands do without.
    import uvloop  # noqa: PLC0415

    return uvloop.new_event_loop


def heed_hangup(*, reload: Callable[[], None] | None, stop: Callable[[], None]) -> None:
    """Have SIGHUP call `reload`, or, where nothing can be read again, `stop`.

    It then means that the terminal is gone, which is no reason to break calls off. Who
    started this by `nohup` has said that it is none to end, either.
    """
    loop = asyncio.get_running_loop()
    if reload is not None:
        loop.add_signal_handler(signal.SIGHUP, reload)
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, stop)


def spare_garbage() -> None:
    """Look through what is there now for the last time, and through the rest more rarely.

    To be called once everything is built that lives as long as the process.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GARBAGE_AFTER)


def share_fairly() -> None:
    """Let the event loop's thread have the interpreter soon after it asks for it.

    By default a thread of a store or a transfer may keep it for 5 ms, and several of
    them have their turns before the loop: a call would wait as long for nothing.
    """
    sys.setswitchinterval(_TURN_S)


def random_bytes(count: int) -> bytes:
    """Return so many bytes of the system's cryptographic source, each given out once.

    They are fetched in stock: asking the system for a few costs as much as for thousands.
    Safe in several threads, and in both processes after a fork.
    """
    return _stock.take(count)


class _Stock(threading.local):
    """Random bytes of one thread that nobody has got yet."""

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        at = self._at
        taken = self._bytes[at : at + count]
        if len(taken) < count:
            self._bytes, at = os.urandom(max(_STOCK_BYTES, count)), 0
            taken = self._bytes[:count]
        self._at = at + count
        return taken


def _fetch_anew() -> None:
    global _stock  # noqa: PLW0603 - what a forked process inherits must not be used twice
    _stock = _Stock()


_stock = _Stock()
os.register_at_fork(after_in_child=_fetch_anew)


def check_parsers() -> None:
    """Refuse to start where aiohttp fell back to its parsers in Python.

    They decide where a message ends, on both sides of the service. The fallback has had
    flaws of its own (CVE-2023-47627), and nothing here was tested with it.

    Raises:
        ConfigError: with a hint.
    """
    # Imported only to serve: the short commands do without. The names are of the pinned minor
    # version.
    from aiohttp import http_parser  # noqa: PLC0415

    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ConfigError(
            "aiohttp runs without its C extensions, whose parsers decide where a call ends; "
            "install a wheel of aiohttp that has them, and unset AIOHTTP_NO_EXTENSIONS"
        )


_MANY_FILES: Final = 10_240
"""What macOS lets a process have where it says that there is no limit."""


class FileLimits(NamedTuple):
    """How many files a process may have open, and up to how many it may allow itself."""

    soft: int
    hard: int

    @classmethod
    def now(cls) -> "FileLimits":
        """Return those of this process."""
        return cls(*resource.getrlimit(resource.RLIMIT_NOFILE))

    def give_to(self, pid: int) -> None:
        """Have them hold for another process, where the system can do that."""
        if sys.platform == "linux":
            # It may have ended, or be another user's by now.
            with suppress(OSError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, self)


def allow_files() -> None:
    """Let the process have as many open files as it may.

    Shells and supervisors often start it with 1,024 of them, which is for programs
    that still use `select`: half as many calls would use them up.
    """
    soft, hard = FileLimits.now()
    if soft != hard:
        most = max(soft, _MANY_FILES) if hard == resource.RLIM_INFINITY else hard
        # What the system says and what it does may differ.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def allowed_files() -> int:
    """Return how many files the process may have open."""
    soft = FileLimits.now().soft
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
