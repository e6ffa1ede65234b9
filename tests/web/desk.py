"""A server on a loopback port that defers every call, with time in the test's hand.

Only admission is the test's own and trivial: a repeat claims, everything else is
accepted. What answers is the code under test, over memory stores.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web
from openai import AsyncOpenAI

from proxy.core.dialects import DIALECTS, Dialect, Endpoint, Streaming
from proxy.core.errors import OverloadedError
from proxy.core.ids import JobId, find_job_id
from proxy.core.job import AnswerMode, Failed, Job, JobEvent, Outcome, Succeeded, advance
from proxy.core.repeats import WAITER_LEASE, Delivery
from proxy.ports.jobs import JobWrite, Result
from proxy.services.waiters import Waiters
from proxy.web.answering.answers import AnsweredCall, Answers
from proxy.web.answering.ending_notes import EndingNotes
from proxy.web.answering.held import Holder
from proxy.web.answering.holding import Holding
from tests.helpers.factories import OWNER, T0, make_job, make_key, new_job
from tests.helpers.fake_provider import FakeProvider
from tests.helpers.fakes import FakeClock, MemoryStores
from tests.helpers.outlook import make_outlook
from tests.helpers.raw_upstream import wait_until

OPENAI = DIALECTS["openai"]
CHAT = OPENAI.endpoints["/v1/chat/completions"]
RESPONSES = OPENAI.endpoints["/v1/responses"]
EMBEDDINGS = OPENAI.endpoints["/v1/embeddings"]
FAMILIES = {
    name: replace(DIALECTS[name], endpoints=OPENAI.endpoints) for name in ("anthropic", "gemini")
}


@dataclass
class Desk:
    """The answering half of the proxy, on a socket."""

    call: AnsweredCall
    tasks: asyncio.TaskGroup
    max_held: int = 100
    stores: MemoryStores = field(default_factory=MemoryStores)
    clock: FakeClock = field(default_factory=lambda: FakeClock(T0))
    jobs: list[JobId] = field(default_factory=list)
    """In the order of their acceptance."""

    posts: list[dict[str, str]] = field(default_factory=list)
    """The headers of every POST, in lower case."""

    port: int = 0

    def __post_init__(self) -> None:
        self.waiters = Waiters(jobs=self.stores.jobs, clock=self.clock)
        self.holding = Holding(
            deliveries=self.stores.deliveries,
            clock=self.clock,
            max_held=self.max_held,
        )
        self.notes = EndingNotes(
            deliveries=self.stores.deliveries, clock=self.clock, tasks=self.tasks
        )
        self.holder = Holder(
            jobs=self.stores.jobs, waiters=self.waiters, holding=self.holding, clock=self.clock
        )
        outlook = make_outlook(self.stores, self.clock, FakeProvider(self.clock))
        self.answers = Answers(
            holder=self.holder,
            holding=self.holding,
            notes=self.notes,
            outlook=outlook,
            clock=self.clock,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def sdk(self, **options: Any) -> Any:
        """Return a stock `AsyncOpenAI` for this server; untyped, as bodies here are odd."""
        return AsyncOpenAI(base_url=self.url, api_key="sk-canary", **options)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer as the proxy would, had its admission nothing to object."""
        job_id = find_job_id(request.path)
        if job_id is not None:
            return await self._retrieve(request, job_id)
        self.posts.append({name.lower(): value for name, value in request.headers.items()})
        body = await request.read()
        retry_count = int(request.headers.get("x-stainless-retry-count", "0"))
        job = await self._claim(retry_count) or await self._accept(body, retry_count)
        said = request.headers.get("x-stainless-read-timeout")
        call = replace(
            self.call,
            retry_count=retry_count,
            streaming=Streaming.EVENTS if json.loads(body).get("stream") else None,
            read_timeout_s=float(said) if said else None,
        )
        return await self.answers.answer(request, job, call)

    async def _retrieve(self, request: web.BaseRequest, job_id: JobId) -> web.StreamResponse:
        job = await self.stores.jobs.get(job_id)
        family = self.call.dialect.family
        try:
            return await self.holder.hold_typed(
                request,
                job,
                family=family,
                read_timeout_s=None,
                wait_s=float(request.query.get("wait", "600")),
            )
        except OverloadedError as error:
            return web.Response(status=error.http_status)

    async def _claim(self, retry_count: int) -> Job | None:
        job_id = await self.stores.deliveries.claim(
            OWNER, make_job().fingerprint, retry_count=retry_count, now=self.clock.now()
        )
        return await self.stores.jobs.get(job_id) if job_id else None

    async def _accept(self, body: bytes, retry_count: int) -> Job:
        key = make_key(endpoint=self.call.endpoint.path, model=json.loads(body)["model"])
        job = make_job(accepted_at=self.clock.now(), key=key)
        await self.stores.jobs.accept(
            new_job(
                job,
                body=body,
                retry_count=retry_count,
                waiter_until=self.clock.now() + WAITER_LEASE,
            )
        )
        self.jobs.append(job.id)
        return job

    async def end(self, job_id: JobId, event: JobEvent, result: Result | None = None) -> None:
        """End a job as a service would, and wake who waits for it."""
        before = await self.stores.jobs.get(job_id)
        after = advance(before, event)
        assert await self.stores.jobs.replace_many([JobWrite(after, result)]) == frozenset()
        self.waiters.wake([job_id])

    async def succeed(self, job_id: JobId, body: bytes, **result: Any) -> None:
        """Let the provider answer 200 with exactly `body`."""
        event = Succeeded(0, self.clock.now(), Outcome(200))
        await self.end(job_id, event, Result(status_code=200, body=body, **result))

    async def fail(self, job_id: JobId, status: int, body: bytes) -> None:
        """Let the provider refuse the call for good, with exactly `body`."""
        event = Failed(0, self.clock.now(), Outcome(status, "refused", "the provider refused"))
        await self.end(job_id, event, Result(status_code=status, body=body))

    def advance(self, seconds: float) -> None:
        """Move the time and let everyone look at the clock."""
        self.clock.advance(seconds=seconds)
        self.waiters.wake(self.jobs)

    async def beat(self, seconds: float) -> None:
        """Move the time and wait until everyone who is held has sent a heartbeat."""
        before = self._waits()
        self.advance(seconds)
        await wait_until(lambda: len(self._waits()) == len(before) and not self._waits() & before)

    def _waits(self) -> set[asyncio.Event]:
        return {event for events in self.waiters._events.values() for event in events}

    def delivery(self, job_id: JobId) -> Delivery:
        """Return what the store knows of the answer."""
        return self.stores.deliveries._memory.deliveries[job_id]

    async def held(self, count: int = 1) -> JobId:
        """Wait until as many connections are held; return the newest job."""
        await wait_until(lambda: self.waiters.count == count)
        return self.jobs[-1]


