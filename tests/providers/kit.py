"""What tests of provider adapters need: submissions, credentials, a clock, an upstream."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from aiohttp import web

from proxy.core.dialects import DIALECTS, BatchApi
from proxy.core.ids import BatchId, CredentialId, OwnerId
from proxy.core.upstream import Upstream
from proxy.ports.jobs import Credential
from proxy.ports.provider import Provider, ResultLine, Submission
from proxy.providers.openai_family import OpenAIBatches
from proxy.upstreams.aiohttp_client import AiohttpClient
from tests.helpers.factories import IdFactory

T0 = datetime(2026, 11, 23, 12, tzinfo=UTC)
CHAT = "/v1/chat/completions"
KEY = "sk-canary-5e7f1c0ffee"

_IDS = IdFactory()

Adapter = TypeVar("Adapter", bound=Provider)


class MachineClock:
    """Real time, for tests against a server that has it too."""

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time(), UTC)  # noqa: TID251

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def make_credential(
    key: str = KEY,
    *more: tuple[str, str],
    headers: tuple[tuple[str, str], ...] = (),
    upstream: str = "openai",
) -> Credential:
    return Credential(
        id=CredentialId(f"cred-{hash((key, more))}"),
        owner=OwnerId("owner"),
        upstream=upstream,
        headers=headers or (("authorization", f"Bearer {key}"), *more),
    )


def make_batch_id() -> BatchId:
    return _IDS.batch(T0)


def chat_body(text: str, model: str = "gpt-5.4-mini") -> bytes:
    return b'{"model": "%s", "messages": [{"role": "user", "content": "%s"}]}' % (
        model.encode(),
        text.encode(),
    )


def make_submission(
    provider: Provider,
    bodies: Sequence[bytes] = (chat_body("hello"),),
    *,
    batch_id: BatchId | None = None,
    endpoint: str = CHAT,
    model: str = "gpt-5.4-mini",
    headers: tuple[tuple[str, str], ...] = (),
    slack: timedelta | None = timedelta(hours=24),
) -> Submission:
    """A batch whose n-th line is called `job-<n>` (from 0)."""
    lines = [framed(provider, f"job-{n}", body, endpoint) for n, body in enumerate(bodies)]
    return Submission(
        batch_id=batch_id or make_batch_id(),
        endpoint=endpoint,
        model=model,
        headers=headers,
        count=len(lines),
        input_bytes=sum(map(len, lines)),
        lines=opener(lines),
        slack=slack,
    )


def framed(provider: Provider, custom_id: str, body: bytes, endpoint: str = CHAT) -> bytes:
    before, after = provider.frame(custom_id, endpoint)
    return before + body + after


def opener(chunks: Iterable[bytes]) -> Callable[[], AsyncIterator[bytes]]:
    chunks = list(chunks)

    async def lines() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return lines


@asynccontextmanager
async def client_tasks() -> AsyncIterator[asyncio.TaskGroup]:
    """The tasks of an upstream client."""
    async with asyncio.TaskGroup() as tasks:
        yield tasks


def batch_api(dialect: str) -> BatchApi:
    api = DIALECTS[dialect].batch
    assert api is not None
    return api


@asynccontextmanager
async def opened(
    kind: Callable[..., Adapter], dialect: str, base_url: str
) -> AsyncIterator[Adapter]:
    """Open an adapter that speaks a dialect over a client of its own."""
    async with client_tasks() as tasks:
        client = AiohttpClient(tasks)
        upstream = Upstream.parse(dialect, dialect, base_url)
        yield kind(upstream, batch_api(dialect), client, clock=MachineClock())
        await client.aclose()


def openai_at(base_url: str, dialect: str = "openai") -> OpenAIBatches:
    """The batch API of a member of the OpenAI family."""
    upstream = Upstream.parse(dialect, dialect, base_url)
    return OpenAIBatches(upstream, batch_api(dialect), clock=MachineClock())


async def all_results(
    provider: Provider, credential: Credential, file_ids: Iterable[str]
) -> list[ResultLine]:
    return [
        line
        for file_id in file_ids
        async for chunk in provider.results(credential, file_id)
        for line in chunk
    ]


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """Serve an application and yield its base URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
