"""SDKs repeat what broke: n equal calls stay n jobs, and a repeat buys nothing again."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from proxy.sandbox import Running as Provider
from proxy.sandbox import SandboxSettings, body_hash
from tests.e2e.processes import KEY, Proxy, bought, chat, proxy_and_provider, results, right_answer
from tests.e2e.relay import Cut, Plan, Relay
from tests.helpers.raw_upstream import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "gpt-4o-mini"
SAMPLES = 5


@dataclass(frozen=True)
class Scene:
    proxy: Proxy
    provider: Provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("repeats")
    async with proxy_and_provider(folder) as (proxy, provider):
        yield Scene(proxy, provider)


def every_first_try(*cuts: Cut) -> Plan:
    """Break first tries in these ways, one after the other; let repeats through."""
    upcoming = itertools.cycle(cuts)

    def plan(_number: int, head: bytes) -> Cut:
        is_first = b"x-stainless-retry-count: 0" in head.lower()
        return next(upcoming) if is_first else Cut.NOT

    return plan


WAYS: Mapping[str, Plan] = {
    "all answers lost": every_first_try(Cut.BEFORE_ANSWER),
    "all answers cut": every_first_try(Cut.IN_ANSWER),
}
"""All of them: an answer that reached nobody looks, from here, like one that was read.
If only some are lost, a retry may be given a job that another caller has as well."""

MODES: Mapping[str, dict[str, str]] = {
    "job": {"X-Deferrable": "job"},
    "raise": {"X-Deferrable": "raise"},
    "wait": {"X-Deferrable": "wait"},
    "prefer": {"Prefer": "respond-async"},
    "prefer and wait": {"Prefer": "respond-async, wait=30"},
}


def client(relay: Relay, key: str, **options: Any) -> AsyncOpenAI:
    usual: dict[str, Any] = {"default_headers": {"Connection": "close"}, "max_retries": 4}
    return AsyncOpenAI(base_url=relay.base_url, api_key=key, **(usual | options))


@pytest.mark.parametrize("mode", MODES)
async def test_equal_samples_stay_as_many_as_they_are_however_their_connections_break(
    scene: Scene, mode: str
) -> None:
    await asyncio.gather(*[_sample(scene, mode, way) for way in WAYS])


async def _sample(scene: Scene, mode: str, way: str) -> None:
    prompt, key = f"{mode}: {way}", f"sk-canary-{mode}-{way}".replace(" ", "-")
    relay = Relay(lambda: scene.proxy.base_url, WAYS[way])
    async with relay.serve(), client(relay, key) as sdk:
        jobs = await asyncio.gather(*[_job_id(sdk, prompt, MODES[mode]) for _ in range(SAMPLES)])

    assert len(set(jobs)) == SAMPLES, way
    answers = await results(scene.proxy, jobs, key=key)
    assert [status for status, _ in answers] == [200] * SAMPLES
    assert bought(scene.provider, prompt) == SAMPLES, way
    assert relay.calls > SAMPLES


async def test_callers_lost_while_held_get_their_own_jobs_again_beside_those_that_stay(
    scene: Scene,
) -> None:
    prompt, key = "some callers lost", "sk-canary-some-lost"

    async def all_accepted() -> None:
        while len(await _listed(scene.proxy, key)) < SAMPLES:
            await asyncio.sleep(0.02)

    plan = every_first_try(Cut.WHILE_HELD, Cut.NOT)
    relay = Relay(lambda: scene.proxy.base_url, plan, ready=all_accepted)
    async with relay.serve(), client(relay, key) as sdk:
        jobs = await asyncio.gather(*[_job_id(sdk, prompt, MODES["wait"]) for _ in range(SAMPLES)])

    assert len(set(jobs)) == SAMPLES
    assert bought(scene.provider, prompt) == SAMPLES
    assert relay.calls > SAMPLES


async def test_a_call_that_broke_off_on_its_way_here_makes_no_job(scene: Scene) -> None:
    key = "sk-canary-broken-off"
    relay = Relay(lambda: scene.proxy.base_url, every_first_try(Cut.IN_REQUEST))
    async with relay.serve(), client(relay, key) as sdk:
        job_id = await _job_id(sdk, "broken off", MODES["wait"])

    assert [job["id"] for job in await _listed(scene.proxy, key)] == [job_id]
    assert bought(scene.provider, "broken off") == 1


async def _job_id(sdk: AsyncOpenAI, prompt: str, headers: Mapping[str, str]) -> str:
    """Make a call and return the job that its answer names."""
    try:
        raw = await sdk.chat.completions.with_raw_response.create(
            model=MODEL, messages=[{"role": "user", "content": prompt}], extra_headers=headers
        )
    except openai.BadRequestError as exc:
        return str(exc.response.headers["x-deferrable-job"])
    return raw.headers["x-deferrable-job"]


async def test_equal_background_responses_stay_as_many_as_they_are(scene: Scene) -> None:
    body = {"model": MODEL, "input": "background sample"}
    relay = Relay(lambda: scene.proxy.base_url, every_first_try(Cut.BEFORE_ANSWER))
    async with relay.serve(), client(relay, "sk-canary-background") as sdk:
        answers = await asyncio.gather(
            *[
                sdk.responses.create(**body, extra_headers={"X-Deferrable": "background"})  # type: ignore[call-overload]
                for _ in range(SAMPLES)
            ]
        )
        ids = [answer.id for answer in answers]
        await results(scene.proxy, ids, key="sk-canary-background")

    assert len(set(ids)) == SAMPLES
    assert scene.provider.ledger.bought(body_hash(body)) == SAMPLES


async def test_a_timeout_and_its_repeats_buy_nothing_twice(scene: Scene) -> None:
    """The SDK gives up after half a second, again and again, while the batch takes longer."""
    prompt, key = "impatient", "sk-canary-impatient"
    async with scene.proxy.sdk(key, max_retries=20, timeout=0.5) as sdk:
        answer = await sdk.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": prompt}],
            extra_headers={"X-Deferrable": "wait"},
        )

    assert answer.choices[0].message.content == right_answer(prompt)
    assert bought(scene.provider, prompt) == 1
    listed = await _listed(scene.proxy, key)
    assert [job["status"] for job in listed] == ["completed"]


async def test_who_calls_again_after_a_break_without_saying_so_gets_the_same_job(
    scene: Scene,
) -> None:
    """Plain HTTP and most wrappers send no retry count."""
    prompt, key = "plain repeat", "sk-canary-plain"

    async def accepted() -> None:
        while not await _listed(scene.proxy, key):
            await asyncio.sleep(0.02)

    relay = Relay(lambda: scene.proxy.base_url, _only_first, ready=accepted)
    async with relay.serve(), client(relay, key, max_retries=0) as sdk:
        headers = {"X-Deferrable": "wait"}
        with pytest.raises(openai.APIConnectionError):
            await _job_id(sdk, prompt, headers)
        again = await _job_id(sdk, prompt, headers)
        other = await _job_id(sdk, prompt, headers)

    assert again != other
    assert bought(scene.provider, prompt) == 2
    assert len(await _listed(scene.proxy, key)) == 2


def _only_first(number: int, _head: bytes) -> Cut:
    return Cut.WHILE_HELD if number == 0 else Cut.NOT


async def _listed(proxy: Proxy, key: str) -> list[dict[str, Any]]:
    async with proxy.sdk(key) as sdk:
        page: Any = await sdk.get("/jobs?limit=100", cast_to=object)
    assert not page["has_more"]
    jobs: list[dict[str, Any]] = page["data"]
    return jobs


# Keys.


async def test_the_same_idempotency_key_is_the_same_job_and_another_call_is_refused(
    scene: Scene,
) -> None:
    headers = {"X-Deferrable": "job", "Idempotency-Key": "order-66"}
    key = "sk-canary-idempotent"
    several = await asyncio.gather(
        *[chat(scene.proxy, "keyed", headers=headers, key=key) for _ in range(8)]
    )
    status, other = await chat(scene.proxy, "another", headers=headers, key=key)
    _, strangers = await chat(scene.proxy, "keyed", headers=headers, key="sk-canary-other")

    assert {status for status, _ in several} == {202}
    (job_id,) = {job["id"] for _, job in several}
    assert (status, other["error"]["code"]) == (422, "idempotency_key_reused")
    assert strangers["id"] != job_id
    await results(scene.proxy, [job_id], key=key)
    await results(scene.proxy, [strangers["id"]], key="sk-canary-other")
    assert bought(scene.provider, "keyed") == 2


# Across a restart.


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
async def test_held_samples_are_answered_across_a_restart_and_bought_once_each(
    tmp_path: Path, end: str
) -> None:
    prompt = f"held across {end}"
    settings = SandboxSettings(turnaround_s=2.0)
    async with proxy_and_provider(tmp_path, provider_settings=settings) as (proxy, provider):
        relay = Relay(lambda: proxy.base_url)
        async with (
            relay.serve(),
            client(relay, KEY, max_retries=8) as sdk,
            asyncio.TaskGroup() as tasks,
        ):
            calls = [tasks.create_task(_job_id(sdk, prompt, MODES["wait"])) for _ in range(SAMPLES)]
            await wait_until(lambda: proxy.events("batch.submitted"))
            await (proxy.terminate() if end == "SIGTERM" else proxy.kill())
            await proxy.start()
        jobs = [call.result() for call in calls]
        known = {job["id"] for job in await _listed(proxy, KEY)}

        assert len(set(jobs)) == SAMPLES
        assert set(jobs) == known
        assert bought(provider, prompt) == SAMPLES


async def test_a_script_that_is_started_again_resumes_its_run(tmp_path: Path) -> None:
    async with proxy_and_provider(tmp_path) as (proxy, provider):
        headers = {"X-Deferrable": "job", "X-Deferrable-Run": "nightly-1"}

        async def script() -> list[str]:
            made = [await chat(proxy, prompt, headers=headers) for prompt in "aabac"]
            return [job["id"] for _, job in made]

        first = await script()
        await proxy.kill()
        await proxy.start()
        again = await script()

        assert again == first
        assert len(set(first)) == 5
        await results(proxy, first)
        wanted = Counter("aabac")
        assert {prompt: bought(provider, prompt) for prompt in wanted} == wanted
