"""The stock google-genai SDK through the real process, in every mode, and through a crash."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from google import genai
from google.genai import types

from proxy.sandbox import HttpFault, Sandbox, SandboxSettings
from proxy.sandbox import Running as Provider
from tests.e2e.processes import Proxy, results, settings_for
from tests.helpers.raw_upstream import wait_until

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # The SDK's own, where aiohttp is installed.
    pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning"),
]

MODEL = "gemini-2.5-flash"
EMBEDDER = "gemini-embedding-001"
CREATE = f"/v1beta/models/{MODEL}:batchGenerateContent"
JOBS = 12
TOOL: dict[str, Any] = {
    "function_declarations": [
        {
            "name": "weather",
            "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}},
        }
    ]
}


@asynccontextmanager
async def running(
    folder: Path, settings: SandboxSettings | None = None
) -> AsyncIterator[tuple[Proxy, Provider]]:
    """A sandbox that speaks Gemini, and a proxy with it as upstream."""
    async with Sandbox(settings or SandboxSettings(turnaround_s=0.5)).serve() as provider:
        changes = {
            "upstreams": {"gemini": {"dialect": "gemini", "base_url": provider.base_url}},
            # Or so few jobs would never make a batch.
            "lanes": {"flex": {"enabled": False}},
        }
        proxy = Proxy(folder, settings_for(folder, {"openai": provider.base_url}, changes))
        await proxy.start()
        try:
            yield proxy, provider
        finally:
            await proxy.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Proxy, Provider]]:
    async with running(tmp_path_factory.mktemp("gemini")) as made:
        yield made


@asynccontextmanager
async def sdk(base_url: str, key: str, **options: Any) -> AsyncIterator[Any]:
    """The SDK's asynchronous half; its types are of no interest."""
    client = genai.Client(api_key=key, http_options=types.HttpOptions(base_url=base_url, **options))
    try:
        yield client.aio.models
    finally:
        await client.aio.aclose()
        client.close()


def config(mode: str | None = None, **fields: Any) -> Any:
    headers = {} if mode is None else {"X-Deferrable": mode}
    return types.GenerateContentConfig(
        http_options=types.HttpOptions(headers=headers), max_output_tokens=500, **fields
    )


async def asked(models: Any, prompt: str, mode: str | None = None, **fields: Any) -> Any:
    return await models.generate_content(
        model=MODEL, contents=prompt, config=config(mode, **fields)
    )


async def right(provider: Provider, prompt: str) -> str:
    """What the provider itself answers, asked with a key of nobody's."""
    async with sdk(provider.base_url, "direct") as models:
        return str((await asked(models, prompt)).text)


def job_of(answer: Any) -> str:
    headers = {name.lower(): v for name, v in answer.sdk_http_response.headers.items()}
    return str(headers["x-deferrable-job"])


async def fetched(proxy: Proxy, path: str, key: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as http,
        http.get(proxy.base_url + path, headers={"x-goog-api-key": key}) as answer,
    ):
        return answer.status, json.loads(await answer.read())


def text_of(body: Any) -> str:
    return str(body["candidates"][0]["content"]["parts"][0]["text"])


async def test_interactive_calls_go_straight_through(scene):
    proxy, provider = scene
    async with sdk(proxy.base_url, "now") as models:
        answer = await asked(models, "now")
        streamed = [
            chunk.text
            async for chunk in await models.generate_content_stream(
                model=MODEL, contents="now", config=config()
            )
        ]
        counted = await models.count_tokens(model=MODEL, contents="now")
        embedded = await models.embed_content(model=EMBEDDER, contents=["a", "b"])

    assert answer.text == "".join(streamed) == await right(provider, "now")
    assert counted.total_tokens == answer.usage_metadata.prompt_token_count
    assert len(embedded.embeddings) == 2
    assert {entry.lane for entry in provider.ledger.entries(key="now")} == {"interactive"}


