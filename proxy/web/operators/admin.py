"""The listener for operators: probes, metrics, batches, drain.

It is a listener of its own, so that no management verb is ever reachable where
calls come in. Who may do what is `proxy.web.operators.guard`'s to say.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeVar

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.core.batch import Batch
from proxy.core.errors import ProxyError, StoreUnavailableError
from proxy.telemetry import Metrics, render
from proxy.web.operators import worker_set
from proxy.web.operators.guard import AdminAccess, guard, refusal
from proxy.web.operators.ledger import LedgerFacts, ledger_object

T = TypeVar("T")

log = structlog.get_logger()

_ANSWER_TIMEOUT_S: Final = 2.0
"""How long the store may take. Kubernetes' own default for a probe is 1 s, but a
store that takes longer is slow, not gone."""

_BATCHES_MAX: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What an instance says of itself. Everything in it is public to a probe."""

    draining: bool
    durability: str
    """`durable` or `ephemeral`, and for Redis what it was found to promise."""

    policies: int
    """Generation of the rules: how often they were loaded."""

    instance: str
    store: str
    """Kind of store, e.g. `sqlite`."""

    alive: Sequence[str] = ()
    """The instances that share the store and were heard of lately."""


class AdminFacts(LedgerFacts, Protocol):
    """What this listener asks of the application."""

    async def readiness(self) -> Readiness:
        """Return how the instance is, having asked the store.

        Raises:
            StoreUnavailableError: if the store does not answer.
        """
        ...

    async def batches(self, *, limit: int) -> Sequence[Batch]:
        """Return up to `limit` batches in any state, newest first."""
        ...

    async def revive(self, webhook: str) -> int | None:
        """Let a webhook be told again of what was given up; nothing if there is none such."""
        ...

    def drain(self) -> None:
        """Stop intake and leave, as after SIGTERM. May be called more than once."""
        ...


def admin_application(
    facts: AdminFacts,
    *,
    metrics: Metrics,
    access: AdminAccess,
    now: Callable[[], datetime],
    workers: worker_set.Workers | None = None,
) -> web.Application:
    """Return the application; more routes may be added, and are guarded alike.

    With `workers` it answers for all of them.
    """
    application = web.Application(middlewares=[guard(access, now), _errors])
    application.router.add_get("/livez", worker_set.live(workers) if workers else _live)
    application.router.add_get("/readyz", _ready(facts, workers))
    application.router.add_get(
        "/metrics", worker_set.metrics(workers) if workers else _metrics(metrics)
    )
    application.router.add_get("/batches", _batches(facts))
    application.router.add_get("/batches/{id}", _batch(facts))
    application.router.add_get("/ledger", _ledger(facts))
    application.router.add_post("/webhooks/{name}/revive", _revive(facts))
    application.router.add_post("/drain", _drain(facts))
    application.on_response_prepare.append(_without_server)
    return application


def worker_application(facts: AdminFacts, *, metrics: Metrics) -> web.Application:
    """Return what one of several workers answers to the others, on a socket of its own."""
    application = web.Application()
    application.router.add_get("/livez", _live)
    application.router.add_get("/readyz", _ready(facts))
    application.router.add_get("/metrics", _metrics(metrics))
    return application


async def _live(_request: web.Request) -> web.Response:
    # Only that the event loop turns. Asking more would have the supervisor kill
    # an instance that drains, or a whole fleet whose store restarts.
    return web.json_response({"status": "live"})


def _ready(facts: AdminFacts, workers: worker_set.Workers | None = None) -> Handler:
    async def ready(_request: web.Request) -> web.Response:
        try:
            now = await in_time(facts.readiness())
        except StoreUnavailableError as exc:
            content = {"status": "store unreachable", "error": exc.message}
            return web.json_response(content, status=503)
        status = "draining" if now.draining else "ready"
        told: dict[str, object] = {"status": status, **asdict(now)}
        if workers is not None:
            told["workers"] = await worker_set.states_of(workers, "/readyz")
        return web.json_response(told, status=503 if now.draining else 200)

    return ready


