"""Open what the configuration names: stores, keys, clients and files.

What has an end is closed with the stack that is given.
"""

import asyncio
import stat
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from proxy.app.machine import SystemClock, task_group
from proxy.core.errors import ConfigError
from proxy.core.lanes import rough_duration
from proxy.core.price_list import PriceList
from proxy.core.upstream import Upstream
from proxy.ports.clock import Clock
from proxy.ports.stores import Durability, Stores
from proxy.ports.upstream import ClientLimits, UpstreamClient
from proxy.services.durability import DurabilityWatch
from proxy.services.ledger.prices import PriceBook, book_of
from proxy.settings import Settings
from proxy.stores.facts_file import FactsFile
from proxy.stores.price_file import check_providers, read_prices, shipped_prices
from proxy.stores.sqlite import SqliteStores
from proxy.stores.sqlite.schema import is_ours
from proxy.stores.vault import Vault
from proxy.upstreams.aiohttp_client import AiohttpClient
from proxy.upstreams.lean_client import LeanClient
from proxy.workers import Worker

if TYPE_CHECKING:
    from proxy.stores.redis import RedisStores

log = structlog.get_logger()

CLOCKS_DIFFER: Final = timedelta(seconds=5)
"""More than the way to Redis takes, and less than the shortest deadline that makes sense."""

KEEP_IN_STEP: Final = "deadlines go by each machine's clock: keep them in step (NTP)"

EMPTIED: Final = (
    "Redis has lost what it held, as by FLUSHALL or a restart without files: jobs from before are"
    " gone, and what their batches bought is neither read nor booked"
)

_CLIENTS: Final[Mapping[str, type[LeanClient] | type[AiohttpClient]]] = {
    "lean": LeanClient,
    "aiohttp": AiohttpClient,
}


def open_vault(settings: Settings) -> Vault:
    """Return the vault, with the keys that the configuration names or that lie beside the store.

    Raises:
        ProxyError: if there are none to read, and none may be made.
    """
    path, key_file = settings.store.path, settings.secret_key_file
    if path is None:
        if key_file is None:
            raise ConfigError("secret_key_file: is required with Redis")
        # Never made here: an instance with keys of its own could open nobody's jobs.
        return Vault.load(key_file)
    keys = key_file or path.with_suffix(".key")
    # The store first: of processes that start at once, whoever sees one finds its keys, too.
    if (found := _found(path)) and not keys.exists():
        # New ones would open nothing, and stand where the right ones must be put back.
        raise ConfigError(
            f"key file {keys} is missing, and {found}",
            hint="put the key file back, or name it by secret_key_file; without it the store"
            " cannot be read: to begin anew, move that away, too",
        )
    return Vault.load_or_create(keys)


def _found(path: Path) -> str | None:
    """Return what is in the place of the store, if anything is."""
    if is_ours(path):
        return f"the store {path} was made with one"
    with suppress(OSError):
        # It may be one whose first pages are all in its log yet.
        if path.stat().st_size:
            return f"there is something else, or a damaged store, at {path}"
    return None


async def open_stores(
    stack: AsyncExitStack, settings: Settings, vault: Vault, clock: Clock
) -> tuple[Stores, DurabilityWatch]:
    """Open the stores that the URL names; return them and what knows how durable they are.

    A fleet whose clocks differ is warned: a deadline that one instance promised is over by the
    clock of another, and jobs expire that nobody has called.
    """
    path = settings.store.path
    if path is not None:
        embedded = await SqliteStores.open(path, vault)
        stack.push_async_callback(embedded.aclose)
        _tell_of_mode(path)
        return embedded, DurabilityWatch(Durability(settings.durability, is_durable=True))
    # The library takes 9 MB and a fifth of a second: imported only where it is used.
    from proxy.stores.redis import RedisStores  # noqa: PLC0415

    # A group of their own, ended after all who use the stores.
    tasks = await stack.enter_async_context(task_group())
    results = settings.retention.results
    keep = max(timedelta(days=90), 4 * results)
    shared = await RedisStores.open(settings.store.url, vault, tasks, keep=keep, results=results)
    stack.push_async_callback(shared.aclose)
    ahead = await shared.ahead_of(clock.now())
    if abs(ahead) > CLOCKS_DIFFER:
        log.warning("clock.doubted", redis_ahead_s=round(ahead.total_seconds()), hint=KEEP_IN_STEP)
    ask = partial(_durability_of, shared, settings.durability, clock)
    return shared, DurabilityWatch(await ask(), ask)