@pytest.mark.parametrize("prefix", ["", "/gemini"])
async def test_a_held_call_brings_the_answer_of_the_batch(scene, prefix):
    proxy, provider = scene
    key = f"held{prefix}"
    async with sdk(proxy.base_url + prefix, key) as models:
        answer = await asked(models, "held", "wait")

    assert answer.text == await right(provider, "held")
    assert [entry.lane for entry in provider.ledger.entries(key=key)] == ["batch"]


async def test_the_synchronous_sdk_is_held_too(scene):
    proxy, provider = scene

    def call() -> Any:
        options = types.HttpOptions(base_url=proxy.base_url)
        with genai.Client(api_key="sync", http_options=options) as client:
            return client.models.generate_content(
                model=MODEL, contents="sync", config=config("wait")
            )

    answer = await asyncio.to_thread(call)

    assert answer.text == await right(provider, "sync")


@pytest.mark.parametrize(
    "more",
    [
        {},
        {
            "tools": [TOOL],
            "tool_config": {"function_calling_config": {"mode": "ANY"}},
            "automatic_function_calling": {"disable": True},
        },
        {"thinking_config": {"include_thoughts": True}},
        {"candidate_count": 2},
    ],
    ids=["text", "tool", "thinking", "candidates"],
)
async def test_a_held_stream_says_what_a_call_would(scene, more):
    proxy, provider = scene
    key = f"stream {sorted(more)}"
    async with sdk(proxy.base_url, key) as models:
        whole = await asked(models, "streamed", **more)
        chunks = [
            chunk
            async for chunk in await models.generate_content_stream(
                model=MODEL, contents="streamed", config=config("wait", **more)
            )
        ]

    def told(responses: Any, part: Callable[[Any], Any]) -> list[Any]:
        """What all parts of a candidate add up to, candidate by candidate."""
        sums: dict[int, Any] = {}
        for response in responses:
            for candidate in response.candidates:
                for one in candidate.content.parts:
                    at = candidate.index or 0
                    sums[at] = sums.get(at, "") + (part(one) or "")
        return [sums[at] for at in sorted(sums)]

    for member in (
        lambda part: None if part.thought else part.text,
        lambda part: part.text if part.thought else None,
        lambda part: part.function_call and part.function_call.model_dump_json(),
    ):
        assert told(chunks, member) == told([whole], member)
    assert chunks[-1].candidates[0].finish_reason == whole.candidates[0].finish_reason
    assert chunks[-1].usage_metadata.total_token_count == whole.usage_metadata.total_token_count
    lanes = sorted(entry.lane for entry in provider.ledger.entries(key=key))
    assert lanes == ["batch", "interactive"]


FORMS = {"?alt=sse": "text/event-stream", "": "application/json"}


async def test_blank_lines_keep_a_held_stream_alive_in_both_of_its_forms(tmp_path):
    headers = {"x-goog-api-key": "beats", "X-Deferrable": "wait", "X-Stainless-Read-Timeout": "3"}
    body = {"contents": [{"parts": [{"text": "slow"}]}]}

    async def held(http: aiohttp.ClientSession, url: str) -> tuple[str, bytes]:
        async with http.post(url, json=body) as answer:
            return answer.content_type, await answer.read()

    async with (
        running(tmp_path, SandboxSettings(turnaround_s=2.0)) as (proxy, _),
        aiohttp.ClientSession(headers=headers) as http,
    ):
        url = f"{proxy.base_url}/v1beta/models/{MODEL}:streamGenerateContent"
        told = await asyncio.gather(*(held(http, url + query) for query in FORMS))

    for (query, kind), (content_type, raw) in zip(FORMS.items(), told, strict=True):
        beats, rest = raw[: len(raw) - len(raw.lstrip())], raw.lstrip()
        assert content_type == kind
        assert set(beats) == {ord("\n")}
        if query:
            chunks = [json.loads(line[6:]) for line in rest.split(b"\n\n") if line]
        else:
            chunks = json.loads(rest)
        assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"