@asynccontextmanager
async def open_desk(
    mode: AnswerMode,
    *,
    endpoint: Endpoint = CHAT,
    dialect: Dialect = OPENAI,
    max_held: int = 100,
    **call: Any,
) -> AsyncIterator[Desk]:
    """Serve on an ephemeral port until the block ends."""
    answered = AnsweredCall(mode=mode, dialect=dialect, endpoint=endpoint, **call)
    async with asyncio.TaskGroup() as tasks:
        desk = Desk(answered, tasks, max_held=max_held)
        server = web.Server(desk.handle, handler_cancellation=True)
        listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        desk.port = listener.sockets[0].getsockname()[1]
        try:
            yield desk
        finally:
            listener.close()
            await server.shutdown(0.1)
            await listener.wait_closed()


def chat_completion(content: str = "Hello there.", **message: Any) -> dict[str, Any]:
    """Return the JSON of a chat completion."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": None, **message},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    }


def response_body(**changes: Any) -> dict[str, Any]:
    """Return the JSON of a finished Response with one message."""
    part = {"type": "output_text", "text": "Hello there.", "annotations": [], "logprobs": []}
    message = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_790_000_000,
        "completed_at": 1_790_000_009,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": "gpt-4o-mini",
        "output": [message],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None,
        **changes,
    }


def spaced(content: object) -> bytes:
    """Return JSON as nobody's encoder would write it, to tell exact bytes from equal ones."""
    return b" " + json.dumps(content, indent=3).encode() + b"\n "


@dataclass
class Wire:
    """One POST over a raw socket, read byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytes = b""

    @property
    def head(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        """What came of the body, still in its chunks."""
        return self.received.partition(b"\r\n\r\n")[2]

    async def until(self, count: int, what: bytes) -> None:
        """Read until `what` was received `count` times."""
        async with asyncio.timeout(20):
            while self.received.count(what) < count:
                piece = await self.reader.read(65536)
                assert piece, f"the connection ended after {self.received!r}"
                self.received += piece

    async def to_the_end(self) -> bool:
        """Read on; return whether the server ended the connection in order."""
        async with asyncio.timeout(20):
            try:
                self.received += await self.reader.read(-1)
            except ConnectionResetError:
                return False
        return True


@asynccontextmanager
async def raw_post(
    desk: Desk, *, version: str = "1.1", body: object = None, **headers: str
) -> AsyncIterator[Wire]:
    """Send a call and leave the reading to the test; closes the connection at the end."""
    content = json.dumps(body if body is not None else {"model": "m", "messages": []}).encode()
    lines = [f"POST /v1/chat/completions HTTP/{version}", "Host: desk", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(content)}", "", ""]
    reader, writer = await asyncio.open_connection("127.0.0.1", desk.port)
    writer.write("\r\n".join(lines).encode() + content)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
