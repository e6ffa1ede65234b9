"""Run the house over its adapters, and end it in order."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

import structlog
from aiohttp import web

from proxy import runtime
from proxy.app.adapters import open_stores, open_vault
from proxy.app.files import within_files
from proxy.app.machine import SystemClock
from proxy.app.opening import open_outside
from proxy.assembly import House, assemble
from proxy.core.errors import StoreError
from proxy.core.fields import RawHeaders
from proxy.operators import OperatorFacts, listen, listen_to_operators
from proxy.ports.tasks import TaskOwner
from proxy.settings import Configuration, Settings, Tls
from proxy.stores.vault import Vault
from proxy.telemetry import Metrics, set_up_logging
from proxy.web.certificates import Certificate
from proxy.web.entrance.server import CallerBounds, DataServer
from proxy.web.handshakes import Handshakes
from proxy.workers import READY, Worker

log = structlog.get_logger()

_CALLS_END_WITHIN: Final = timedelta(seconds=5)
"""How long direct calls of jobs may go on after everything else has ended.

What is cut off then is booked as a possible double; what is waited for holds up
the stop, which a supervisor bounds.
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that takes calls."""

    base_url: str
    admin_url: str
    metrics: Metrics
    house: House
    stop: Callable[[], None]
    """Begin to end: make no more promises. May be called more than once."""

    interrupt: Callable[[], None]
    """Begin to end; if that has begun, give what is under way no more time. As Ctrl-C does."""

    reload: Callable[[], None]
    """Read rules and certificates again, if there are any."""


def run(configuration: Configuration, worker: Worker | None = None) -> None:
    """Run the proxy until SIGTERM, SIGINT or `POST /drain`; the command `offramp serve`.

    Raises:
        ProxyError: if it cannot start.
    """
    settings = configuration.settings
    with set_up_logging(level=settings.log.level, form=settings.log.format):
        try:
            runtime.allow_files()
            runtime.run(_serve_until_told(settings, worker), settings.instance.event_loop)
        except BaseExceptionGroup:
            log.exception("instance.failed")
            raise


async def _serve_until_told(settings: Settings, worker: Worker | None) -> None:
    told = asyncio.Event()
    obey = partial(_obey, settings, worker)
    async with serving(settings, on_start=obey, on_stop=told.set, worker=worker):
        runtime.spare_garbage()
        runtime.share_fairly()
        await told.wait()


def _obey(settings: Settings, worker: Worker | None, running: Running) -> None:
    """Listen to signals, and to a supervisor if there is one."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, running.stop)
    loop.add_signal_handler(signal.SIGINT, running.interrupt)
    runtime.heed_hangup(reload=running.reload if settings.reloads else None, stop=running.stop)
    if worker is not None:
        _answer_to_supervisor(loop, running)


def _answer_to_supervisor(loop: asyncio.AbstractEventLoop, running: Running) -> None:
    """Say that we take calls, and end when the supervisor does: it keeps our input open."""

    def hear() -> None:
        loop.remove_reader(sys.stdin.fileno())
        running.stop()

    loop.add_reader(sys.stdin.fileno(), hear)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()


def prepare(configuration: Configuration) -> None:
    """Make what several workers would otherwise make at once, and bring it up to date.

    Raises:
        ProxyError: if it cannot be made.
    """
    settings = configuration.settings
    vault = open_vault(settings)
    if settings.store.path is not None:
        # An earlier version's file is rewritten in one transaction, which takes longer than
        # a worker waits for another's; the worker that gave up would end all, and undo it.
        asyncio.run(_open_once(settings, vault))


async def _open_once(settings: Settings, vault: Vault) -> None:
    async with AsyncExitStack() as stack:
        await open_stores(stack, settings, vault, SystemClock())


