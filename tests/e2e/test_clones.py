"""Other providers through the real process: clones of OpenAI's API, and a server of one's own."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from openai import AsyncOpenAI

from proxy.sandbox import HttpFault, Sandbox, SandboxSettings, body_hash
from proxy.sandbox import Running as Provider
from tests.e2e.processes import Proxy, body_of, results, right_answer, settings_for
from tests.helpers.raw_upstream import wait_until
from tests.providers.kit import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "canary-e2e-clones"
BATCHED = "gpt-5.4-mini"
INTERACTIVE = "gpt-5.4-interactive"
"""What the sandbox serves no batches of, like a synchronous deployment of Azure's."""

PLACES = {
    "azure": "/azure/openai",
    "groq": "/groq/openai",
    "together": "/together",
    "mistral": "/mistral",
    "deepinfra": "/deepinfra/v1/openai",
    "gemini-openai": "/gemini-openai/v1beta/openai",
    "doubleword": "/doubleword",
    "openrouter": "/openrouter/api/v1",
    "xai": "/xai",
}
MODELS = dict.fromkeys(PLACES, BATCHED) | {"azure": INTERACTIVE}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Proxy, Provider]]:
    """One sandbox that is all of them, and a proxy that knows each by its name."""
    folder: Path = tmp_path_factory.mktemp("clones")
    async with Sandbox(SandboxSettings()).serve() as provider:
        upstreams: dict[str, Any] = {
            name: {"dialect": name, "base_url": provider.base_url + path}
            for name, path in PLACES.items()
        }
        upstreams["gemini"] = {"base_url": f"{provider.base_url}/gemini-openai"}
        upstreams["azure"]["batch_models"] = {INTERACTIVE: BATCHED}
        changes = {"upstreams": upstreams}
        proxy = Proxy(folder, settings_for(folder, {"openai": provider.base_url}, changes))
        await proxy.start()
        yield proxy, provider
        await proxy.kill()


def client(proxy: Proxy, name: str) -> AsyncOpenAI:
    """The stock SDK below the prefix of an upstream, with the header that it wants."""
    own = {"api-key": KEY} if name == "azure" else {}
    return AsyncOpenAI(
        base_url=f"{proxy.base_url}/{name}/v1", api_key=KEY, max_retries=0, default_headers=own
    )


@pytest.mark.parametrize("name", PLACES)
async def test_calls_of_every_clone_go_through_and_deferred_ones_are_bought_in_a_batch(
    world: tuple[Proxy, Provider], name: str
) -> None:
    proxy, provider = world
    # Fewer would not be worth a batch where there is another lane at the same price.
    prompts = [f"{name} {n}" for n in range(12)]
    model = MODELS[name]

    async with client(proxy, name) as sdk, asyncio.timeout(100):
        direct = await sdk.chat.completions.create(**body_of("now", model=model))
        answers = await asyncio.gather(
            *(
                sdk.chat.completions.create(
                    **body_of(prompt, model=model), extra_headers={"X-Deferrable": "wait"}
                )
                for prompt in prompts
            )
        )

    assert direct.choices[0].message.content == right_answer("now", model=model)
    said = [answer.choices[0].message.content for answer in answers]
    assert said == [right_answer(prompt, model=BATCHED) for prompt in prompts]
    hashes = {body_hash(body_of(prompt, model=BATCHED)) for prompt in prompts}
    lanes = [entry.lane for entry in provider.ledger.entries() if entry.body_hash in hashes]
    assert lanes == ["batch"] * 12


@pytest.mark.parametrize("prefix", ["", "/gemini"])
async def test_geminis_openai_api_is_told_from_its_own_by_its_path_and_keeps_its_base_url(
    world: tuple[Proxy, Provider], prefix: str
) -> None:
    proxy, provider = world
    base_url = f"{proxy.base_url}{prefix}/v1beta/openai"
    bodies = [body_of(f"gemini {prefix} {n}", model=BATCHED) for n in range(12)]

    async with AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as sdk:
        jobs = [
            await sdk.chat.completions.create(**body, extra_headers={"X-Deferrable": "true"})
            for body in bodies
        ]

        await results(proxy, [job.id for job in jobs], key=KEY)
        answers = [await sdk.chat.completions.retrieve(job.id) for job in jobs]

    said = [answer.choices[0].message.content for answer in answers]
    assert said == [right_answer(f"gemini {prefix} {n}", model=BATCHED) for n in range(12)]
    hashes = {body_hash(body) for body in bodies}
    lanes = [entry.lane for entry in provider.ledger.entries() if entry.body_hash in hashes]
    assert lanes == ["batch"] * 12


OF_MISTRAL: dict[str, dict[str, Any]] = {
    "/ocr": {
        "model": "mistral-ocr-latest",
        "document": {"type": "document_url", "document_url": "https://example.com/a.pdf"},
    },
    "/fim/completions": {"model": "gpt-3.5-turbo-instruct", "prompt": "def ", "suffix": "return"},
    "/chat/moderations": {
        "model": "omni-moderation-latest",
        "input": [[{"role": "user", "content": "hi"}]],
    },
    "/classifications": {"model": "omni-moderation-latest", "input": ["a", "b"]},
    "/chat/classifications": {
        "model": "omni-moderation-latest",
        "input": [{"messages": [{"role": "user", "content": "hi"}]}],
    },
}


