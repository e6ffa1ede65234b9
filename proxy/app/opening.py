"""Open what the house needs of the world: adapters, rules, keys, and who we are among several."""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from policies.model import Answer
from proxy.app.adapters import (
    facts_file,
    open_client,
    open_stores,
    open_vault,
    price_reader,
    tell_of_web_proxy,
)
from proxy.app.batch_apis import providers
from proxy.app.machine import SystemClock, task_group
from proxy.assembly import Outside
from proxy.core.fields import RawHeaders
from proxy.services.callers.clients import HeldKey
from proxy.services.policies import Policies, open_policies
from proxy.settings import Settings
from proxy.telemetry import Metrics
from proxy.web.certificates import Certificate
from proxy.web.operators.worker_set import Workers
from proxy.workers import Worker


async def open_outside(
    stack: AsyncExitStack,
    settings: Settings,
    worker: Worker | None,
    usual: RawHeaders,
    certificates: Sequence[Certificate],
) -> Outside:
    """Return what the house needs of the world, closed with the stack.

    Raises:
        ProxyError: if some of it cannot be had.
    """
    clock, metrics = SystemClock(), Metrics()
    upstreams = settings.parsed_upstreams()
    tell_of_web_proxy(settings, upstreams)
    policies = _policies(settings, metrics)
    vault = open_vault(settings)
    stores, durability = await open_stores(stack, settings, vault, clock)
    tasks = await stack.enter_async_context(task_group())
    client = open_client(stack, settings, tasks)
    return Outside(
        stores=stores,
        durability=durability,
        keyed_hash=vault,
        clock=clock,
        upstreams=upstreams,
        providers=providers(stack, settings, upstreams, client, clock),
        client=client,
        tasks=tasks,
        metrics=metrics,
        read_prices=price_reader(settings),
        policies=policies,
        facts=facts_file(settings, worker),
        held=_held_keys(settings),
        certificates=certificates,
        session=_session(settings, worker),
        usual=usual,
        counts=Workers(worker.sockets).counts if worker is not None else None,
    )


def _held_keys(settings: Settings) -> Mapping[str, HeldKey]:
    """Return the provider keys that this proxy holds, by upstream."""
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
    """Return the session of those calls of a run that name none.

    The embedded store's proxy starts and ends with the script, or at least may: what
    comes after its start is a new session. A fleet runs on, and cannot tell.
    """
    if settings.store.path is None:
        return ""
    return secrets.token_hex(8) if worker is None else worker.session