@asynccontextmanager
async def serving(
    settings: Settings,
    *,
    on_start: Callable[[Running], None] = lambda _running: None,
    on_stop: Callable[[], None] = lambda: None,
    usual: RawHeaders = (),
    worker: Worker | None = None,
) -> AsyncIterator[Running]:
    """Run a proxy while the block runs, and end it in order afterwards.

    `on_start` is called before the log says that it takes calls: whoever reads that may want it to
    end at once. `on_stop` is called when the proxy is told to end. `usual` are headers of ours that
    hold for every call which does not carry them. `worker` is which of several this is.

    Raises:
        ProxyError: if it cannot start.
    """
    runtime.check_parsers()
    settings = within_files(settings, runtime.allowed_files())
    own, operators = _certificate(settings.tls), _certificate(settings.admin.tls)
    async with AsyncExitStack() as stack:
        certificates = [one for one in (own, operators) if one is not None]
        outside = await open_outside(stack, settings, worker, usual, certificates)
        house = assemble(settings, outside)
        await house.warm_up()
        facts = OperatorFacts(settings, house, outside, on_stop, worker)
        secured = partial(_handshakes, settings, outside.tasks)
        admin_url = await listen_to_operators(stack, facts, outside.metrics, secured(operators))
        refused = partial(outside.metrics.count, "connections_refused")
        server = _front_server(settings, house, refused)
        drain_s = settings.instance.drain_timeout.total_seconds()
        front = web.ServerRunner(server, shutdown_timeout=drain_s)
        base_url = await listen(
            stack,
            front,
            settings.listen,
            shared=worker is not None,
            handshakes=secured(own),
            on_refused=refused,
        )
        passes = outside.tasks.create_task(house.scheduler.run(), name="passes")
        running = Running(
            base_url,
            admin_url,
            outside.metrics,
            house,
            stop=facts.leave,
            interrupt=lambda: server.cut_off() if facts.draining else facts.leave(),
            reload=facts.reload,
        )
        on_start(running)
        log.info(
            "instance.started",
            instance=house.ground.leases.instance,
            listen=base_url,
            admin=admin_url,
            store=str(settings.store),
            durability=outside.durability.known.words,
        )
        try:
            yield running
        finally:
            facts.leave()
            await _end(house, front, passes)


async def _end(house: House, front: web.ServerRunner, passes: asyncio.Task[None]) -> None:
    """Let callers finish, then the background work; hand the leases over."""
    # Takes no more connections and gives those in progress `drain_timeout`; the
    # passes run on meanwhile, since held callers wait for what they bring.
    await front.cleanup()
    with suppress(StoreError):
        # A caller that was turned away and hung up at once has cancelled the note that
        # says so; without the note its repeat would become a second job.
        await house.ending_notes.run_once()
    house.scheduler.stop()
    await asyncio.wait([passes])
    clock = house.ground.clock
    give_up = clock.monotonic() + _CALLS_END_WITHIN.total_seconds()
    while house.escalator.running and clock.monotonic() < give_up:
        await clock.sleep(0.05)
    house.escalator.abandon()
    house.deliverer.abandon()
    if house.facts is not None:
        with suppress(StoreError):
            await house.facts.run_once()
    with suppress(StoreError):
        # A store that is away costs the others some seconds: the lease ends by itself.
        await house.ground.leases.leave()
    log.info("instance.stopped", instance=house.ground.leases.instance)


def _certificate(tls: Tls | None) -> Certificate | None:
    return None if tls is None else Certificate(tls.cert_file, tls.key_file)


def _handshakes(
    settings: Settings, tasks: TaskOwner, certificate: Certificate | None
) -> Handshakes | None:
    if certificate is None:
        return None
    callers = settings.callers
    return Handshakes(
        certificate.context,
        tasks,
        max_connections=callers.max_connections,
        limit_s=callers.head_timeout.total_seconds(),
    )


def _front_server(settings: Settings, house: House, on_refused: Callable[[], None]) -> DataServer:
    callers = settings.callers
    return DataServer(
        house.front.handle,
        CallerBounds(
            max_connections=callers.max_connections,
            head_s=callers.head_timeout.total_seconds(),
            take_s=settings.forwarding.idle_timeout.total_seconds(),
            max_field_bytes=callers.max_field_bytes,
            max_fields=callers.max_fields,
        ),
        find=house.known_heads.find if house.known_heads is not None else None,
        on_refused=on_refused,
    )
