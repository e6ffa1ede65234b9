"""The whole data port on a loopback socket, over stores in memory and a real upstream.

Nothing runs in the background: a test ends a job itself, and moves the time.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aiohttp
from aiohttp import web
from openai import AsyncOpenAI

from policies.model import Answer, Defer
from policies.policy import Policy
from policies.rules import RuleSet
from proxy.core.fields import RawHeaders
from proxy.core.ids import InstanceId, JobId
from proxy.core.job import Escalated, Failed, Job, JobEvent, Outcome, Succeeded, advance
from proxy.core.upstream import Upstream
from proxy.ports.jobs import JobFilter, JobWrite, Result
from proxy.ports.upstream import UpstreamClient
from proxy.services.callers.accounts import Accounts, CredentialVerdict
from proxy.services.callers.clients import Clients, HeldKey
from proxy.services.callers.owners import Owners
from proxy.services.callers.quota import Limits
from proxy.services.deferral.accept import Acceptor, DeferralSettings
from proxy.services.deferral.cancel import Canceller
from proxy.services.deferral.keys import IdempotencyKeys
from proxy.services.deferral.paces import Paces
from proxy.services.deferral.repeats import Repeats
from proxy.services.ground import Ground
from proxy.services.leases import Leases
from proxy.services.traffic.facts import Recorder
from proxy.services.waiters import Waiters
from proxy.telemetry.metrics import Metrics
from proxy.upstreams.aiohttp_client import AiohttpClient
from proxy.upstreams.lean_client import LeanClient
from proxy.web.answering.answers import Answers
from proxy.web.answering.ending_notes import EndingNotes
from proxy.web.answering.held import Holder
from proxy.web.answering.holding import Holding
from proxy.web.entrance.calls import Calls
from proxy.web.entrance.deferred_shortcut import DeferredShortcut
from proxy.web.entrance.deferrer import Deferrer
from proxy.web.entrance.front import Front
from proxy.web.entrance.heads import HeadReader
from proxy.web.entrance.known_heads import KnownHeads
from proxy.web.entrance.server import DataServer
from proxy.web.forwarding.forward import Forwarder
from proxy.web.forwarding.shortcut import Shortcut
from proxy.web.jobs_api.jobs import JobsApi
from tests.helpers.books import make_books
from tests.helpers.factories import T0, IdFactory
from tests.helpers.fake_provider import FakeProvider
from tests.helpers.fakes import FakeClock, FakeHash, MemoryStores
from tests.helpers.outlook import make_outlook
from tests.helpers.raw_upstream import wait_until

KEY = "sk-canary-owner"
MAX_BODY = 5_000
LEASE = timedelta(seconds=30)
CHAT = "/v1/chat/completions"
CHAT_BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "canary prompt"}]}
COMPLETION = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "hi", "refusal": None},
            }
        ],
    },
    indent=1,
).encode()


class Ruling(RuleSet):
    """Rules that decide every call alike."""

    def __init__(self, decision, *, wants_body=True):
        self._decision = decision
        self._wants_body = wants_body

    def __len__(self):
        return 1

    def concerns(self, **head):
        return True

    def wants_body(self, facts):
        return self._wants_body and facts.obstacle is None

    def opinion(self, facts):
        return self._decision if facts.bar() is None else None


DIVERT = Defer(answer=Answer.WAIT, decided_by="rule:nightly", reason="it is night")


@dataclass
class Seen:
    """One request as the upstream got it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class House:
    policy: Policy = field(default_factory=Policy)
    settings: DeferralSettings = field(default_factory=DeferralSettings)
    limits: Limits = field(default_factory=Limits)
    max_held: int = 100
    facts: Recorder | None = None
    usual: RawHeaders = ()
    keys: dict[str, HeldKey] = field(default_factory=dict)
    annotate: bool = False
    forwards_without_store: bool = False
    lean: bool = False
    """Whether forwarded calls may take the shortcut, as in the service itself."""

    stores: MemoryStores = field(default_factory=MemoryStores)
    clock: FakeClock = field(default_factory=lambda: FakeClock(T0))
    metrics: Metrics = field(default_factory=lambda: Metrics(strict=True))
    seen: list[Seen] = field(default_factory=list)
    withdrawn: list[JobId] = field(default_factory=list)
    """Jobs of whose existence nothing is known, and whose calls were forwarded."""

    upstream_status: int = 200
    upstream_body: bytes = b'{"up": true}'
    known_heads: KnownHeads | None = None
    handled: int = 0
    """How many calls took no shortcut."""

    port: int = 0
    http: aiohttp.ClientSession = field(init=False)
    tasks: asyncio.TaskGroup = field(init=False)
    """Owns what a test does at the same time."""

    async def upstream(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.method, request.raw_path, headers, body))
        return web.Response(
            status=self.upstream_status, body=self.upstream_body, content_type="application/json"
        )

    def build(self, client: UpstreamClient, upstream_port: int) -> None:
        base = f"http://127.0.0.1:{upstream_port}"
        self.upstreams = upstreams = {
            "openai": Upstream.parse("openai", "openai", base),
            "anthropic": Upstream.parse("anthropic", "anthropic", base),
            "based": Upstream.parse("based", "openai", f"{base}/serving/v1"),
            "away": Upstream.parse("away", "openai", "http://127.0.0.1:1"),
        }
        stores, clock = self.stores, self.clock
        self.books = make_books(stores.ledger, clock, self.metrics)
        self.ground = ground = self._ground()
        names = {one: "client" for key in self.keys.values() for one in key.clients}
        self.owners = Owners(keyed_hash=FakeHash(), names=names, held=self.keys)
        self.waiters = Waiters(jobs=stores.jobs, clock=clock)
        self.holding = Holding(deliveries=stores.deliveries, clock=clock, max_held=self.max_held)
        self.notes = EndingNotes(deliveries=stores.deliveries, clock=clock, tasks=self.tasks)
        holder = Holder(jobs=stores.jobs, waiters=self.waiters, holding=self.holding, clock=clock)
        self.accounts = Accounts(
            credentials=stores.credentials,
            jobs=stores.jobs,
            clock=clock,
            verify=_unknown,
            limits=self.limits,
        )
        provider = FakeProvider(clock)
        outlook = make_outlook(stores, clock, provider, upstreams=upstreams)
        acceptor = Acceptor(
            jobs=stores.jobs,
            outlook=outlook,
            keys=IdempotencyKeys(runs=stores.runs, keyed_hash=FakeHash(), clock=clock),
            providers={"openai": provider},
            accounts=self.accounts,
            clock=clock,
            random=IdFactory().random,
            settings=self.settings,
        )
        self.repeats = Repeats(
            deliveries=stores.deliveries,
            jobs=stores.jobs,
            clock=clock,
            tally=self.metrics,
            timeout_s=0.2,
        )
        calls = Calls(metrics=self.metrics, clock=clock, facts=self.facts)
        deferrer = Deferrer(
            acceptor=acceptor,
            answers=Answers(
                holder=holder,
                holding=self.holding,
                notes=self.notes,
                outlook=outlook,
                clock=clock,
            ),
            paces=Paces(),
            repeats=self.repeats,
            calls=calls,
            withdraw=self.withdrawn.append,
            forwards_without_store=self.forwards_without_store,
        )
        if self.facts is None:
            self.known_heads = self._known_heads(client, calls, deferrer)
        self.front = Front(
            upstreams=upstreams,
            heads=HeadReader(
                owners=self.owners, clients=Clients(self.keys), clock=clock, usual=self.usual
            ),
            policy=lambda: self.policy,
            forwarder=Forwarder(
                client,
                on_done=calls.forwarded,
                tap=calls.tap if self.facts is not None else None,
                annotation=calls.annotation if self.annotate else None,
            ),
            deferrer=deferrer,
            repeats=self.repeats,
            accounts=self.accounts,
            jobs_api=JobsApi(
                ground,
                owners=self.owners,
                accounts=self.accounts,
                holder=holder,
                canceller=Canceller(ground, waiters=self.waiters),
                upstreams=upstreams,
                outlook=outlook,
            ),
            calls=calls,
            max_body_bytes=MAX_BODY,
            known_heads=self.known_heads,
        )

    def _ground(self) -> Ground:
        stores, clock = self.stores, self.clock
        instance = InstanceId("instance-1")
        return Ground(
            jobs=stores.jobs,
            queue=stores.queue,
            deliveries=stores.deliveries,
            credentials=stores.credentials,
            batches=stores.batches,
            notices=stores.notices,
            clock=clock,
            leases=Leases(store=stores.leases, clock=clock, instance=instance, ttl=LEASE),
            books=self.books,
            tally=self.metrics,
        )

    def _known_heads(self, client: UpstreamClient, calls: Calls, deferrer: Deferrer) -> KnownHeads:
        deferred = DeferredShortcut(
            deferrer,
            policy=lambda: self.policy,
            calls=calls,
            tasks=self.tasks,
            max_body_bytes=MAX_BODY,
        )
        return KnownHeads(
            policy=lambda: self.policy,
            repeats=self.repeats,
            accounts=self.accounts,
            calls=calls,
            annotate=self.annotate,
            forward=Shortcut(client).begin,
            defer=None if self.forwards_without_store else deferred.begin,
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve what takes no shortcut."""
        self.handled += 1
        return await self.front.handle(request)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def sdk(self, **options: Any) -> Any:
        usual: dict[str, Any] = {"base_url": self.url("/v1"), "api_key": KEY, "max_retries": 0}
        return AsyncOpenAI(**(usual | options))

    async def send(
        self,
        method: str,
        path: str,
        *,
        key: str | None = KEY,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> "Reply":
        auth = {"Authorization": f"Bearer {key}"} if key is not None else {}
        async with self.http.request(
            method, self.url(path), headers=auth | (headers or {}), **options
        ) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    async def defer(self, mode: str = "job", body: Any = None, **options: Any) -> "Reply":
        headers = {"X-Deferrable": mode} | options.pop("headers", {})
        return await self.send(
            "POST", options.pop("path", CHAT), headers=headers, json=body or CHAT_BODY, **options
        )

    async def job(self, **options: Any) -> Job:
        """Defer a call and return its job."""
        reply = await self.defer(**options)
        assert reply.status in {200, 202}, reply.body
        return await self.stores.jobs.get(JobId(reply.headers["X-Deferrable-Job"]))

    async def jobs(self) -> list[Job]:
        return [
            job
            for owner in await self.stores.jobs.pending()
            for job in await self.stores.jobs.list_jobs(owner, JobFilter(), after=None, limit=1000)
            if isinstance(job, Job)
        ]

    async def finish(
        self, job: Job, body: bytes = COMPLETION, status: int = 200, **result: Any
    ) -> Job:
        """End the job as if a provider had answered."""
        job = await self._advance(job, Escalated(InstanceId("instance-1")))
        outcome = Outcome(status)
        ended = Succeeded if status < 400 else Failed
        event = ended(job.attempt, self.clock.now(), outcome)
        return await self._advance(job, event, Result(status_code=status, body=body, **result))

    async def _advance(self, job: Job, event: JobEvent, result: Result | None = None) -> Job:
        after = advance(job, event)
        assert not await self.stores.jobs.replace_many([JobWrite(after, result)])
        self.waiters.wake([job.id])
        return after

    async def abandoned(self, **options: Any) -> Job:
        """Send a call whose caller leaves while it is held; return its job."""
        return await self._left(self.defer("wait", **options))

    async def diverted(self) -> Job:
        """Send a call that a rule diverts, and whose caller leaves; return its job.

        There are no rules any more then.
        """
        self.policy = Policy(Ruling(DIVERT), generation=1)
        job = await self._left(self.send("POST", CHAT, json=CHAT_BODY))
        self.policy = Policy(generation=2)
        return job

    async def left(self, headers: dict[str, str]) -> Job:
        """Send a call with these headers whose caller leaves while it is held; return its job."""
        return await self._left(self.send("POST", CHAT, json=CHAT_BODY, headers=headers))

    async def _left(self, call: "Coroutine[Any, Any, Reply]") -> Job:
        sending = self.tasks.create_task(call)
        await self.held()
        sending.cancel()
        await wait_until(lambda: self.holding.count == 0, "the handler to end")
        await wait_until(lambda: self.repeats.expects_any, "the note")
        return (await self.jobs())[0]

    async def held(self, count: int = 1) -> None:
        await wait_until(lambda: self.waiters.count >= count, "a held connection")


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def _unknown(credential: object) -> CredentialVerdict:
    return CredentialVerdict.UNKNOWN


@asynccontextmanager
async def serve(server: web.Server) -> AsyncIterator[int]:
    runner = web.ServerRunner(server, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def open_house(**options: Any) -> AsyncIterator[House]:
    house = House(**options)
    async with asyncio.TaskGroup() as tasks, serve(web.Server(house.upstream)) as upstream_port:
        house.tasks = tasks
        client = LeanClient(tasks) if house.lean else AiohttpClient(tasks)
        house.build(client, upstream_port)
        try:
            find = house.known_heads.find if house.known_heads is not None else None
            async with serve(DataServer(house.handle, find=find)) as port:
                house.port = port
                async with aiohttp.ClientSession() as house.http:
                    yield house
        finally:
            await client.aclose()