def _metrics(metrics: Metrics) -> Handler:
    async def page(_request: web.Request) -> web.Response:
        # In a thread: rendering takes milliseconds, which calls would wait for.
        body, content_type = await asyncio.to_thread(render, metrics.snapshot())
        return web.Response(body=body, headers={"Content-Type": content_type})

    return page


def _batches(facts: AdminFacts) -> Handler:
    async def page(request: web.Request) -> web.Response:
        text = request.query.get("limit", "100")
        is_short = text.isascii() and text.isdecimal() and len(text) <= len(str(_BATCHES_MAX))
        if not is_short or not 1 <= int(text) <= _BATCHES_MAX:
            return refusal(400, "bad_limit", f"limit must be 1 to {_BATCHES_MAX}")
        found = await in_time(facts.batches(limit=int(text)))
        return _json({"object": "list", "data": [batch_record(batch) for batch in found]})

    return page


def _batch(facts: AdminFacts) -> Handler:
    async def page(request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        for batch in await in_time(facts.batches(limit=_BATCHES_MAX)):
            if wanted in {batch.id, batch.provider_batch_id}:
                return _json(batch_record(batch))
        return refusal(404, "batch_not_found", "no such batch among the newest ones")

    return page


def _ledger(facts: AdminFacts) -> Handler:
    async def page(request: web.Request) -> web.Response:
        return _json(await in_time(ledger_object(facts, request.query)))

    return page


def _revive(facts: AdminFacts) -> Handler:
    async def revive(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        revived = await facts.revive(name)
        if revived is None:
            return refusal(404, "webhook_not_found", "no webhook of that name is configured")
        log.info("webhook.revived", webhook=name, notices=revived)
        return web.json_response({"webhook": name, "revived": revived})

    return revive


def _drain(facts: AdminFacts) -> Handler:
    async def drain(_request: web.Request) -> web.Response:
        log.info("drain.requested")
        facts.drain()
        return web.json_response({"status": "draining"}, status=202)

    return drain


def batch_record(batch: Batch) -> dict[str, object]:
    """Return a batch as operators see it: no credential, no line of its input."""
    return {
        "id": batch.id,
        "state": batch.state.value,
        "upstream": batch.key.upstream,
        "endpoint": batch.key.endpoint,
        "model": batch.key.model,
        "jobs": batch.count,
        "body_bytes": batch.body_bytes,
        "tokens": batch.tokens,
        "flush_reason": batch.flush_reason,
        "created_at": batch.created_at,
        "submitted_at": batch.submitted_at,
        "ended_at": batch.ended_at,
        "settled_at": batch.settled_at,
        "nearest_deadline": batch.nearest_deadline,
        "next_at": batch.next_at,
        "polls": batch.polls,
        "provider_batch_id": batch.provider_batch_id,
        "twins": batch.twins,
        "end_reason": batch.end_reason,
        "error": {"code": batch.error_code, "message": batch.error_message}
        if batch.error_code or batch.error_message
        else None,
    }


async def in_time(asked: Awaitable[T], *, within_s: float = _ANSWER_TIMEOUT_S) -> T:
    """Return what is asked for.

    Raises:
        StoreUnavailableError: if it takes longer.
    """
    try:
        async with asyncio.timeout(within_s):
            return await asked
    except TimeoutError as exc:
        raise StoreUnavailableError("the store did not answer in time") from exc


def _json(content: object) -> web.Response:
    return web.json_response(content, dumps=lambda value: json.dumps(value, default=_plain))


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    assert isinstance(value, timedelta), value
    return f"{value.total_seconds():g}s"


async def _without_server(_request: web.Request, response: web.StreamResponse) -> None:
    # aiohttp has just put it in. Nobody who probes the port needs to know what serves it.
    response.headers.popall("Server", None)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ProxyError as exc:
        return refusal(exc.http_status, exc.code, exc.message)
    except web.HTTPNotFound:
        return refusal(404, "path_not_found", f"there is no {request.path} here")
    except web.HTTPMethodNotAllowed as exc:
        message = f"{request.path} takes no {request.method}"
        answer = refusal(405, "method_not_allowed", message)
        answer.headers["Allow"] = exc.headers["Allow"]
        return answer
