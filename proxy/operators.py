"""The side of the application that operators see: what it says of itself, and where.

What the listener answers is `proxy.web.operators.admin` and the dashboard; here they meet the house
that runs.
"""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import date
from urllib.parse import urlsplit

from aiohttp import web

from proxy.assembly import House, Outside
from proxy.core.batch import Batch
from proxy.core.errors import StoreUnavailableError
from proxy.core.ledger import Booking
from proxy.services.insight import Insight
from proxy.settings import Address, Settings
from proxy.telemetry import Metrics
from proxy.web.dashboard.about import About
from proxy.web.dashboard.pages import add_dashboard
from proxy.web.handshakes import BACKLOG, Handshakes, SecureSite
from proxy.web.operators.admin import Readiness, admin_application, worker_application
from proxy.web.operators.guard import AdminAccess
from proxy.web.operators.server import OperatorsRunner
from proxy.web.operators.worker_set import Workers
from proxy.workers import Worker, cannot_listen


class OperatorFacts:
    """What the admin listener asks, and the one order that it may give."""

    def __init__(
        self,
        settings: Settings,
        house: House,
        outside: Outside,
        on_stop: Callable[[], None],
        worker: Worker | None,
    ) -> None:
        self.settings = settings
        self.worker = worker
        self._house = house
        self._policies = outside.policies
        self._on_stop = on_stop
        self._durability = outside.durability
        self.draining = False
        """Whether the end has begun."""

    @property
    def insight(self) -> Insight:
        return self._house.insight

    @property
    def about(self) -> About:
        """What the dashboard says of this instance."""
        settings = self.settings
        hooks = settings.webhooks.items()
        return About(
            instance=self._house.ground.leases.instance,
            store=settings.store.scheme,
            durability=self._durability.known.words,
            is_durable=self._durability.known.is_durable,
            is_ephemeral=settings.durability == "ephemeral",
            base_url=f"{'https' if settings.tls else 'http'}://{settings.listen}",
            webhook_hosts={name: urlsplit(hook.url).hostname or "" for name, hook in hooks},
            upstreams=frozenset(settings.upstreams),
        )

    async def readiness(self) -> Readiness:
        ground = self._house.ground
        alive = await ground.leases.alive()
        if not ground.leases.is_noted():
            # A full disk can be read.
            raise StoreUnavailableError("the store answers, and takes nothing that is written")
        return Readiness(
            draining=self.draining,
            durability=self._durability.known.words,
            policies=self._policies.current().generation if self._policies else 0,
            instance=ground.leases.instance,
            store=self.settings.store.scheme,
            alive=sorted(alive),
        )

    async def batches(self, *, limit: int) -> Sequence[Batch]:
        return await self._house.ground.batches.recent(limit=limit)

    async def revive(self, webhook: str) -> int | None:
        if webhook not in self.settings.webhooks:
            return None
        ground = self._house.ground
        return await ground.notices.revive(webhook, at=ground.now())

    def today(self) -> date:
        return self._house.ground.now().date()

    async def ledger(self, *, since: date, until: date) -> Sequence[Booking]:
        return await self._house.ground.books.rows(since=since, until=until)

    def prices(self) -> Mapping[str, str]:
        listed = self._house.prices.list
        return {"as_of": listed.as_of, "source": listed.source}

    def reload(self) -> None:
        if self._policies is not None:
            self._policies.ask()
            self._house.scheduler.wake("policies")
        if self.settings.tls is not None or self.settings.admin.tls is not None:
            self._house.scheduler.wake("certificates")

    def drain(self) -> None:
        if self.worker is not None and self.worker.supervisor == os.getppid():
            # The order is for all workers, and the supervisor knows them.
            os.kill(self.worker.supervisor, signal.SIGTERM)
        else:
            # Whoever adopted a worker is told nothing: it may be the first process of a host.
            self.leave()

    def leave(self) -> None:
        """Make no more promises, and let the end begin. May be called more than once."""
        if self.draining:
            return
        self.draining = True
        self._house.drain()
        self._on_stop()


async def listen_to_operators(
    stack: AsyncExitStack,
    facts: OperatorFacts,
    metrics: Metrics,
    handshakes: Handshakes | None,
) -> str:
    """Open the operators' listener, of this process or of all its workers; return its URL.

    Raises:
        ConfigError: if the address cannot be had.
    """
    settings, worker = facts.settings.admin, facts.worker
    access = AdminAccess(
        allowed_hosts=settings.allowed_hosts,
        loopback=settings.listen.is_loopback,
        token=settings.read_token(),
    )
    workers = None
    if worker is not None:
        workers = Workers(worker.sockets)
        alone = web.AppRunner(worker_application(facts, metrics=metrics), access_log=None)
        await alone.setup()
        stack.push_async_callback(alone.cleanup)
        own = worker.sockets[worker.number]
        own.unlink(missing_ok=True)
        await web.UnixSite(alone, str(own)).start()
    application = admin_application(
        facts, metrics=metrics, access=access, now=facts.insight.now, workers=workers
    )
    add_dashboard(application, facts.insight, access=access, about=facts.about)
    runner = OperatorsRunner(application, access_log=None, shutdown_timeout=1.0)
    shared = worker is not None
    return await listen(stack, runner, settings.listen, shared=shared, handshakes=handshakes)


async def listen(
    stack: AsyncExitStack,
    runner: web.BaseRunner,
    at: Address,
    *,
    handshakes: Handshakes | None,
    shared: bool = False,
    on_refused: Callable[[], None] = lambda: None,
) -> str:
    """Listen, on a port that other workers listen on too if it is `shared`; return the URL.

    With `handshakes` the listener speaks TLS, and `on_refused` is called for each connection
    that was one too many.

    Raises:
        ConfigError: if the address cannot be had.
    """
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    reuse_port = True if shared else None
    site: web.BaseSite
    if handshakes is None:
        site = web.TCPSite(
            runner,
            at.host,
            at.port,
            backlog=BACKLOG,
            reuse_address=True,
            reuse_port=reuse_port,
        )
    else:
        site = SecureSite(
            runner,
            at.host,
            at.port,
            terms=handshakes,
            reuse_port=reuse_port,
            on_refused=on_refused,
        )
    try:
        await site.start()
    except OSError as exc:
        raise cannot_listen(at, exc) from exc
    host, port = runner.addresses[0][:2]
    return f"{'http' if handshakes is None else 'https'}://{Address(host, port)}"
