"""The house: services and web put together over ports; no adapter is named here."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from proxy.assembly.front import front
from proxy.assembly.outside import Outside
from proxy.assembly.passes import batch_passes, jitter, other_passes
from proxy.assembly.shared import Shared, shared_parts
from proxy.ports.passes import AT_ONCE
from proxy.scheduler import Scheduler
from proxy.services.deliver import Deliverer, Endpoint
from proxy.services.direct.budget import Budget, HourlyLimits
from proxy.services.direct.caps import EscalationLimits, LaneCaps
from proxy.services.direct.escalate import Escalator
from proxy.services.ground import Ground
from proxy.services.insight import Insight, counts_of
from proxy.services.ledger.prices import PriceBook
from proxy.services.traffic.facts import Recorder
from proxy.settings import Settings
from proxy.web.answering.ending_notes import EndingNotes
from proxy.web.answering.holding import Holding
from proxy.web.answering.notices import notice_payload
from proxy.web.entrance.front import Front
from proxy.web.entrance.known_heads import KnownHeads


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What was built, as far as running and ending it needs to know."""

    front: Front
    known_heads: KnownHeads | None
    ground: Ground
    holding: Holding
    ending_notes: EndingNotes
    escalator: Escalator
    deliverer: Deliverer
    scheduler: Scheduler
    first: Sequence[Callable[[], Awaitable[int]]]
    prices: PriceBook
    insight: Insight
    facts: Recorder | None = None

    async def warm_up(self) -> None:
        """Read from the store, before the first call, what no call may wait for.

        Otherwise a known key counts as unverified until the first pass has run.
        """
        for run_once in self.first:
            await run_once()

    def drain(self) -> None:
        """Accept no more jobs, and begin nothing that cannot be finished soon."""
        self.front.drain()
        self.holding.drain()
        self.escalator.stop()


def assemble(settings: Settings, outside: Outside) -> House:
    """Return the house, built and not yet running."""

    def wake(name: str, *, within: timedelta = AT_ONCE) -> None:
        scheduler.wake(name, within=within)

    shared = shared_parts(settings, outside, wake)
    escalator = _escalator(settings, outside, shared)
    deliverer = _deliverer(settings, outside, shared.ground)
    scheduler = Scheduler(
        [
            *batch_passes(settings, outside, shared),
            *other_passes(settings, outside, shared, escalator, deliverer),
        ],
        clock=outside.clock,
        metrics=outside.metrics,
        jitter=jitter,
    )
    handler, known_heads = front(settings, outside, shared)
    return House(
        front=handler,
        known_heads=known_heads,
        ground=shared.ground,
        holding=shared.holding,
        ending_notes=shared.ending_notes,
        escalator=escalator,
        deliverer=deliverer,
        scheduler=scheduler,
        facts=shared.facts,
        prices=shared.prices,
        insight=_insight(settings, outside, shared),
        first=(
            shared.ground.leases.run_once,
            shared.accounts.run_once,
            shared.outlook.experience.run_once,
            shared.repeats.run_once,
        ),
    )


def _escalator(settings: Settings, outside: Outside, shared: Shared) -> Escalator:
    lanes = settings.lanes
    return Escalator(
        shared.ground,
        access=shared.access,
        caller=shared.caller,
        waiters=shared.waiters,
        limits=_escalation(settings),
        outlook=shared.outlook,
        budget=Budget(
            outside.stores.notes,
            outside.clock,
            HourlyLimits(calls=lanes.max_calls_per_hour, tokens=lanes.max_tokens_per_hour),
        ),
        tasks=outside.tasks,
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


def _deliverer(settings: Settings, outside: Outside, ground: Ground) -> Deliverer:
    return Deliverer(
        ground,
        endpoints=[
            Endpoint.at(name, webhook.url, secrets=webhook.keys(), timeout=webhook.timeout)
            for name, webhook in settings.webhooks.items()
        ],
        client=outside.client,
        payload=notice_payload,
        jitter=jitter,
        tasks=outside.tasks,
    )


def _insight(settings: Settings, outside: Outside, shared: Shared) -> Insight:
    return Insight(
        shared.ground,
        ledger=outside.stores.ledger,
        counts=outside.counts or counts_of(outside.metrics),
        expects=shared.outlook.experience.turnaround,
        policy=outside.policies.current if outside.policies else None,
        webhooks=tuple(settings.webhooks),
    )
