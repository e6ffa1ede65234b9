"""Two instances on one Redis: one fleet, of which either may die."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.sandbox import Running as Provider
from proxy.sandbox import Sandbox, SandboxSettings
from proxy.stores.vault import Vault
from tests.e2e.processes import (
    QUICK,
    Proxy,
    bill,
    bought,
    chat,
    results,
    right_answer,
    settings_for,
)
from tests.helpers.ports import free_port
from tests.helpers.raw_upstream import wait_until
from tests.helpers.redis_server import RedisServer, eventually, redis_server

pytestmark = pytest.mark.redis

JOB = {"X-Deferrable": "job"}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    home = tmp_path / "redis"
    home.mkdir()
    with redis_server(home, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@dataclass(frozen=True)
class Fleet:
    one: Proxy
    two: Proxy
    provider: Provider

    def events(self, name: str) -> list[dict[str, Any]]:
        return self.one.events(name) + self.two.events(name)


@asynccontextmanager
async def fleet(
    tmp_path: Path,
    redis: RedisServer,
    *,
    batching: Mapping[str, Any] = QUICK["batching"],
    turnaround_s: float = 0.5,
) -> AsyncIterator[Fleet]:
    key_file = tmp_path / "key"
    Vault.load_or_create(key_file)
    async with Sandbox(SandboxSettings(turnaround_s=turnaround_s)).serve() as running:
        changes = {
            "store": redis.url,
            "secret_key_file": str(key_file),
            "batching": batching,
        }
        proxies = []
        for name in ("one", "two"):
            folder = tmp_path / name
            folder.mkdir()
            proxies.append(Proxy(folder, settings_for(folder, _openai(running), changes)))
        try:
            for proxy in proxies:
                await proxy.start()
            yield Fleet(proxies[0], proxies[1], running)
        finally:
            for proxy in proxies:
                await proxy.kill()


def _openai(provider: Provider) -> dict[str, str]:
    return {"openai": provider.base_url}


async def defer(proxy: Proxy, prompts: list[str]) -> list[str]:
    answers = await asyncio.gather(*(chat(proxy, prompt, headers=JOB) for prompt in prompts))
    assert {status for status, _ in answers} == {202}
    return [answer["id"] for _, answer in answers]


def texts(found: list[tuple[int, bytes]]) -> list[str]:
    assert {status for status, _ in found} == {200}
    return [json.loads(body)["choices"][0]["message"]["content"] for _, body in found]


def batches_bought(provider: Provider) -> int:
    return provider.ledger.requests["POST /v1/batches"]


async def test_jobs_of_both_instances_fill_one_batch_and_either_answers_for_all(
    tmp_path: Path, redis: RedisServer
) -> None:
    # Only the jobs of both make it full, and nothing else makes it due.
    full = QUICK["batching"] | {"linger": "60s", "linger_max": "60s", "max_requests": 24}
    async with fleet(tmp_path, redis, batching=full) as running:
        prompts = [f"prompt {number}" for number in range(24)]
        ids = [
            *await defer(running.one, prompts[:12]),
            *await defer(running.two, prompts[12:]),
        ]

        by_one = await results(running.one, ids)
        by_two = await results(running.two, ids)

        assert texts(by_one) == [right_answer(prompt) for prompt in prompts]
        assert by_two == by_one
        assert batches_bought(running.provider) == 1


async def test_what_a_killed_instance_accepted_is_finished_by_the_other(
    tmp_path: Path, redis: RedisServer
) -> None:
    async with fleet(tmp_path, redis) as running:
        prompts = [f"prompt {number}" for number in range(20)]
        ids = await defer(running.one, prompts)
        await wait_until(lambda: batches_bought(running.provider) > 0)
        late = await defer(running.one, ["late"])
        await running.one.kill()

        found = await results(running.two, [*ids, *late])

        assert texts(found) == [right_answer(prompt) for prompt in [*prompts, "late"]]
        assert await _is_nothing_pending(running.two)


async def _is_nothing_pending(proxy: Proxy) -> bool:
    async with proxy.sdk() as sdk:
        listed = await sdk.get("/jobs?limit=100", cast_to=object)
    return {job["status"] for job in listed["data"]} == {"completed"}  # type: ignore[index]


async def test_the_log_and_the_probe_say_what_outlives_a_crash_of_redis(
    tmp_path: Path, redis: RedisServer
) -> None:
    async with fleet(tmp_path, redis) as running:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{running.one.admin_url}/readyz") as answer,
        ):
            ready = await answer.json()
        (started,) = running.one.events("instance.started")

        assert "append-only file, fsync always; 0 replicas" in ready["durability"]
        assert started["durability"] == ready["durability"]
        assert await running.one.terminate() == 0


async def test_results_that_a_redis_lost_are_read_again_and_bought_once(tmp_path: Path) -> None:
    """As after a failover to a replica that was behind: it knows of the batch, not of its end."""
    home, port = tmp_path / "redis", free_port()
    home.mkdir()
    prompts = [f"call {number}" for number in range(12)]
    with ExitStack() as stack:
        behind = stack.enter_context(redis_server(home, port=port))
        async with fleet(tmp_path, behind, turnaround_s=600) as both:
            job_ids = await defer(both.one, prompts)
            await wait_until(lambda: sum(e["jobs"] for e in both.events("batch.submitted")) == 12)
            behind.admin.save()
            await both.provider.advance(600)
            await results(both.two, job_ids)
            batches = len(both.events("batch.submitted"))
            await wait_until(lambda: len(both.events("batch.ingested")) == batches)

            # What is killed saves no more.
            stack.close()
            await asyncio.to_thread(stack.enter_context, redis_server(home, port=port))

            async def are_there() -> bool:
                again[:] = await results(both.one, job_ids)
                return 503 not in {status for status, _ in again}

            again: list[tuple[int, bytes]] = []
            await eventually(are_there)
            await wait_until(lambda: len(both.events("batch.ingested")) == 2 * batches)
            owed = await bill(both.one, both.provider)

    assert texts(again) == [right_answer(prompt) for prompt in prompts]
    assert {bought(both.provider, prompt) for prompt in prompts} == {1}
    assert (owed.known, owed.possible) == (owed.provider, 0)
