"""The sandbox as an HTTP server, in this process or on its own.

async with Sandbox(settings).serve() as running:
    client = AsyncOpenAI(base_url=f"{running.base_url}/v1", api_key="any")

One port speaks all dialects: a request shows by its path and headers which one it means.
"""

import asyncio
import contextlib
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import pydantic_core
from aiohttp import web

from proxy.sandbox.anthropic.api import AnthropicDialect
from proxy.sandbox.clock import SandboxClock
from proxy.sandbox.control import Control
from proxy.sandbox.engine import Engine, FlexCapacity, Workers, new_id
from proxy.sandbox.faults import FaultBook, HttpFault
from proxy.sandbox.gemini import GeminiDialect
from proxy.sandbox.gemini.beside import GeminiBeside
from proxy.sandbox.keys import Keys, KeyState
from proxy.sandbox.ledger import Ledger, key_id
from proxy.sandbox.mistral_jobs import BatchJobs
from proxy.sandbox.openai.api import OpenAIDialect
from proxy.sandbox.openai.habits import CLONES, MISTRAL, OPENROUTER, XAI
from proxy.sandbox.openrouter_batches import InlineBatches
from proxy.sandbox.settings import SandboxSettings
from proxy.sandbox.wire import ApiError, Call, Reply, Route, reset, send
from proxy.sandbox.xai_batches import CountedBatches

_BODY_BYTES_MAX: Final = 64 * 1024 * 1024
"""A JSON body is read whole; uploads are not, and have limits of their own."""

_SHUTDOWN_S: Final = 0.1
"""Stalled connections are cut after this when the sandbox ends."""


class Dialect(Protocol):
    """What the server needs of a vendor's API."""

    @property
    def request_id_header(self) -> str:
        """Where SDKs look for the ID of a request."""
        ...

    def routes(self) -> list[Route]:
        """Return all endpoints of the dialect."""
        ...

    def recognises(self, request: web.Request) -> bool:
        """Return whether a request speaks this dialect."""
        ...

    def credential(self, request: web.Request) -> str | None:
        """Return the key that a request carries, if any."""
        ...

    def unauthorized(self, *, has_credential: bool) -> ApiError:
        """Return the refusal of a wrong or absent key."""
        ...

    def unknown(self, method: str, path: str) -> ApiError:
        """Return the refusal of a URL that is no endpoint."""
        ...

    def refuse(self, exc: ApiError, request_id: str) -> Reply:
        """Return a refusal as this dialect words it."""
        ...


@dataclass(frozen=True, slots=True)
class Running:
    """A sandbox that serves: its address, and what a test may watch and turn."""

    base_url: str
    """Scheme, host and port, without `/v1`."""
    engine: Engine

    @property
    def ledger(self) -> Ledger:
        """What was executed and billed."""
        return self.engine.ledger

    @property
    def faults(self) -> FaultBook:
        """What goes wrong from now on."""
        return self.engine.faults

    @property
    def clock(self) -> SandboxClock:
        """The sandbox's time."""
        return self.engine.clock

    @property
    def keys(self) -> Keys:
        """What the API keys may do."""
        return self.engine.keys

    @property
    def flex(self) -> FlexCapacity:
        """How many flex calls are refused."""
        return self.engine.flex

    async def settle(self) -> None:
        """Wait until batches and background work have done all that is due by now."""
        await self.engine.workers.settle()

    async def advance(self, seconds: float) -> None:
        """Move the clock, and wait until everything that became due is done."""
        await self.engine.advance(seconds)


