"""One thread that runs blocking calls one after the other, and can be told to stop.

A blocking HTTP client keeps 100 MB transfers and its own import off the event loop.
Its price is that a thread cannot be cancelled, so a `Call` knows the connection that
its thread may be blocked on, and how to cut it.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError as NeverRanError
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from proxy.core.errors import ProviderUnavailableError

T = TypeVar("T")

_CONNECTED = frozenset(
    {
        "connection.connect_tcp.complete",
        "connection.start_tls.complete",
        # Through a web proxy.
        "proxy.start_tls.complete",
    }
)
_BEGINNINGS = frozenset({"connection.connect_tcp.started", "http11.send_request_headers.started"})


class AbortedError(Exception):
    """The call was given up by whoever waited for it."""


class TracedConnection:
    """The one connection of a pool, which another thread may cut.

    `trace` is the `trace` extension of an httpcore request: it is told of each step, and
    thereby knows the connection. The pool must hold no more than one.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self.is_cut = False

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Remember the connection; raise if it is not wanted any more.

        Raises:
            AbortedError: after `cut`, so that a call which had no connection yet
                sends nothing over one that it opens later.
        """
        if event in _CONNECTED:
            self._socket = info["return_value"].get_extra_info("socket")
            # Written before the mark is read, and the other way round in `cut`:
            # whichever thread comes second sees what the other did.
            if self.is_cut and self._socket is not None:
                self._socket.close()
        # Not at other steps: those of cleaning up must go on.
        if self.is_cut and (event in _CONNECTED or event in _BEGINNINGS):
            raise AbortedError

    def cut(self) -> None:
        """Wake the thread that reads from or writes to the connection, with an error."""
        self.is_cut = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Not the method of an SSL socket, which would also drop the state
                # that the other thread is using.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Call:
    """One piece of work in a worker's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cuts: tuple[Callable[[], None], ...] = ()
        self._is_aborted = False

    @contextlib.contextmanager
    def over(self, *cuts: Callable[[], None]) -> Iterator[None]:
        """Let `abort` call `cuts`, from another thread, as long as the context lasts."""
        with self._lock:
            if self._is_aborted:
                raise AbortedError
            self._cuts = cuts
        try:
            yield
        finally:
            with self._lock:
                self._cuts = ()

    def abort(self) -> None:
        """Make the work end soon; from any thread."""
        with self._lock:
            self._is_aborted = True
            for cut in self._cuts:
                cut()


class Worker:
    """Runs work in one thread of its own, in the order in which it was asked for."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._under_way: set[Call] = set()

    async def run(self, what: str, work: Callable[[Call], T], *, within_s: float) -> T:
        """Return what `work` returns.

        If the caller is cancelled, or `within_s` is over, the work is dropped if it
        did not begin, and else aborted. The thread is not waited for: the longest
        that it can go on is the time of a connection attempt.

        Raises:
            ProviderUnavailableError: after `within_s`; `sent` is false if the work
                did not even begin.
        """
        call = Call()
        future = self._executor.submit(work, call)
        self._under_way.add(call)
        future.add_done_callback(_look_at)
        try:
            async with asyncio.timeout(within_s) as deadline:
                return await asyncio.wrap_future(future)
        except TimeoutError:
            assert deadline.expired(), "the work let a TimeoutError of its own through"
            reason = f"{what}: no answer within {within_s:g} s"
            raise ProviderUnavailableError(reason, sent=not future.cancel()) from None
        except AbortedError:
            raise ProviderUnavailableError(f"{what}: given up, the service ends") from None
        finally:
            self._under_way.discard(call)
            if not future.done() and not future.cancel():
                call.abort()

    def post(self, work: Callable[[], None]) -> None:
        """Run `work` when the thread is next free, without waiting for it."""
        with contextlib.suppress(RuntimeError):  # the worker has ended, and its thread with it
            self._executor.submit(work).add_done_callback(_look_at)

    async def aclose(self) -> None:
        """Abort what is under way and end the thread, after all that was posted."""
        for call in self._under_way:
            call.abort()
        await asyncio.to_thread(self._executor.shutdown)


def _look_at(future: "Future[Any]") -> None:
    # The failure of work that nobody waits for any more concerns nobody.
    with contextlib.suppress(NeverRanError):
        future.exception()