async def _durability_of(shared: "RedisStores", promised: str, clock: Clock) -> Durability:
    if await shared.mark():
        log.error("store.emptied", hint=EMPTIED)
    found = await shared.durability()
    # Nobody may read "durable" where jobs can be lost.
    is_false = promised == "durable" and not found.is_durable
    words = f"{'not ' * is_false}{promised}, {found.words}"
    ahead = await shared.ahead_of(clock.now())
    if abs(ahead) > CLOCKS_DIFFER:
        which = "ahead of" if ahead > timedelta() else "behind"
        words += f"; its clock is {rough_duration(abs(ahead))} {which} this machine's"
    return Durability(words, found.is_durable)


def _tell_of_mode(path: Path) -> None:
    """Log that others may read the store, as may happen when it is restored from a backup.

    It is not refused: a file system without modes shows every file like that.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & stat.S_IRWXO:
        log.warning("store.exposed", path=str(path), mode=f"{mode:04o}", hint=f"chmod 600 {path}*")


def open_client(
    stack: AsyncExitStack, settings: Settings, tasks: asyncio.TaskGroup
) -> UpstreamClient:
    """Return the client of forwarded calls, closed with the stack.

    Raises:
        ConfigError: if the environment names a web proxy that cannot be used.
    """
    forwarding = settings.forwarding
    client = _CLIENTS[forwarding.client](
        tasks, _client_limits(settings), web_proxy_of=forwarding.web_proxy_of()
    )
    stack.push_async_callback(client.aclose)
    return client


def tell_of_web_proxy(settings: Settings, upstreams: Mapping[str, Upstream]) -> None:
    """Log which upstreams are reached through a web proxy, if any are; never its password.

    It is the environment that names it, which nobody sees who reads the configuration.
    """
    web_proxy_of = settings.forwarding.web_proxy_of()
    through: dict[str, list[str]] = {}
    for name, upstream in upstreams.items():
        if (web_proxy := web_proxy_of(upstream)) is not None:
            through.setdefault(web_proxy.authority, []).append(name)
    for authority, names in through.items():
        log.info("web_proxy.used", web_proxy=authority, upstreams=sorted(names))


def _client_limits(settings: Settings) -> ClientLimits:
    forwarding = settings.forwarding
    return ClientLimits(
        connect_s=forwarding.connect_timeout.total_seconds(),
        first_byte_s=forwarding.first_byte_timeout.total_seconds(),
        idle_s=forwarding.idle_timeout.total_seconds(),
        max_connections=forwarding.max_connections,
        max_per_upstream=forwarding.max_per_upstream,
    )


def price_book(settings: Settings) -> PriceBook:
    """Return what models cost, for commands that run beside a proxy.

    Raises:
        ConfigError: if the operator's list cannot be used.
    """
    return book_of(settings, price_reader(settings), SystemClock())


def price_reader(settings: Settings) -> Callable[[], PriceList]:
    """Return what reads the prices. What an operator configured about them is checked now.

    If nothing is configured, only the bytes of the shipped list are read: later the process may
    have no file left to open it with.
    """
    prices = settings.prices
    if prices.file is None and not prices.providers:
        return shipped_prices()
    known = read_prices(prices.file)
    check_providers(prices.providers, known)
    return lambda: known


def facts_file(settings: Settings, worker: Worker | None) -> FactsFile | None:
    """Return where facts of calls are recorded, if they are: one file for each worker."""
    recording = settings.recording
    if recording.path is None:
        return None
    path = recording.path
    if worker is not None:
        # Two that write one file would mix their lines, and turn it over twice. Not told apart by a
        # number alone: `.1` is what the older half of a file is called.
        path = path.with_name(f"{path.name}.worker-{worker.number}")
    return FactsFile(path, max_bytes=recording.max_bytes)