async def test_what_mistral_alone_answers_is_bought_in_batches_too(
    world: tuple[Proxy, Provider],
) -> None:
    proxy, provider = world

    async with client(proxy, "mistral") as sdk, asyncio.timeout(100):
        direct, held = [
            await asyncio.gather(
                *(
                    sdk.post(path, body=body, options={"headers": headers}, cast_to=dict)
                    for path, body in OF_MISTRAL.items()
                )
            )
            for headers in ({}, {"X-Deferrable": "wait"})
        ]

    for now, later in zip(direct, held, strict=True):
        assert {**later, "id": None, "created": None} == {**now, "id": None, "created": None}
    # Jobs that other tests left may be bought meanwhile.
    hashes = {body_hash(body) for body in OF_MISTRAL.values()}
    lanes = [entry.lane for entry in provider.ledger.entries() if entry.body_hash in hashes]
    assert lanes == ["interactive"] * 5 + ["batch"] * 5


@pytest.mark.parametrize("name", ["together", "mistral", "gemini-openai", "openrouter", "xai"])
async def test_a_create_without_an_answer_is_found_by_what_marks_it_and_bought_once(
    world: tuple[Proxy, Provider], name: str
) -> None:
    """Its input file; our ID in it, or as its name; at OpenRouter time and size, then results."""
    proxy, provider = world
    prompts = [f"unclear {name} {n}" for n in range(12)]
    provider.faults.add(HttpFault(action="reset_after", method="POST", path=f"/{name}/*/batch*"))

    async with client(proxy, name) as sdk, asyncio.timeout(100):
        answers = await asyncio.gather(
            *(
                sdk.chat.completions.create(
                    **body_of(prompt, model=BATCHED), extra_headers={"X-Deferrable": "wait"}
                )
                for prompt in prompts
            )
        )

    said = [answer.choices[0].message.content for answer in answers]
    assert said == [right_answer(prompt, model=BATCHED) for prompt in prompts]
    bodies = [body_of(prompt, model=BATCHED) for prompt in prompts]
    assert {provider.ledger.bought(body_hash(body)) for body in bodies} == {1}
    await wait_until(lambda: proxy.events("batch.adopted"))


@pytest.mark.parametrize(("deadline", "is_batched"), [("6h", False), ("26h", True)])
async def test_only_a_job_with_a_window_to_spare_enters_a_batch_that_cannot_be_stopped(
    world: tuple[Proxy, Provider], deadline: str, is_batched: bool
) -> None:
    proxy, _ = world
    tag = {
        "X-Deferrable": "job",
        "X-Deferrable-Deadline": deadline,
        "Authorization": f"Bearer {KEY}",
    }
    url = f"{proxy.base_url}/openrouter/v1/chat/completions"

    async with (
        aiohttp.ClientSession() as http,
        http.post(url, json=body_of(f"by {deadline}", model=BATCHED), headers=tag) as answer,
    ):
        job = await answer.json()

    assert (job["lane"]["name"] == "batch") is is_batched
    assert is_batched or "a batch needs more than 1d" in job["lane"]["reason"]


async def test_no_key_of_a_clone_is_in_any_line_of_the_log(world: tuple[Proxy, Provider]) -> None:
    proxy, _ = world

    assert not [line for line in proxy.raw_logs if KEY in line]


async def test_a_server_of_ones_own_is_called_in_the_trickle_and_needs_no_key(
    tmp_path: Path,
) -> None:
    """It batches nothing and knows no keys, like vLLM or llama.cpp as they start."""
    seen: list[dict[str, str]] = []

    async def chat(request: web.Request) -> web.Response:
        seen.append({name.lower(): value for name, value in request.headers.items()})
        asked = await request.json()
        message = {"role": "assistant", "content": asked["messages"][0]["content"].upper()}
        return web.json_response(
            {
                "id": "chatcmpl-own",
                "object": "chat.completion",
                "created": 1,
                "model": asked["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        )

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    async with serving(app) as own:
        upstreams = {
            "vllm": {"dialect": "openai-compatible", "base_url": f"{own}/v1", "anonymous": True}
        }
        proxy = Proxy(tmp_path, settings_for(tmp_path, {"openai": own}, {"upstreams": upstreams}))
        await proxy.start()
        try:
            async with aiohttp.ClientSession() as http, asyncio.timeout(60):
                jobs = [await _deferred(http, proxy, f"q{n}") for n in range(3)]
                answers = [await _result(http, proxy, job["id"]) for job in jobs]
        finally:
            await proxy.kill()

    assert {job["lane"]["name"] for job in jobs} == {"trickle"}
    assert [answer["choices"][0]["message"]["content"] for answer in answers] == ["Q0", "Q1", "Q2"]
    assert len(seen) == 3
    assert all("authorization" not in headers for headers in seen)


async def _deferred(http: aiohttp.ClientSession, proxy: Proxy, prompt: str) -> dict[str, Any]:
    url = f"{proxy.base_url}/vllm/v1/chat/completions"
    tag = {"X-Deferrable": "job"}
    async with http.post(url, json=body_of(prompt), headers=tag) as answer:
        assert answer.status == 202, await answer.text()
        job: dict[str, Any] = await answer.json()
        return job


async def _result(http: aiohttp.ClientSession, proxy: Proxy, job_id: str) -> Any:
    url = f"{proxy.base_url}/v1/jobs/{job_id}/result?wait=50"
    async with http.get(url) as answer:
        assert answer.status == 200, await answer.text()
        return json.loads(await answer.read())