async def test_a_job_is_answered_with_200_and_fetched_by_plain_http(scene):
    proxy, provider = scene
    async with sdk(proxy.base_url, "later") as models:
        answer = await asked(models, "later", "job")
    job_id = job_of(answer)

    status, job = await fetched(proxy, f"/v1/jobs/{job_id}?wait=60", "later")
    typed = await fetched(proxy, f"/gemini/jobs/{job_id}", "later")
    by_query = await fetched(proxy, f"/v1/jobs/{job_id}/result?key=later", "x")
    foreign = await fetched(proxy, f"/gemini/jobs/{job_id}", "another")

    assert answer.candidates is None
    assert (status, job["status"], job["model"]) == (200, "completed", MODEL)
    assert job["lane"]["name"] == "batch"
    assert typed[0] == by_query[0] == 200
    assert text_of(typed[1]) == text_of(by_query[1]) == await right(provider, "later")
    assert foreign[0] == 404
    assert foreign[1]["error"]["status"] == "NOT_FOUND"


async def test_raise_names_the_job_and_is_sent_once(scene):
    proxy, provider = scene
    async with sdk(proxy.base_url, "loud") as models:
        with pytest.raises(genai.errors.ClientError) as raised:
            await asked(models, "loud", "raise")
    error = raised.value.details["error"]
    (info,) = error["details"]
    job_id = str(raised.value.message).split()[3].rstrip(":")
    status, body = await fetched(proxy, f"/v1/jobs/{job_id}/result?wait=60", "loud")

    assert (raised.value.code, raised.value.status) == (400, "INVALID_ARGUMENT")
    assert info["reason"] == "deferred_accepted"
    assert status == 200
    assert text_of(body) == await right(provider, "loud")
    assert len(list(provider.ledger.entries(key="loud"))) == 1


@pytest.mark.parametrize("mode", ["job", "raise"])
async def test_a_stream_is_never_answered_with_a_job(scene, mode):
    proxy, provider = scene
    async with sdk(proxy.base_url, "never") as models:
        with pytest.raises(genai.errors.ClientError) as raised:
            await anext(
                await models.generate_content_stream(model=MODEL, contents="x", config=config(mode))
            )

    assert raised.value.code == 400
    assert list(provider.ledger.entries(key="never")) == []


async def test_one_text_is_embedded_in_a_batch_and_several_by_a_call(scene):
    proxy, provider = scene
    url = f"{proxy.base_url}/v1beta/models/{EMBEDDER}:embedContent?key=embeds"
    body = {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 8}
    async with aiohttp.ClientSession() as http:
        async with http.post(url, json=body) as answer:
            direct = await answer.json()
        async with http.post(url, json=body, headers={"X-Deferrable": "wait"}) as answer:
            held = await answer.json()
    async with sdk(proxy.base_url, "embeds several") as models:
        options = types.HttpOptions(headers={"X-Deferrable": "wait"})
        several = await models.embed_content(
            model=EMBEDDER,
            contents=["a", "b"],
            config=types.EmbedContentConfig(http_options=options),
        )

    assert held == direct
    assert len(several.embeddings) == 2
    assert [e.lane for e in provider.ledger.entries(key="embeds")] == ["interactive", "batch"]
    assert {e.lane for e in provider.ledger.entries(key="embeds several")} == {"interactive"}


async def test_a_line_that_is_refused_is_answered_as_the_api_would(scene):
    proxy, _ = scene
    contents: Any = [types.Content(role="user", parts=[])]
    async with sdk(proxy.base_url, "refused") as models:
        errors = []
        for mode in (None, "wait"):
            with pytest.raises(genai.errors.ClientError) as raised:
                await models.generate_content(model=MODEL, contents=contents, config=config(mode))
            errors.append(raised.value)

    direct, deferred = errors
    assert (
        (deferred.code, deferred.status)
        == (direct.code, direct.status)
        == (
            400,
            "INVALID_ARGUMENT",
        )
    )
    assert deferred.details == direct.details


async def test_a_model_that_is_not_batched_is_called_directly(scene):
    proxy, provider = scene
    async with sdk(proxy.base_url, "unbatched") as models:
        answer = await models.generate_content(
            model="gemini-2.5-flash-interactive", contents="x", config=config("wait")
        )

    assert answer.text
    assert [e.lane for e in provider.ledger.entries(key="unbatched")] == ["interactive"]


