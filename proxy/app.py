"""Open the adapters, run the house over them, and end it in order.

The only place that names adapters, reads the real clock and owns the tasks.
"""

import asyncio
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from aiohttp import web

from policies.model import Answer
from proxy import runtime
from proxy.assembly import House, Outside, Stores, assemble
from proxy.core.dialects import DIALECTS, BatchWire
from proxy.core.errors import ConfigError, ProxyError, StoreError
from proxy.core.fields import RawHeaders
from proxy.core.prices import PriceList
from proxy.core.upstream import Upstream
from proxy.operators import OperatorFacts, about_of, listen, listen_to_operators
from proxy.ports.clock import Clock
from proxy.ports.provider import Provider
from proxy.ports.upstream import ClientLimits, UpstreamClient
from proxy.providers.anthropic_batches import AnthropicBatches
from proxy.providers.gemini_batches import GeminiBatches
from proxy.providers.mistral_jobs import MistralBatches
from proxy.providers.openai_family import OpenAIBatches
from proxy.providers.openrouter_batches import OpenRouterBatches
from proxy.services.clients import HeldKey
from proxy.services.policies import Policies, open_policies
from proxy.services.prices import PriceBook, book_of
from proxy.settings import Configuration, Settings, Tls
from proxy.stores.facts_file import FactsFile
from proxy.stores.price_file import read_prices
from proxy.stores.sqlite import SqliteStores
from proxy.stores.vault import Vault
from proxy.telemetry import Metrics, set_up_logging
from proxy.upstreams.lean import LeanClient
from proxy.upstreams.session import AiohttpClient
from proxy.web.certificates import Certificate
from proxy.web.server import CallerBounds, DataServer
from proxy.web.worker_set import Workers
from proxy.workers import READY, Worker

log = structlog.get_logger()

_CLIENTS: Final[Mapping[str, Callable[[asyncio.TaskGroup, ClientLimits], UpstreamClient]]] = {
    "lean": LeanClient,
    "aiohttp": AiohttpClient,
}

_CALLS_END_WITHIN: Final = timedelta(seconds=5)
"""How long direct calls of jobs may go on after everything else has ended.

What is cut off then is booked as a possible double; what is waited for holds up
the stop, which a supervisor bounds.
"""


class SystemClock:
    """The time of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 - this is the clock that others are given

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that takes calls."""

    base_url: str
    admin_url: str
    metrics: Metrics
    house: House
    stop: Callable[[], None]
    """Begin to end: make no more promises. May be called more than once."""

    reload: Callable[[], None]
    """Read rules and certificates anew, if there are any."""


def run(configuration: Configuration, worker: Worker | None = None) -> None:
    """Run the proxy until SIGTERM, SIGINT or `POST /drain`; the command `offramp serve`.

    Raises:
        ProxyError: if it cannot start.
    """
    settings = configuration.settings
    writer = set_up_logging(level=settings.log.level, form=settings.log.format)
    try:
        runtime.allow_files()
        runtime.run(_serve_until_told(settings, worker), settings.instance.event_loop)
    except BaseExceptionGroup:
        log.exception("instance.failed")
        raise
    finally:
        writer.flush()


async def _serve_until_told(settings: Settings, worker: Worker | None = None) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with serving(settings, on_stop=told.set, worker=worker) as running:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, running.stop)
        if settings.reloads:
            # With nothing to read it means what it always does: the terminal is gone.
            loop.add_signal_handler(signal.SIGHUP, running.reload)
        if worker is not None:
            _answer_to_supervisor(loop, running)
        runtime.spare_garbage()
        runtime.share_fairly()
        await told.wait()


def _answer_to_supervisor(loop: asyncio.AbstractEventLoop, running: Running) -> None:
    """Say that we take calls, and end when the supervisor does: it keeps our input open."""

    def hear() -> None:
        loop.remove_reader(sys.stdin.fileno())
        running.stop()

    loop.add_reader(sys.stdin.fileno(), hear)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()


def prepare(configuration: Configuration) -> None:
    """Make what several workers would otherwise make at once.

    Raises:
        ProxyError: if it cannot be made.
    """
    _open_vault(configuration.settings)


