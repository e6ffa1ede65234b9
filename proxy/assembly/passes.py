"""The passes of an instance: what runs in the background, and how often."""

import random
from datetime import timedelta
from typing import Final

from proxy.assembly.outside import Outside
from proxy.assembly.shared import Shared
from proxy.core.ids import RANDOM_BYTES, BatchId, mint_batch_id
from proxy.scheduler import Pass
from proxy.services.batches.collect import Collector
from proxy.services.batches.flush import Flusher
from proxy.services.batches.governor import TokenGovernor
from proxy.services.batches.ingest import Ingestor
from proxy.services.batches.settle import Settler
from proxy.services.batches.steps import SubmitTimes
from proxy.services.batches.submit import Submitter
from proxy.services.deliver import Deliverer
from proxy.services.direct.escalate import Escalator
from proxy.services.prune import Pruner
from proxy.services.rescue import Rescuer
from proxy.settings import Settings
from proxy.web.answering.holding import PASS_INTERVAL_S
from proxy.web.certificates import Certificates
from proxy.web.operators.gauges import Gauges

QUICK: Final = timedelta(milliseconds=500)
"""Passes that a caller may be waiting for; each asks the store once and finds mostly nothing."""

CALM: Final = timedelta(seconds=5)
HOLDING: Final = timedelta(seconds=PASS_INTERVAL_S)
SLOW: Final = timedelta(minutes=10)


def batch_passes(settings: Settings, outside: Outside, shared: Shared) -> list[Pass]:
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
        ingestor=Ingestor(ground, access=access, outlook=outlook, waiters=shared.waiters),
        governor=governor,
        outlook=outlook,
    )
    collector = Collector(
        ground,
        access=access,
        settler=settler,
        outlook=outlook,
        governor=governor,
        pace=pace,
        jitter=jitter,
    )
    return [
        Pass("flush", QUICK, flusher.run_once),
        Pass("submit", QUICK, submitter.run_once, overlaps=True),
        Pass("collect", QUICK, collector.run_once, overlaps=True),
    ]


def other_passes(
    settings: Settings,
    outside: Outside,
    shared: Shared,
    escalator: Escalator,
    deliverer: Deliverer,
) -> list[Pass]:
    """Return what looks after jobs outside of batches, and after the instance itself."""
    ground = shared.ground
    rescuer = Rescuer(ground, waiters=shared.waiters, verify=shared.verify)
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
        Pass("lost_calls", CALM, escalator.release_lost),
        Pass("rescue", CALM, rescuer.run_once),
        Pass("withdraw", CALM, shared.withdrawer.run_once),
        Pass("prune", SLOW, pruner.run_once),
        Pass("durability", CALM, outside.durability.run_once),
        Pass("accounts", CALM, shared.accounts.run_once),
        Pass("verify", CALM / 5, shared.accounts.verify_once),
        Pass("outlook", CALM, shared.outlook.experience.run_once),
        Pass("repeats", CALM / 5, shared.repeats.run_once),
        Pass("ending_notes", HOLDING, shared.ending_notes.run_once),
        Pass("holding", HOLDING, shared.holding.run_once),
        Pass("gauges", CALM, gauges.run_once),
        Pass("money", CALM * 6, gauges.show_money),
        *([Pass("deliver", CALM / 5, deliverer.run_once)] if settings.webhooks else []),
        *([Pass("policies", CALM / 5, outside.policies.run_once)] if outside.policies else []),
        *([Pass("facts", CALM / 5, shared.facts.run_once)] if shared.facts else []),
        *([Pass("certificates", CALM * 6, certificates.run_once)] if outside.certificates else []),
    ]


def _new_batch_id(outside: Outside) -> BatchId:
    return mint_batch_id(outside.clock.now(), random=outside.random(RANDOM_BYTES))


def jitter() -> float:
    return random.uniform(0.9, 1.1)  # noqa: S311 - spreads a fleet, protects nothing
