"""Several processes that serve together: they share the ports and the store.

The supervisor starts them, replaces who ends without being told, and passes signals
on. Once they run it opens no store and takes no call, so that nothing it could do wrong
costs a job.
A worker gets its part over its standard input, which also tells it, by its end, that
the supervisor is gone.

The system spreads connections over the workers (`SO_REUSEPORT`, socket(7)); background
work goes to whoever holds its lease, as among the instances of a fleet.
"""

import asyncio
import errno
import os
import pickle
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import BinaryIO, Final

import structlog

from proxy import runtime
from proxy.core.errors import ConfigError
from proxy.settings import Address, Configuration
from proxy.system_words import system_words
from proxy.telemetry import set_up_logging

log = structlog.get_logger()

READY: Final = b"ready\n"
"""What a worker says on its standard output once it takes calls."""

FIRST_PAUSE: Final = timedelta(milliseconds=200)
LONGEST_PAUSE: Final = timedelta(seconds=30)
"""Between the end of a worker and the start of the next: doubled as long as none lives
for `STEADY`, since what kills one at once mostly kills the next."""

STEADY: Final = timedelta(seconds=30)

BEYOND_DRAIN: Final = timedelta(seconds=15)
"""What a worker may take to end beyond the drain of its callers; then it is killed."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One of the processes that serve together."""

    number: int
    count: int
    folder: Path
    """Where each has a socket for the others' questions."""

    session: str
    """What calls belong to whose run names no session: one for all workers."""

    supervisor: int
    """The process that started it; another parent has orders of its own."""

    @property
    def sockets(self) -> list[Path]:
        """The workers' sockets, by their numbers."""
        return [self.folder / f"{number}.sock" for number in range(self.count)]