@asynccontextmanager
async def serving(
    settings: Settings,
    *,
    on_stop: Callable[[], None] = lambda: None,
    usual: RawHeaders = (),
    worker: Worker | None = None,
) -> AsyncIterator[Running]:
    """Run a proxy while the block runs, and end it in order afterwards.

    `on_stop` is called when the proxy is told to end. `usual` are headers of ours that
    hold for every call which does not carry them. `worker` is which of several this is.

    Raises:
        ProxyError: if it cannot start.
    """
    clock, metrics = SystemClock(), Metrics()
    upstreams = settings.parsed_upstreams()
    policies = _policies(settings, metrics)
    own, operators = _certificate(settings.tls), _certificate(settings.admin.tls)
    async with AsyncExitStack() as stack:
        vault = _open_vault(settings)
        stores, durability = await _open_stores(stack, settings, vault)
        tasks = await stack.enter_async_context(_task_group())
        client = _CLIENTS[settings.forwarding.client](tasks, _client_limits(settings))
        stack.push_async_callback(client.aclose)
        house = assemble(
            settings,
            Outside(
                stores=stores,
                keyed_hash=vault,
                clock=clock,
                upstreams=upstreams,
                providers=_providers(stack, settings, upstreams, client, clock),
                client=client,
                tasks=tasks,
                metrics=metrics,
                read_prices=_price_reader(settings),
                policies=policies,
                facts=_facts_file(settings, worker),
                held=_held_keys(settings),
                certificates=[one for one in (own, operators) if one is not None],
                session=_session(settings, worker),
                usual=usual,
                counts=Workers(worker.sockets).counts if worker is not None else None,
            ),
        )
        await house.warm_up()
        facts = OperatorFacts(settings, house, policies, on_stop, durability, worker)
        about = about_of(settings, house, durability)
        admin_url = await listen_to_operators(
            stack, settings, facts, metrics, about, worker, operators
        )
        front = web.ServerRunner(
            DataServer(
                house.front.handle,
                _caller_bounds(settings),
                on_refused=lambda: metrics.count("connections_refused"),
            ),
            shutdown_timeout=settings.instance.drain_timeout.total_seconds(),
        )
        base_url = await listen(
            stack, front, settings.listen, shared=worker is not None, certificate=own
        )
        passes = tasks.create_task(house.scheduler.run(), name="passes")
        log.info(
            "instance.started",
            instance=house.ground.leases.instance,
            listen=base_url,
            admin=admin_url,
            store=str(settings.store),
            durability=durability,
        )
        try:
            yield Running(base_url, admin_url, metrics, house, facts.leave, facts.reload)
        finally:
            facts.leave()
            await _end(house, front, passes)


def _providers(
    stack: AsyncExitStack,
    settings: Settings,
    upstreams: Mapping[str, Upstream],
    client: UpstreamClient,
    clock: Clock,
) -> Mapping[str, Provider]:
    """Return the batch API of each upstream that has one."""
    providers: dict[str, Provider] = {}
    for name, upstream in upstreams.items():
        api = DIALECTS[upstream.dialect].batch
        if api is None:
            continue
        match api.wire:
            case BatchWire.FILES:
                batch_models = settings.upstreams[name].batch_models
                batches = OpenAIBatches(upstream, api, clock=clock, batch_models=batch_models)
                stack.push_async_callback(batches.aclose)
                providers[name] = batches
            case BatchWire.INLINE:
                providers[name] = OpenRouterBatches(upstream, api, client, clock=clock)
            case BatchWire.JOBS:
                providers[name] = MistralBatches(upstream, api, client, clock=clock)
            case BatchWire.OPERATIONS:
                providers[name] = GeminiBatches(upstream, api, client, clock=clock)
            case BatchWire.MESSAGES:
                providers[name] = AnthropicBatches(upstream, api, client, clock=clock)
    return providers


@asynccontextmanager
async def _task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Own the tasks of the block; what keeps it from starting comes out as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        # A group of one, by which no command could tell a port in use from a bug.
        if len(group.exceptions) == 1 and isinstance(group.exceptions[0], ProxyError):
            raise group.exceptions[0] from None
        raise


async def _end(house: House, front: web.ServerRunner, passes: asyncio.Task[None]) -> None:
    """Let callers finish, then the background work; hand the leases over."""
    # Takes no more connections and gives those in progress `drain_timeout`; the
    # passes run on meanwhile, since held callers wait for what they bring.
    await front.cleanup()
    with suppress(StoreError):
        # A caller that was turned away and hung up at once cancelled the note of
        # it; without the note its repeat would be a second job.
        await house.holding.run_once()
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
    await house.ground.leases.leave()
    log.info("instance.stopped", instance=house.ground.leases.instance)