async def test_a_wrong_key_pauses_its_lane_and_burns_no_job(scene):
    proxy, provider = scene
    async with sdk(proxy.base_url, "revoked") as models:
        provider.keys.revoke("revoked")
        jobs = [job_of(await asked(models, f"q{n}", "job")) for n in range(3)]
        await wait_until(lambda: proxy.events("credential.paused"))
        waiting = [await fetched(proxy, f"/v1/jobs/{one}", "revoked") for one in jobs]

    assert {status for status, _ in waiting} == {200}
    assert {job["status"] for _, job in waiting} <= {"queued", "in_progress"}
    assert list(provider.ledger.entries(key="revoked")) == []


async def test_a_row_that_refuses_a_whole_batch_is_told_apart_from_the_others(scene):
    proxy, provider = scene
    bad = {"contents": [{"parts": [{"text": "x"}]}], "fieldOfTomorrow": 1}
    url = f"{proxy.base_url}/v1beta/models/{MODEL}:generateContent"
    headers = {"X-Deferrable": "wait", "x-goog-api-key": "rows"}

    async def spoiled() -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.post(url, json=bad) as answer,
        ):
            return answer.status, await answer.json()

    async with sdk(proxy.base_url, "rows") as models:
        refused, *answers = await asyncio.gather(
            spoiled(), *(asked(models, f"row {n}", "wait") for n in range(5))
        )

    assert refused[0] == 400
    assert "fieldOfTomorrow" in refused[1]["error"]["message"]
    assert [one.text for one in answers] == [await right(provider, f"row {n}") for n in range(5)]
    assert sorted(e.lane for e in provider.ledger.entries(key="rows")) == ["batch"] * 5


async def test_a_killed_process_finds_the_batch_whose_create_was_not_answered(tmp_path):
    async with running(tmp_path) as (proxy, provider):
        provider.faults.add(HttpFault(action="stall", path=CREATE, method="POST"))
        async with sdk(proxy.base_url, "crash") as models:
            jobs = [job_of(await asked(models, f"question {n}", "job")) for n in range(JOBS)]
        # It exists, and runs.
        await wait_until(lambda: any(provider.ledger.entries(key="crash")))

        await proxy.kill()
        provider.faults.clear()
        await proxy.start()

        answers = await results(proxy, jobs, key="crash")
        assert [status for status, _ in answers] == [200] * JOBS
        expected = [await right(provider, f"question {n}") for n in range(JOBS)]
        assert [text_of(json.loads(raw)) for _, raw in answers] == expected
        assert len(list(provider.ledger.entries(key="crash"))) == JOBS
        assert await proxy.metric("offramp_possible_double_total") == 0
        assert await proxy.metric("offramp_batch_adopted_total") >= 1


async def test_a_settled_batch_is_deleted_with_all_its_files(scene):
    proxy, provider = scene
    async with sdk(proxy.base_url, "gone") as models:
        await asked(models, "gone", "wait")
    client = genai.Client(
        api_key="gone", http_options=types.HttpOptions(base_url=provider.base_url)
    )

    async def left() -> list[Any]:
        return [one async for one in await client.aio.batches.list()]

    async with asyncio.timeout(30):
        while await left():
            await asyncio.sleep(0.05)
    await client.aio.aclose()
    client.close()


async def test_the_key_is_in_no_log_in_whatever_form_it_came(scene):
    proxy, _ = scene
    url = f"{proxy.base_url}/v1beta/models/{MODEL}:generateContent?key=AIza-canary-query"
    body = {"contents": [{"parts": [{"text": "prompt-canary"}]}]}
    async with (
        aiohttp.ClientSession(headers={"X-Deferrable": "wait"}) as http,
        http.post(url, json=body) as answer,
    ):
        assert answer.status == 200
    async with sdk(proxy.base_url, "AIza-canary-header") as models:
        await asked(models, "prompt-canary", "wait")

    logs = "".join(proxy.raw_logs)
    assert "canary" not in logs
