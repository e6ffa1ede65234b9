"""A real endpoint is told of real jobs, whoever is killed in between."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook

from proxy.stores.vault import Vault
from tests.e2e.processes import Proxy, chat, proxy_and_provider, results
from tests.helpers.raw_upstream import wait_until
from tests.helpers.redis_server import RedisServer, redis_server

SECRET = base64.b64encode(b"s" * 32).decode()
TOLD = {"X-Deferrable": "job", "X-Deferrable-Webhook": "done"}


class Hook:
    """An endpoint that verifies what it is sent."""

    def __init__(self) -> None:
        self.told: list[dict[str, object]] = []
        self.ids: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        content = Webhook(SECRET).verify(await request.read(), dict(request.headers))
        self.told.append(content)
        self.ids.append(request.headers["webhook-id"])
        return web.Response(status=204)


@asynccontextmanager
async def hook_of(folder: Path, **changes: object) -> AsyncIterator[tuple[Hook, Proxy]]:
    hook = Hook()
    application = web.Application()
    application.router.add_post("/told", hook.handle)
    async with TestServer(application) as server:
        done = {"url": str(server.make_url("/told")), "secret": SECRET, "timeout": "2s"}
        async with proxy_and_provider(folder, changes={"webhooks": {"done": done}, **changes}) as (
            proxy,
            _,
        ):
            yield hook, proxy


async def defer(proxy: Proxy, *prompts: str) -> set[str]:
    answers = await asyncio.gather(*(chat(proxy, prompt, headers=TOLD) for prompt in prompts))
    assert {status for status, _ in answers} == {202}
    ids = {answer["id"] for _, answer in answers}
    await results(proxy, sorted(ids))
    return ids


def told_ids(hook: Hook) -> set[str]:
    return {content["data"]["id"] for content in hook.told}  # type: ignore[index]


async def test_every_end_is_told_once_signed_and_without_prompt_or_result(tmp_path):
    async with hook_of(tmp_path) as (hook, proxy):
        ids = await defer(proxy, *(f"canary prompt {n}" for n in range(12)))
        await wait_until(lambda: told_ids(hook) == ids)

        await wait_until_metric(proxy, 'offramp_webhook_delivered_total{webhook="done"}', 12)
    assert len(hook.told) == 12
    assert "canary" not in json.dumps(hook.told)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    home = tmp_path / "redis"
    home.mkdir()
    with redis_server(home, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.mark.parametrize("store", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
async def test_a_kill_between_the_end_and_its_telling_loses_none(tmp_path, store, request):
    changes: dict[str, object] = {}
    if store == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        Vault.load_or_create(tmp_path / "key")
        changes = {"store": server.url, "secret_key_file": str(tmp_path / "key")}
    async with hook_of(tmp_path, **changes) as (hook, proxy):
        # The results are there: the jobs have ended, and hardly any end is told yet.
        ids = await defer(proxy, *(f"prompt {n}" for n in range(12)))
        await proxy.kill()
        await proxy.start()

        await wait_until(lambda: told_ids(hook) == ids)
    # A repeat is known by its ID.
    assert len(set(hook.ids)) == len(ids)


async def wait_until_metric(proxy: Proxy, name: str, value: float) -> None:
    async with asyncio.timeout(30):
        while await proxy.metric(name) != value:
            await asyncio.sleep(0.05)
