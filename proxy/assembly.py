"""Put the services and the web together over ports; no adapter is named here."""

import random
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

from policies.model import Answer
from policies.policy import Policy
from proxy.core.dialects import DIALECTS, ErrorAnswer, error_answer
from proxy.core.errors import ProxyError
from proxy.core.fields import RawHeaders
from proxy.core.ids import RANDOM_BYTES, BatchId, InstanceId, mint_batch_id
from proxy.core.prices import PriceList
from proxy.core.turnaround import usual_batch
from proxy.core.upstream import Upstream
from proxy.ports.batches import BatchStore, LeaseStore, UnbatchableStore
from proxy.ports.clock import Clock, KeyedHash
from proxy.ports.jobs import CredentialStore, DeliveryStore, JobStore, QueueStore
from proxy.ports.ledger import LedgerStore
from proxy.ports.notes import NoteStore
from proxy.ports.notices import NoticeStore
from proxy.ports.passes import AT_ONCE, Wake
from proxy.ports.provider import Provider
from proxy.ports.runs import RunStore
from proxy.ports.tasks import TaskOwner
from proxy.ports.upstream import UpstreamClient
from proxy.ports.wakeups import Wakeups
from proxy.scheduler import Pass, Scheduler
from proxy.services.accept import Acceptor, DeferralSettings
from proxy.services.access import Access
from proxy.services.accounts import Accounts, Limits
from proxy.services.bookkeeping import Bookkeeper
from proxy.services.budget import Budget, HourlyLimits
from proxy.services.call import DirectCaller
from proxy.services.clients import Clients, HeldCredentials, HeldKey
from proxy.services.collect import Collector
from proxy.services.deliver import Deliverer, Endpoint
from proxy.services.dispatch import Flusher
from proxy.services.escalate import EscalationLimits, Escalator, LaneCaps
from proxy.services.facts import Recorder, Sink
from proxy.services.flex import FlexTier
from proxy.services.governor import TokenGovernor
from proxy.services.ground import Ground
from proxy.services.ingest import Ingestor
from proxy.services.insight import Counts, Insight, counts_of
from proxy.services.leases import Leases
from proxy.services.outlook import Outlook
from proxy.services.owners import Owners
from proxy.services.paces import Paces
from proxy.services.policies import Policies
from proxy.services.prices import PriceBook, book_of
from proxy.services.prune import Pruner
from proxy.services.repeats import Repeats
from proxy.services.rescue import Rescuer
from proxy.services.settle import Settler
from proxy.services.submit import Submitter, SubmitTimes
from proxy.services.trickle import TrickleHours
from proxy.services.verify import Verifier
from proxy.services.waiters import Waiters
from proxy.services.withdraw import Withdrawer
from proxy.settings import Settings
from proxy.telemetry import Metrics
from proxy.web.answers import Answers
from proxy.web.calls import Calls
from proxy.web.certificates import Certificate, Certificates
from proxy.web.forward import Forwarder
from proxy.web.front import Front
from proxy.web.gauges import Gauges
from proxy.web.held import Holder
from proxy.web.holding import PASS_INTERVAL_S, Holding
from proxy.web.jobs import JobsApi
from proxy.web.notices import notice_payload