class WorkerFailedError(Exception):
    """A worker could not even start; `code` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a worker ended with {code} before it took calls")
        self.code = code


def supervise(configuration: Configuration) -> int:
    """Serve with `instance.workers` processes until told to end; return the exit code.

    Raises:
        ConfigError: if a port cannot be had.
    """
    settings = configuration.settings
    with (
        set_up_logging(level=settings.log.level, form=settings.log.format),
        _reserved(settings.listen) as listen,
        _reserved(settings.admin.listen) as admin,
    ):
        changes = {
            "listen": listen,
            "admin": settings.admin.model_copy(update={"listen": admin}),
        }
        configuration = replace(configuration, settings=settings.model_copy(update=changes))
        return asyncio.run(_supervise(configuration))


def receive(source: BinaryIO) -> tuple[Configuration, Worker]:
    """Return what the supervisor sent to this worker."""
    size = int.from_bytes(source.read(4))
    configuration, worker = pickle.loads(source.read(size))  # noqa: S301 - from our own parent
    assert isinstance(configuration, Configuration)
    assert isinstance(worker, Worker)
    return configuration, worker


async def _supervise(configuration: Configuration) -> int:
    settings = configuration.settings
    with tempfile.TemporaryDirectory(prefix="offramp-") as folder:
        first = Worker(
            0, settings.instance.workers, Path(folder), secrets.token_hex(8), os.getpid()
        )
        patience = settings.instance.drain_timeout + BEYOND_DRAIN
        crew = [
            _Place(configuration, replace(first, number=number), patience)
            for number in range(first.count)
        ]
        stop = asyncio.Event()
        _hear_signals(crew, stop, reloads=settings.reloads)
        log.info("workers.started", workers=first.count, listen=str(settings.listen))
        code = 0
        try:
            async with asyncio.TaskGroup() as tasks:
                for place in crew:
                    tasks.create_task(place.keep(stop))
        except* WorkerFailedError as group:
            code = max(_codes(group))
        log.info("workers.stopped", code=code)
        return code


def _codes(group: ExceptionGroup[WorkerFailedError]) -> Iterator[int]:
    for error in group.exceptions:
        assert isinstance(error, WorkerFailedError)
        yield error.code


def _hear_signals(crew: "list[_Place]", stop: asyncio.Event, *, reloads: bool) -> None:
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        # The second time it is passed on: each worker then gives its calls no more time.
        if stop.is_set():
            for place in crew:
                place.tell(signal.SIGINT)
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, interrupt)

    def reload() -> None:
        for place in crew:
            place.reload()

    runtime.heed_hangup(reload=reload if reloads else None, stop=stop.set)


class _Place:
    """The place of one worker, which one process after the other takes."""

    def __init__(self, configuration: Configuration, worker: Worker, patience: timedelta) -> None:
        data = pickle.dumps((configuration, worker))
        self._part = len(data).to_bytes(4) + data
        self._number = worker.number
        self._patience = patience
        self._process: asyncio.subprocess.Process | None = None
        self._hears = False
        """Whether the process takes signals for what they mean here."""

        self._is_to_reload = False

    def reload(self) -> None:
        """Have the process read its rules again, once a signal would not end it any more."""
        self._is_to_reload = True
        self._tell_to_reload()

    def _tell_to_reload(self) -> None:
        if self._hears and self._is_to_reload:
            self._is_to_reload = False
            self.tell(signal.SIGHUP)

    def tell(self, number: signal.Signals) -> None:
        """Pass a signal on to the process, if there is one."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def keep(self, stop: asyncio.Event) -> None:
        """Have a process here until `stop` is set; then have none.

        Raises:
            WorkerFailedError: if the first one ended before it took calls.
        """
        pause, was_ready = FIRST_PAUSE, False
        while not stop.is_set():
            began = monotonic()
            async with self._running() as process:
                was_ready = await self._watch(process, stop) or was_ready
            if stop.is_set():
                return
            code = process.returncode
            assert code is not None
            if not was_ready:
                raise WorkerFailedError(code if code > 0 else 1)
            lived = timedelta(seconds=monotonic() - began)
            pause = FIRST_PAUSE if lived >= STEADY else min(pause * 2, LONGEST_PAUSE)
            log.warning(
                "worker.ended",
                worker=self._number,
                pid=process.pid,
                code=code,
                lived_s=round(lived.total_seconds(), 1),
                pause_s=pause.total_seconds(),
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(pause.total_seconds()):
                    await stop.wait()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Start a process; at the end of the block see it end, by force if need be."""
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "proxy", "worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Ctrl-C goes to all of a terminal's processes; ours are told by us alone.
            start_new_session=True,
        )
        try:
            yield process
        finally:
            self._hears = False
            self.tell(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience.total_seconds()):
                    await process.wait()
            if process.returncode is None:
                log.error("worker.killed", worker=self._number, pid=process.pid)
                self.tell(signal.SIGKILL)
                await process.wait()

    async def _watch(self, process: asyncio.subprocess.Process, stop: asyncio.Event) -> bool:
        """Return whether it took calls, once it has ended or `stop` is set."""
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(ConnectionError):
            process.stdin.write(self._part)
            await process.stdin.drain()
        said = b""
        async with asyncio.TaskGroup() as tasks:
            stopped = tasks.create_task(stop.wait())
            hearing = tasks.create_task(process.stdout.readline())
            await asyncio.wait([stopped, hearing], return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                said = hearing.result()
                self._hears = said == READY
                self._tell_to_reload()
                ended = tasks.create_task(process.wait())
                await asyncio.wait([stopped, ended], return_when=asyncio.FIRST_COMPLETED)
                ended.cancel()
            stopped.cancel()
            hearing.cancel()
        return said == READY


@contextmanager
def _reserved(address: Address) -> Iterator[Address]:
    """Hold a port for the workers while the block runs; return it, if it was left open.

    A socket that is bound and does not listen gets no connections.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        try:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _refuse_if_taken(family, address)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind((address.host, address.port))
            # Nothing listens until a worker does: meanwhile another supervisor's question,
            # and ours for the other listener, is to be told that the port is taken.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError as exc:
            raise cannot_listen(address, exc) from exc
        yield Address(address.host, holder.getsockname()[1])


def cannot_listen(address: Address, exc: OSError) -> ConfigError:
    """Return how somebody is told that a listener cannot have its address."""
    return ConfigError(f"cannot listen on {address}: {system_words(exc)}", hint=_cure(exc))


def _cure(exc: OSError) -> str:
    match exc.errno:
        case errno.EADDRINUSE:
            return "another process may have the port; choose one with --listen or --admin-listen"
        case errno.EACCES:
            return "a port below 1024 takes a right of its own; choose a higher one"
        case _:
            return "name an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"


def _refuse_if_taken(family: socket.AddressFamily, address: Address) -> None:
    """Raise if anybody listens there: with `SO_REUSEPORT` we would share with a stranger."""
    if address.port:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, address.port))
