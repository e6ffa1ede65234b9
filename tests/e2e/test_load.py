"""Many jobs of several credentials, random trouble, and one kill in the middle."""

import asyncio
import json
import os
import random
from collections import Counter
from pathlib import Path

import aiohttp

from proxy.sandbox import HttpFault, LineFault, SandboxSettings, body_hash, key_id
from proxy.sandbox import Running as Provider
from tests.e2e.processes import Proxy, body_of, proxy_and_provider, right_answer

JOBS = int(os.environ.get("TEST_LOAD_JOBS", "2000"))
KEYS = [f"sk-canary-load-{number}" for number in range(3)]
MODELS = ["gpt-4o-mini", "gpt-4.1-mini"]
AT_ONCE = 50

Asked = tuple[str, str, str]
"""Key, model and prompt: one call."""


async def test_every_accepted_job_gets_its_one_right_answer_and_is_bought_once(
    tmp_path: Path,
) -> None:
    """Goal: no trouble of the provider and no kill loses, swaps or doubles a job.

    Method: random calls are deferred while random faults befall their batches. Once
    half of them are accepted the process is killed. Callers whose connection broke
    repeat, as SDKs do; what they were promised before is asked for afterwards.
    """
    seed = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"TEST_SEED={seed}")
    chance = random.Random(seed)
    asked: list[Asked] = [
        (chance.choice(KEYS), chance.choice(MODELS), f"load {number}") for number in range(JOBS)
    ]
    settings = SandboxSettings(turnaround_s=0.5)
    async with proxy_and_provider(
        tmp_path, provider_settings=settings, changes={"log": {"level": "info"}}
    ) as (proxy, provider):
        for _ in range(12):
            provider.faults.add(_trouble(chance))
        promised = await _defer_all(proxy, asked)
        wrong = await _wrong_answers(proxy, promised)
        doubles = await proxy.metric("offramp_possible_double_total")

        assert wrong == []
        assert len(set(promised)) == JOBS
        assert _purchases(provider, asked) == Counter({1: JOBS})
        assert provider.ledger.totals().executions == JOBS
        assert doubles == 0


def _trouble(chance: random.Random) -> HttpFault | LineFault:
    """Return something that may go wrong and that leaves nobody in doubt about what was bought."""
    nth, key = chance.randint(1, 4), key_id(chance.choice(KEYS))
    troubles: list[HttpFault | LineFault] = [
        HttpFault(
            action="status", status=500, path="/v1/batches", method="POST", nth=nth, key_id=key
        ),
        HttpFault(action="reset_after", path="/v1/batches", method="POST", nth=nth, key_id=key),
        HttpFault(action="reset_before", path="/v1/batches/*", nth=nth, count=3, key_id=key),
        HttpFault(
            action="truncate",
            path="/v1/files/*/content",
            after_bytes=5_000,
            nth=nth,
            key_id=key,
        ),
        HttpFault(action="status", status=503, path="/v1/files/*", method="DELETE", nth=nth),
        LineFault(outcome="status", status=500, nth=nth, every=7, count=10, key_id=key),
        LineFault(outcome="duplicate", nth=nth, every=5, count=10, key_id=key),
        LineFault(outcome="foreign", nth=nth, count=3, key_id=key),
    ]
    return chance.choice(troubles)


async def _defer_all(proxy: Proxy, asked: list[Asked]) -> dict[str, Asked]:
    """Defer everything, with a kill at half time; return what was promised for what."""
    promised: dict[str, Asked] = {}
    seats = asyncio.Semaphore(AT_ONCE)
    up = asyncio.Event()
    up.set()

    async def one(http: aiohttp.ClientSession, call: Asked) -> None:
        async with seats:
            promised[await _defer(http, proxy, call, up)] = call

    async def kill_at_half() -> None:
        while len(promised) < JOBS // 2:
            await asyncio.sleep(0.01)
        up.clear()
        await proxy.kill()
        await proxy.start()
        up.set()

    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
        tasks.create_task(kill_at_half())
        for call in asked:
            tasks.create_task(one(http, call))
    return promised


async def _defer(http: aiohttp.ClientSession, proxy: Proxy, call: Asked, up: asyncio.Event) -> str:
    key, model, prompt = call
    for attempt in range(100):
        await up.wait()
        headers = {
            "Authorization": f"Bearer {key}",
            "X-Deferrable": "job",
            "x-stainless-retry-count": str(attempt),
        }
        url = f"{proxy.base_url}/v1/chat/completions"
        try:
            async with http.post(url, json=body_of(prompt, model=model), headers=headers) as answer:
                job = await answer.json()
                if answer.status == 202:
                    return str(job["id"])
                # New keys share a small pool until the provider has accepted them.
                assert answer.status == 429, job
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.2)
    raise AssertionError(f"{prompt} was never accepted")


async def _wrong_answers(proxy: Proxy, promised: dict[str, Asked]) -> list[tuple[str, int, bytes]]:
    wrong: list[tuple[str, int, bytes]] = []
    seats = asyncio.Semaphore(AT_ONCE)

    async def one(http: aiohttp.ClientSession, job_id: str, call: Asked) -> None:
        key, model, prompt = call
        async with seats:
            status, body = 202, b""
            while status == 202:
                async with http.get(
                    f"{proxy.base_url}/v1/jobs/{job_id}/result?wait=30",
                    headers={"Authorization": f"Bearer {key}"},
                ) as answer:
                    status, body = answer.status, await answer.read()
        want = right_answer(prompt, model=model)
        if status != 200 or json.loads(body)["choices"][0]["message"]["content"] != want:
            wrong.append((prompt, status, body[:200]))

    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
        for job_id, call in promised.items():
            tasks.create_task(one(http, job_id, call))
    return wrong


def _purchases(provider: Provider, asked: list[Asked]) -> Counter[int]:
    """Return how many calls were bought how often."""
    return Counter(
        provider.ledger.bought(body_hash(body_of(prompt, model=model)))
        for _, model, prompt in asked
    )
