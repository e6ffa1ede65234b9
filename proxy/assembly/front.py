"""What callers meet, put together."""

from collections.abc import Callable

from policies.model import Answer
from policies.policy import Policy
from proxy.assembly.outside import Outside
from proxy.assembly.shared import Shared
from proxy.ports.clock import Clock
from proxy.services.callers.clients import Clients
from proxy.services.callers.owners import Owners
from proxy.services.deferral.cancel import Canceller
from proxy.services.deferral.paces import Paces
from proxy.services.policies import Policies
from proxy.settings import Settings
from proxy.web.answering.answers import Answers
from proxy.web.answering.held import Holder
from proxy.web.entrance.calls import Calls
from proxy.web.entrance.deferred_shortcut import DeferredShortcut
from proxy.web.entrance.deferrer import Deferrer
from proxy.web.entrance.front import Front
from proxy.web.entrance.heads import HeadReader
from proxy.web.entrance.known_heads import KnownHeads
from proxy.web.forwarding.forward import Forwarder
from proxy.web.forwarding.shortcut import Shortcut
from proxy.web.jobs_api.jobs import JobsApi


def front(settings: Settings, outside: Outside, shared: Shared) -> tuple[Front, KnownHeads | None]:
    """Return the handler of the data port and what knows the calls that pass it by, if any may."""
    clock = outside.clock
    calls = Calls(metrics=outside.metrics, clock=clock, facts=shared.facts)
    owners = _owners(settings, outside)
    holder = Holder(
        jobs=outside.stores.jobs,
        waiters=shared.waiters,
        holding=shared.holding,
        clock=clock,
        heartbeat_after_s=settings.deferral.heartbeat_after.total_seconds(),
        heartbeat_every_s=settings.deferral.heartbeat_every.total_seconds(),
    )
    policy = _policy(settings, outside.policies)
    deferrer = _deferrer(settings, shared, holder, calls, clock)
    known_heads = None
    # Whether a call is recorded is drawn before it is decided.
    if shared.facts is None:
        known_heads = _known_heads(settings, outside, shared, policy, calls, deferrer)
    # Nothing at all stands in the way of answers where nothing is recorded.
    tap = calls.tap if shared.facts is not None else None
    handler = Front(
        upstreams=outside.upstreams,
        heads=HeadReader(
            owners=owners, clients=Clients(outside.held), clock=clock, usual=outside.usual
        ),
        policy=policy,
        forwarder=Forwarder(
            outside.client,
            on_done=calls.forwarded,
            tap=tap,
            annotation=calls.annotation if settings.annotate else None,
        ),
        deferrer=deferrer,
        repeats=shared.repeats,
        accounts=shared.accounts,
        jobs_api=_jobs_api(outside, shared, holder, owners),
        calls=calls,
        max_body_bytes=settings.deferral.max_body_bytes,
        known_heads=known_heads,
    )
    return handler, known_heads


def _known_heads(
    settings: Settings,
    outside: Outside,
    shared: Shared,
    policy: Callable[[], Policy],
    calls: Calls,
    deferrer: Deferrer,
) -> KnownHeads:
    deferred = DeferredShortcut(
        deferrer,
        policy=policy,
        calls=calls,
        tasks=outside.tasks,
        max_body_bytes=settings.deferral.max_body_bytes,
    )
    # What cannot be deferred for a store that is away has to be forwarded then.
    forwards = settings.deferral.when_store_away == "forward"
    return KnownHeads(
        policy=policy,
        repeats=shared.repeats,
        accounts=shared.accounts,
        calls=calls,
        annotate=settings.annotate,
        forward=Shortcut(outside.client).begin,
        defer=None if forwards else deferred.begin,
    )


def _owners(settings: Settings, outside: Outside) -> Owners:
    named = [settings.owners, *(one.clients for one in settings.upstreams.values())]
    names = {token: name for each in named for name, tokens in each.items() for token in tokens}
    return Owners(keyed_hash=outside.keyed_hash, names=names, held=outside.held)


def _deferrer(
    settings: Settings, shared: Shared, holder: Holder, calls: Calls, clock: Clock
) -> Deferrer:
    return Deferrer(
        acceptor=shared.acceptor,
        answers=Answers(
            holder=holder,
            holding=shared.holding,
            notes=shared.ending_notes,
            outlook=shared.outlook,
            clock=clock,
        ),
        paces=Paces(),
        repeats=shared.repeats,
        calls=calls,
        withdraw=shared.withdrawer.note,
        forwards_without_store=settings.deferral.when_store_away == "forward",
    )


def _jobs_api(outside: Outside, shared: Shared, holder: Holder, owners: Owners) -> JobsApi:
    return JobsApi(
        shared.ground,
        owners=owners,
        accounts=shared.accounts,
        holder=holder,
        canceller=Canceller(shared.ground, waiters=shared.waiters),
        upstreams=outside.upstreams,
        outlook=shared.outlook,
    )


def _policy(settings: Settings, policies: Policies | None) -> Callable[[], Policy]:
    if policies is not None:
        return policies.current
    policy = Policy(default_answer=Answer(settings.deferral.default_answer))
    return lambda: policy
