"""What the background and the web both use, built once."""

import random
import secrets
from dataclasses import dataclass

from proxy.assembly.outside import Outside
from proxy.core.ids import InstanceId
from proxy.core.turnaround import usual_batch
from proxy.ports.jobs import CredentialStore
from proxy.ports.passes import Wake
from proxy.services.access import Access
from proxy.services.callers.accounts import Accounts
from proxy.services.callers.clients import HeldCredentials
from proxy.services.callers.quota import Limits
from proxy.services.callers.verify import Verifier
from proxy.services.deferral.accept import Acceptor, DeferralSettings
from proxy.services.deferral.keys import IdempotencyKeys
from proxy.services.deferral.repeats import Repeats
from proxy.services.deferral.withdraw import Withdrawer
from proxy.services.direct.call import DirectCaller
from proxy.services.experience import Experience
from proxy.services.flex import FlexTier
from proxy.services.ground import Ground
from proxy.services.leases import Leases
from proxy.services.ledger.bookkeeping import Bookkeeper
from proxy.services.ledger.prices import PriceBook, book_of
from proxy.services.outlook import Outlook
from proxy.services.traffic.facts import Recorder
from proxy.services.trickle import TrickleHours
from proxy.services.waiters import Waiters
from proxy.settings import Settings
from proxy.web.answering.ending_notes import EndingNotes
from proxy.web.answering.holding import Holding


@dataclass(frozen=True, slots=True)
class Shared:
    """What the background and the web both use."""

    ground: Ground
    prices: PriceBook
    access: Access
    caller: DirectCaller
    verify: Verifier
    accounts: Accounts
    outlook: Outlook
    waiters: Waiters
    holding: Holding
    ending_notes: EndingNotes
    repeats: Repeats
    acceptor: Acceptor
    withdrawer: Withdrawer
    facts: Recorder | None


def shared_parts(settings: Settings, outside: Outside, wake: Wake) -> Shared:
    """Build what the background and the web both use. `wake` brings a pass forward."""
    stores, clock, metrics = outside.stores, outside.clock, outside.metrics
    prices = book_of(settings, outside.read_prices, clock)
    credentials = HeldCredentials(stores.credentials, outside.held)
    ground = _ground(settings, outside, credentials, prices, wake)
    caller = DirectCaller(outside.client, outside.upstreams, clock)
    verify = Verifier(caller, outside.upstreams)
    accounts = _accounts(settings, outside, credentials, verify)
    outlook = _outlook(settings, outside, prices)
    withdrawer = Withdrawer(ground)
    return Shared(
        ground=ground,
        prices=prices,
        access=Access(
            providers=outside.providers, credentials=credentials, clock=clock, tally=metrics
        ),
        caller=caller,
        verify=verify,
        accounts=accounts,
        waiters=Waiters(jobs=stores.jobs, clock=clock, wakeups=stores.wakeups),
        holding=Holding(
            deliveries=stores.deliveries, clock=clock, max_held=settings.deferral.max_held
        ),
        ending_notes=EndingNotes(deliveries=stores.deliveries, clock=clock, tasks=outside.tasks),
        repeats=Repeats(
            deliveries=stores.deliveries,
            jobs=stores.jobs,
            clock=clock,
            tally=metrics,
            on_claimed=withdrawer.keep,
            ends_sessions=bool(outside.session),
        ),
        outlook=outlook,
        acceptor=_acceptor(settings, outside, accounts, outlook, wake),
        withdrawer=withdrawer,
        facts=_facts(settings, outside),
    )


def _ground(
    settings: Settings,
    outside: Outside,
    credentials: CredentialStore,
    prices: PriceBook,
    wake: Wake,
) -> Ground:
    stores, clock, metrics = outside.stores, outside.clock, outside.metrics
    leases = Leases(
        store=stores.leases,
        clock=clock,
        instance=InstanceId(f"instance-{secrets.token_hex(8)}"),
        ttl=settings.instance.lease,
        notes=stores.notes,
    )
    return Ground(
        jobs=stores.jobs,
        queue=stores.queue,
        deliveries=stores.deliveries,
        credentials=credentials,
        batches=stores.batches,
        notices=stores.notices,
        clock=clock,
        leases=leases,
        books=Bookkeeper(price=prices.price, ledger=stores.ledger, clock=clock, tally=metrics),
        tally=metrics,
        wake=wake,
        setback=stores.setback,
    )


def _accounts(
    settings: Settings, outside: Outside, credentials: CredentialStore, verify: Verifier
) -> Accounts:
    deferral = settings.deferral
    return Accounts(
        credentials=credentials,
        jobs=outside.stores.jobs,
        clock=outside.clock,
        verify=verify,
        limits=Limits(
            owner_jobs=deferral.max_pending_jobs,
            owner_bytes=deferral.max_pending_bytes,
            unverified_jobs=deferral.max_unverified_jobs,
            unverified_bytes=deferral.max_unverified_bytes,
        ),
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
    experience = Experience(
        notes=outside.stores.notes,
        unbatchable=outside.stores.unbatchable,
        clock=outside.clock,
        times=settings.lanes.times(),
        usual=usual_batch(settings.lanes.turnaround),
    )
    return Outlook(
        experience,
        providers=outside.providers,
        upstreams=outside.upstreams,
        clock=outside.clock,
        flex=FlexTier(outside.upstreams, enabled=settings.lanes.flex.enabled),
        price=prices.price,
        trickle=TrickleHours(calls_per_s=trickle.calls_per_s, window=trickle.window())
        if trickle.enabled
        else None,
    )


def _acceptor(
    settings: Settings, outside: Outside, accounts: Accounts, outlook: Outlook, wake: Wake
) -> Acceptor:
    return Acceptor(
        jobs=outside.stores.jobs,
        outlook=outlook,
        keys=IdempotencyKeys(
            runs=outside.stores.runs,
            keyed_hash=outside.keyed_hash,
            clock=outside.clock,
            session=outside.session,
        ),
        providers=outside.providers,
        accounts=accounts,
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