class Stores(Protocol):
    """One store in all its parts."""

    @property
    def jobs(self) -> JobStore: ...

    @property
    def queue(self) -> QueueStore: ...

    @property
    def deliveries(self) -> DeliveryStore: ...

    @property
    def credentials(self) -> CredentialStore: ...

    @property
    def batches(self) -> BatchStore: ...

    @property
    def unbatchable(self) -> UnbatchableStore: ...

    @property
    def leases(self) -> LeaseStore: ...

    @property
    def runs(self) -> RunStore: ...

    @property
    def wakeups(self) -> Wakeups: ...

    @property
    def notes(self) -> NoteStore: ...

    @property
    def ledger(self) -> LedgerStore: ...

    @property
    def notices(self) -> NoticeStore: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Everything that the house needs of the world."""

    stores: Stores
    keyed_hash: KeyedHash
    clock: Clock
    upstreams: Mapping[str, Upstream]
    providers: Mapping[str, Provider]
    """The batch API of each upstream that has one."""

    client: UpstreamClient
    tasks: TaskOwner
    metrics: Metrics
    read_prices: Callable[[], PriceList]
    """Reads what models cost; asked when that is first needed."""

    random: Callable[[int], bytes] = secrets.token_bytes
    """Where the IDs of jobs and batches come from: so many bytes that nobody can guess."""

    session: str = ""
    """What a call belongs to whose run names no session: see `Run`."""

    usual: RawHeaders = ()
    """Headers of ours that hold for calls which do not carry them."""

    policies: Policies | None = None
    """The rules, if there is a file of them."""

    held: Mapping[str, HeldKey] = field(default_factory=dict)
    """Providers' keys that are held here, by upstream."""

    certificates: Sequence[Certificate] = ()
    """Of our listeners, to be read again when their files change."""

    facts: Sink | None = None
    """Where facts of calls are recorded, if they are."""

    counts: Counts | None = None
    """Where other processes share the port: asks all of them for what they counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What was built, as far as running and ending it needs to know."""

    front: Front
    ground: Ground
    holding: Holding
    escalator: Escalator
    deliverer: Deliverer
    scheduler: Scheduler
    first: Sequence[Callable[[], Awaitable[int]]]
    prices: PriceBook
    insight: Insight
    facts: Recorder | None = None

    async def warm_up(self) -> None:
        """Learn from the store what a call must not wait for; before the first call.

        Otherwise a known key counts as unverified until the first pass has run.
        """
        for run_once in self.first:
            await run_once()

    def drain(self) -> None:
        """Make no more promises, and begin nothing that cannot be finished soon."""
        self.front.drain()
        self.holding.drain()
        self.escalator.stop()


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the background and the web both use."""

    ground: Ground
    prices: PriceBook
    access: Access
    caller: DirectCaller
    accounts: Accounts
    outlook: Outlook
    waiters: Waiters
    holding: Holding
    repeats: Repeats
    acceptor: Acceptor
    withdrawer: Withdrawer
    facts: Recorder | None


QUICK: Final = timedelta(milliseconds=500)
"""Passes that a caller may be waiting for; each asks the store once and finds mostly nothing."""

CALM: Final = timedelta(seconds=5)
SLOW: Final = timedelta(minutes=10)


def assemble(settings: Settings, outside: Outside) -> House:
    """Return the house, built and not yet running."""

    def wake(name: str, *, within: timedelta = AT_ONCE) -> None:
        scheduler.wake(name, within=within)

    shared = _shared(settings, outside, wake)
    escalator = Escalator(
        shared.ground,
        access=shared.access,
        caller=shared.caller,
        waiters=shared.waiters,
        limits=_escalation(settings),
        outlook=shared.outlook,
        budget=Budget(
            outside.stores.notes,
            outside.clock,
            HourlyLimits(
                calls=settings.lanes.max_calls_per_hour, tokens=settings.lanes.max_tokens_per_hour
            ),
        ),
        tasks=outside.tasks,
    )
    deliverer = _deliverer(settings, outside, shared.ground)
    scheduler = Scheduler(
        [
            *_batch_passes(settings, outside, shared),
            *_other_passes(settings, outside, shared, escalator, deliverer),
        ],
        clock=outside.clock,
        metrics=outside.metrics,
        jitter=_jitter,
    )
    return House(
        front=_front(settings, outside, shared),
        ground=shared.ground,
        holding=shared.holding,
        escalator=escalator,
        deliverer=deliverer,
        scheduler=scheduler,
        facts=shared.facts,
        prices=shared.prices,
        insight=_insight(settings, outside, shared),
        first=(
            shared.ground.leases.run_once,
            shared.accounts.run_once,
            shared.outlook.run_once,
            shared.repeats.run_once,
        ),
    )


def _insight(settings: Settings, outside: Outside, shared: _Shared) -> Insight:
    return Insight(
        shared.ground,
        ledger=outside.stores.ledger,
        counts=outside.counts or counts_of(outside.metrics),
        expects=shared.outlook.turnaround,
        policy=outside.policies.current if outside.policies else None,
        webhooks=tuple(settings.webhooks),
    )


def _shared(settings: Settings, outside: Outside, wake: Wake) -> _Shared:
    stores, clock, metrics = outside.stores, outside.clock, outside.metrics
    leases = Leases(
        store=stores.leases,
        clock=clock,
        instance=InstanceId(f"instance-{secrets.token_hex(8)}"),
        ttl=settings.instance.lease,
    )
    prices = book_of(settings, outside.read_prices)
    credentials = HeldCredentials(stores.credentials, outside.held)
    ground = Ground(
        jobs=stores.jobs,
        queue=stores.queue,
        deliveries=stores.deliveries,
        credentials=credentials,
        batches=stores.batches,
        notices=stores.notices,
        clock=clock,
        leases=leases,
        books=Bookkeeper(prices=prices, ledger=stores.ledger, clock=clock, tally=metrics),
        tally=metrics,
        wake=wake,
    )
    access = Access(
        providers=outside.providers, credentials=credentials, clock=clock, tally=metrics
    )
    caller = DirectCaller(outside.client, outside.upstreams)
    deferral = settings.deferral
    accounts = Accounts(
        credentials=credentials,
        jobs=stores.jobs,
        clock=clock,
        verify=Verifier(caller, outside.upstreams),
        limits=Limits(
            owner_jobs=deferral.max_pending_jobs,
            owner_bytes=deferral.max_pending_bytes,
            unverified_jobs=deferral.max_unverified_jobs,
            unverified_bytes=deferral.max_unverified_bytes,
        ),
    )
    outlook = _outlook(settings, outside, prices)
    return _Shared(
        ground=ground,
        prices=prices,
        access=access,
        caller=caller,
        accounts=accounts,
        waiters=Waiters(jobs=stores.jobs, clock=clock, wakeups=stores.wakeups),
        holding=Holding(
            deliveries=stores.deliveries,
            clock=clock,
            tasks=outside.tasks,
            max_held=deferral.max_held,
        ),
        repeats=Repeats(deliveries=stores.deliveries, jobs=stores.jobs, clock=clock, tally=metrics),
        outlook=outlook,
        acceptor=_acceptor(settings, outside, accounts, outlook, wake),
        withdrawer=Withdrawer(ground),
        facts=_facts(settings, outside),
    )


def _facts(settings: Settings, outside: Outside) -> Recorder | None:
    if outside.facts is None:
        return None
    return Recorder(
        outside.facts,
        sample=settings.recording.sample,
        draw=random.random,
        tally=outside.metrics,
        headers=settings.recording.headers,
    )


def _outlook(settings: Settings, outside: Outside, prices: PriceBook) -> Outlook:
    trickle = settings.lanes.trickle
    return Outlook(
        notes=outside.stores.notes,
        unbatchable=outside.stores.unbatchable,
        providers=outside.providers,
        upstreams=outside.upstreams,
        clock=outside.clock,
        times=settings.lanes.times(),
        flex=FlexTier(outside.upstreams, enabled=settings.lanes.flex.enabled),
        usual=usual_batch(settings.lanes.turnaround),
        price=prices.price,
        trickle=TrickleHours(calls_per_s=trickle.calls_per_s, window=trickle.window())
        if trickle.enabled
        else None,
    )


def _escalation(settings: Settings) -> EscalationLimits:
    lanes = settings.lanes
    return EscalationLimits(
        interactive=LaneCaps(concurrent=lanes.max_concurrent_calls, calls_per_s=lanes.calls_per_s),
        flex=LaneCaps(
            concurrent=lanes.flex.max_concurrent_calls,
            calls_per_s=lanes.flex.calls_per_s,
            timeout=lanes.flex.call_time,
        ),
        trickle=LaneCaps(
            concurrent=lanes.trickle.max_concurrent_calls, calls_per_s=lanes.trickle.calls_per_s
        ),
    )


def _acceptor(
    settings: Settings, outside: Outside, accounts: Accounts, outlook: Outlook, wake: Wake
) -> Acceptor:
    return Acceptor(
        jobs=outside.stores.jobs,
        outlook=outlook,
        runs=outside.stores.runs,
        session=outside.session,
        providers=outside.providers,
        accounts=accounts,
        keyed_hash=outside.keyed_hash,
        clock=outside.clock,
        random=outside.random,
        wake=wake,
        settings=DeferralSettings(
            linger=settings.batching.linger,
            default_deadline=settings.deferral.default_deadline,
            max_body_bytes=settings.deferral.max_body_bytes,
            ephemeral=settings.durability == "ephemeral",
            anonymous=frozenset(
                name for name, upstream in settings.upstreams.items() if upstream.anonymous
            ),
            webhooks={
                name: None if webhook.owners is None else frozenset(webhook.owners)
                for name, webhook in settings.webhooks.items()
            },
        ),
    )


def _batch_passes(settings: Settings, outside: Outside, shared: _Shared) -> list[Pass]:
    """Return what moves jobs through batches."""
    ground, access = shared.ground, shared.access
    outlook, pace = shared.outlook, settings.batching.pace()
    governor = TokenGovernor(outside.stores.notes, settings.batching.max_tokens)
    flusher = Flusher(
        ground,
        access=access,
        governor=governor,
        limits=settings.batching.flush_limits(),
        outlook=outlook,
        new_batch_id=lambda: _new_batch_id(outside),
    )
    submitter = Submitter(
        ground,
        access=access,
        times=SubmitTimes(
            create_timeout=settings.batching.create_timeout,
            search_pause=settings.batching.search_pause,
        ),
        outlook=outlook,
        pace=pace,
    )
    settler = Settler(
        ground,
        access=access,
        ingestor=Ingestor(ground, access=access, waiters=shared.waiters),
        governor=governor,
        outlook=outlook,
    )
    collector = Collector(
        ground, access=access, settler=settler, outlook=outlook, governor=governor, pace=pace
    )
    return [
        Pass("flush", QUICK, flusher.run_once),
        Pass("submit", QUICK, submitter.run_once),
        Pass("collect", QUICK, collector.run_once),
    ]


def _new_batch_id(outside: Outside) -> BatchId:
    return mint_batch_id(outside.clock.now(), random=outside.random(RANDOM_BYTES))


def _jitter() -> float:
    return random.uniform(0.9, 1.1)  # noqa: S311 - spreads a fleet, protects nothing


def _deliverer(settings: Settings, outside: Outside, ground: Ground) -> Deliverer:
    return Deliverer(
        ground,
        endpoints=[
            Endpoint.at(name, webhook.url, secrets=webhook.keys(), timeout=webhook.timeout)
            for name, webhook in settings.webhooks.items()
        ],
        client=outside.client,
        payload=notice_payload,
        jitter=_jitter,
        tasks=outside.tasks,
    )


def _other_passes(
    settings: Settings,
    outside: Outside,
    shared: _Shared,
    escalator: Escalator,
    deliverer: Deliverer,
) -> list[Pass]:
    ground = shared.ground
    rescuer = Rescuer(
        ground, waiters=shared.waiters, verify=Verifier(shared.caller, outside.upstreams)
    )
    pruner = Pruner(
        ground,
        ledger=outside.stores.ledger,
        keep_results=settings.retention.results,
        keep_ledger=settings.retention.ledger,
    )
    certificates = Certificates(outside.certificates)
    gauges = Gauges(
        ground,
        outside.metrics,
        shared.holding,
        ledger=outside.stores.ledger,
        webhooks=tuple(settings.webhooks),
    )
    return [
        Pass("live", settings.instance.lease / 3, ground.leases.run_once),
        Pass("escalate", QUICK, escalator.run_once),
        Pass("rescue", CALM, rescuer.run_once),
        Pass("withdraw", CALM, shared.withdrawer.run_once),
        Pass("prune", SLOW, pruner.run_once),
        Pass("accounts", CALM, shared.accounts.run_once),
        Pass("verify", CALM / 5, shared.accounts.verify_once),
        Pass("outlook", CALM, shared.outlook.run_once),
        Pass("repeats", CALM / 5, shared.repeats.run_once),
        Pass("holding", timedelta(seconds=PASS_INTERVAL_S), shared.holding.run_once),
        Pass("gauges", CALM, gauges.run_once),
        Pass("money", CALM * 6, gauges.show_money),
        *([Pass("deliver", CALM / 5, deliverer.run_once)] if settings.webhooks else []),
        *([Pass("policies", CALM / 5, outside.policies.run_once)] if outside.policies else []),
        *([Pass("facts", CALM / 5, shared.facts.run_once)] if shared.facts else []),
        *([Pass("certificates", CALM * 6, certificates.run_once)] if outside.certificates else []),
    ]


def _front(settings: Settings, outside: Outside, shared: _Shared) -> Front:
    stores, clock = outside.stores, outside.clock
    calls = Calls(recorder=outside.metrics, clock=clock, facts=shared.facts)
    named = [settings.owners, *(one.clients for one in settings.upstreams.values())]
    names = {token: name for each in named for name, tokens in each.items() for token in tokens}
    owners = Owners(keyed_hash=outside.keyed_hash, names=names, held=outside.held)
    holder = Holder(
        jobs=stores.jobs,
        waiters=shared.waiters,
        holding=shared.holding,
        clock=clock,
        heartbeat_after_s=settings.deferral.heartbeat_after.total_seconds(),
        heartbeat_every_s=settings.deferral.heartbeat_every.total_seconds(),
    )
    return Front(
        upstreams=outside.upstreams,
        policy=_policy(settings, outside.policies),
        forwarder=Forwarder(
            outside.client,
            error_response=_error_response,
            on_done=calls.forwarded,
            # Nothing at all stands in the way of answers where nothing is recorded.
            tap=calls.tap if shared.facts is not None else None,
            annotation=calls.annotation if settings.annotate else None,
        ),
        acceptor=shared.acceptor,
        answers=Answers(holder=holder, holding=shared.holding, outlook=shared.outlook, clock=clock),
        repeats=shared.repeats,
        paces=Paces(),
        owners=owners,
        clients=Clients(outside.held),
        accounts=shared.accounts,
        jobs_api=JobsApi(
            jobs=stores.jobs,
            batches=stores.batches,
            books=shared.ground.books,
            owners=owners,
            waiters=shared.waiters,
            holder=holder,
            holding=shared.holding,
            upstreams=outside.upstreams,
            outlook=shared.outlook,
            clock=clock,
        ),
        calls=calls,
        clock=clock,
        max_body_bytes=settings.deferral.max_body_bytes,
        withdraw=shared.withdrawer.note,
        usual=outside.usual,
        forwards_without_store=settings.deferral.when_store_away == "forward",
    )


def _policy(settings: Settings, policies: Policies | None) -> Callable[[], Policy]:
    if policies is not None:
        return policies.current
    policy = Policy(default_answer=Answer(settings.deferral.default_answer))
    return lambda: policy


def _error_response(dialect: str, error: ProxyError) -> ErrorAnswer:
    return error_answer(DIALECTS[dialect].family, error)