class Sandbox:
    """A local provider with real batch semantics."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings

    @contextlib.asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Running]:
        """Serve until the context ends; port 0 takes a free one."""
        with contextlib.ExitStack() as stack:
            directory = self._settings.directory
            if directory is None:
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory("-sandbox")))
            directory.mkdir(parents=True, exist_ok=True)
            async with asyncio.TaskGroup() as group:
                engine = self._engine(directory, group)
                runner = web.AppRunner(
                    _application(engine),
                    access_log=None,
                    # A caller that leaves cancels its call, as at a real provider.
                    handler_cancellation=True,
                    shutdown_timeout=_SHUTDOWN_S,
                )
                await runner.setup()
                try:
                    site = web.TCPSite(runner, host, port)
                    await site.start()
                    address = runner.addresses[0]
                    yield Running(f"http://{address[0]}:{address[1]}", engine)
                finally:
                    await runner.cleanup()
                    engine.workers.cancel()

    def _engine(self, directory: Path, group: asyncio.TaskGroup) -> Engine:
        clock = SandboxClock(scale=self._settings.time_scale, epoch=self._settings.epoch)
        faults = FaultBook()
        faults.on_change(clock.nudge)
        return Engine(
            settings=self._settings,
            clock=clock,
            ledger=Ledger(),
            keys=Keys(),
            faults=faults,
            flex=FlexCapacity(),
            workers=Workers(clock, group),
            directory=directory,
        )


def _application(engine: Engine) -> web.Application:
    app = web.Application(client_max_size=_BODY_BYTES_MAX)
    Control(engine).add_to(app)
    served: defaultdict[tuple[str, str], dict[_Exchanges, Route]] = defaultdict(dict)
    # In the order in which they are asked: the last one takes whatever nobody recognised.
    beside = GeminiBeside(engine)
    dialects: tuple[Dialect, ...] = (
        *(OpenAIDialect(engine, habits) for habits in CLONES),
        OpenAIDialect(engine, MISTRAL, BatchJobs),
        OpenAIDialect(engine, OPENROUTER, InlineBatches),
        OpenAIDialect(engine, XAI, CountedBatches),
        *(beside.openai, beside),
        *(AnthropicDialect(engine), GeminiDialect(engine), OpenAIDialect(engine)),
    )
    for dialect in dialects:
        exchanges = _Exchanges(engine, dialect)
        unknown = Route("*", "/{path:.*}", exchanges.unknown)
        for route in (*dialect.routes(), unknown):
            served[route.method, route.path][exchanges] = route
    for method, path in sorted(served, key=lambda place: place[1] == "/{path:.*}"):
        # Models and files have slashes in no ID; aiohttp's `{id}` stops at one.
        app.router.add_route(method, path, _handler(served[method, path]))
    return app


def _handler(
    speakers: "Mapping[_Exchanges, Route]",
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return the aiohttp handler of one place, which may be in several dialects."""

    async def handle(request: web.Request) -> web.StreamResponse:
        meant = [one for one in speakers if one.dialect.recognises(request)]
        exchanges = (meant or list(speakers))[0]
        return await exchanges.handle(speakers[exchanges], request)

    return handle


class _Exchanges:
    """Takes requests through faults, credentials, handler and faults again."""

    def __init__(self, engine: Engine, dialect: Dialect) -> None:
        self._engine = engine
        self.dialect = dialect

    async def handle(self, route: Route, request: web.Request) -> web.StreamResponse:
        """Answer a request at a route of the dialect."""
        place = "unknown" if route.method == "*" else route.path
        self._engine.ledger.requests[f"{request.method} {place}"] += 1
        credential = self.dialect.credential(request)
        fault = await self._fault(request, credential)
        if fault is not None:
            await self._engine.clock.sleep(fault.delay_s)
            if fault.action == "reset_before":
                return reset(request)
        request_id = new_id("req_")
        reply = await self._reply(route, request, credential, fault, request_id)
        return await send(
            request, _with_headers(reply, {self.dialect.request_id_header: request_id}), fault
        )

    async def unknown(self, call: Call) -> Reply:
        """Refuse a call that no route is for."""
        raise self.dialect.unknown(call.request.method, call.request.path)

    async def _reply(
        self,
        route: Route,
        request: web.Request,
        credential: str | None,
        fault: HttpFault | None,
        request_id: str,
    ) -> Reply:
        try:
            if fault is not None and fault.action == "status":
                return self._refusal(fault, request_id)
            return await route.handler(Call(request, self._identify(credential)))
        except ApiError as exc:
            return self.dialect.refuse(exc, request_id)
        except web.HTTPRequestEntityTooLarge:
            return self.dialect.refuse(ApiError(413, "The request body is too large."), request_id)

    def _identify(self, credential: str | None) -> KeyState:
        if credential is None:
            raise self.dialect.unauthorized(has_credential=False)
        key = self._engine.keys.state(credential)
        if not key.valid:
            raise self.dialect.unauthorized(has_credential=True)
        return key

    async def _fault(self, request: web.Request, credential: str | None) -> HttpFault | None:
        faults = self._engine.faults
        model = await _model_of(request) if faults.asks_for_models else None
        return faults.for_exchange(
            method=request.method,
            path=request.path,
            key_id=key_id(credential or ""),
            model=model,
        )

    def _refusal(self, fault: HttpFault, request_id: str) -> Reply:
        if fault.body is not None:
            reply = Reply(fault.body.encode(), fault.status)
        else:
            reply = self.dialect.refuse(
                ApiError(
                    fault.status,
                    fault.message,
                    code=fault.code,
                    error_type=fault.error_type or "sandbox_fault",
                ),
                request_id,
            )
        return _with_headers(reply, fault.headers)


def _with_headers(reply: Reply, headers: dict[str, str]) -> Reply:
    return Reply(reply.body, reply.status, reply.content_type, {**reply.headers, **headers})


async def _model_of(request: web.Request) -> str | None:
    if request.content_type != "application/json":
        return None
    try:
        body = pydantic_core.from_json(await request.read())
    except ValueError:
        return None
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) else None