def _certificate(tls: Tls | None) -> Certificate | None:
    return None if tls is None else Certificate(tls.cert_file, tls.key_file)


def _held_keys(settings: Settings) -> Mapping[str, HeldKey]:
    """Return the providers' keys that are held here, by upstream."""
    return {
        name: HeldKey.of(
            upstream.dialect,
            upstream.read_key(),
            clients=[one for hashes in upstream.clients.values() for one in hashes],
            paths=upstream.client_paths,
        )
        for name, upstream in settings.upstreams.items()
        if upstream.holds_key
    }


def _policies(settings: Settings, metrics: Metrics) -> Policies | None:
    if settings.policies is None:
        return None
    answer = Answer(settings.deferral.default_answer)
    return open_policies(settings.policies, default_answer=answer, metrics=metrics)


def _session(settings: Settings, worker: Worker | None) -> str:
    """Return what calls of a run belong to that name no session.

    The embedded store's proxy starts and ends with the script, or at least may: what
    comes after its start is a new session. A fleet runs on, and cannot tell.
    """
    if settings.store.path is None:
        return ""
    return secrets.token_hex(8) if worker is None else worker.session


def price_book(settings: Settings) -> PriceBook:
    """Return what models cost, for commands that run beside a proxy.

    Raises:
        ConfigError: if the operator's list cannot be used.
    """
    return book_of(settings, _price_reader(settings))


def _price_reader(settings: Settings) -> Callable[[], PriceList]:
    """Return what reads the prices. A list of the operator's is read now: it may be wrong."""
    if settings.prices.file is None:
        return read_prices
    stated = read_prices(settings.prices.file)
    return lambda: stated


def _facts_file(settings: Settings, worker: Worker | None) -> FactsFile | None:
    recording = settings.recording
    if recording.path is None:
        return None
    path = recording.path
    if worker is not None:
        # Two that write one file would mix their lines, and turn it over twice. No number
        # alone: `.1` is what the older half of a file is called.
        path = path.with_name(f"{path.name}.worker-{worker.number}")
    return FactsFile(path, max_bytes=recording.max_bytes)


def _open_vault(settings: Settings) -> Vault:
    path, key_file = settings.store.path, settings.secret_key_file
    if path is None:
        if key_file is None:
            raise ConfigError("secret_key_file: is required with Redis")
        # Never made here: an instance with keys of its own could open nobody's jobs.
        return Vault.load(key_file)
    return Vault.load_or_create(key_file or path.with_suffix(".key"))


async def _open_stores(
    stack: AsyncExitStack, settings: Settings, vault: Vault
) -> tuple[Stores, str]:
    """Open what the store's URL names; return it, and what of it outlives what."""
    path = settings.store.path
    if path is not None:
        embedded = await SqliteStores.open(path, vault)
        stack.push_async_callback(embedded.aclose)
        return embedded, settings.durability
    # The library takes 9 MB and a fifth of a second: only for who uses it.
    from proxy.stores.redis import RedisStores  # noqa: PLC0415

    # A group of their own, ended after all who use the stores.
    tasks = await stack.enter_async_context(_task_group())
    keep = max(timedelta(days=90), 4 * settings.retention.results)
    shared = await RedisStores.open(settings.store.url, vault, tasks, keep=keep)
    stack.push_async_callback(shared.aclose)
    return shared, f"{settings.durability}, {await shared.durability()}"


def _caller_bounds(settings: Settings) -> CallerBounds:
    callers = settings.callers
    return CallerBounds(
        max_connections=callers.max_connections,
        head_s=callers.head_timeout.total_seconds(),
        max_field_bytes=callers.max_field_bytes,
        max_fields=callers.max_fields,
    )


def _client_limits(settings: Settings) -> ClientLimits:
    forwarding = settings.forwarding
    return ClientLimits(
        connect_s=forwarding.connect_timeout.total_seconds(),
        first_byte_s=forwarding.first_byte_timeout.total_seconds(),
        idle_s=forwarding.idle_timeout.total_seconds(),
        max_connections=forwarding.max_connections,
    )
