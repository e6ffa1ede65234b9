"""The stock Anthropic SDK through the real process, in every mode, and through a crash."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import Message

from proxy.sandbox import HttpFault, Sandbox, SandboxSettings, answer_text, body_hash
from proxy.sandbox import Running as Provider
from tests.e2e.processes import Proxy, results, right_answer, settings_for
from tests.helpers.raw_upstream import wait_until

KEY = "sk-ant-canary-e2e"
JOBS = 12
BATCHES = "/v1/messages/batches"
TOOL = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@asynccontextmanager
async def running(
    folder: Path, settings: SandboxSettings | None = None
) -> AsyncIterator[tuple[Proxy, Provider]]:
    """A sandbox that speaks both dialects, and a proxy with both as upstreams."""
    async with Sandbox(settings or SandboxSettings(turnaround_s=0.5)).serve() as provider:
        anthropics = {"dialect": "anthropic", "base_url": provider.base_url}
        changes = {"upstreams": {"anthropic": anthropics}}
        proxy = Proxy(folder, settings_for(folder, {"openai": provider.base_url}, changes))
        await proxy.start()
        try:
            yield proxy, provider
        finally:
            await proxy.kill()


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with running(tmp_path) as (made, _):
        yield made


def options(proxy: Proxy, **more: Any) -> dict[str, Any]:
    return {"base_url": proxy.base_url, "api_key": KEY, "max_retries": 0, **more}


def asked(prompt: str, mode: str | None = None, **fields: Any) -> Any:
    """Arguments of a call; its types are of no interest."""
    headers = {} if mode is None else {"extra_headers": {"X-Deferrable": mode}}
    return {**body(prompt), **fields, **headers}


def body(prompt: str) -> dict[str, Any]:
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 500,
        "messages": [{"role": "user", "content": prompt}],
    }


def right(prompt: str) -> str:
    return answer_text(body_hash(body(prompt)), prompt)


def text_of(message: Message) -> str:
    (block,) = message.content
    assert block.type == "text"
    return block.text


def contents(message: Message) -> Any:
    """The blocks as JSON; helpers add members of their own."""
    return [block.to_dict(exclude_none=True) for block in message.content]


def error_of(exc: anthropic.APIStatusError) -> Any:
    """The `error` of the envelope that the SDK was answered."""
    return exc.response.json()["error"]


async def test_an_interactive_call_goes_straight_through(proxy):
    async with AsyncAnthropic(**options(proxy)) as client:
        message = await client.messages.create(**asked("now"))
        async with client.messages.stream(**asked("now")) as stream:
            streamed = await stream.get_final_message()
        counted = await client.messages.count_tokens(
            model="claude-haiku-4-5", messages=[{"role": "user", "content": "now"}]
        )

    assert text_of(message) == text_of(streamed) == right("now")
    assert message.usage.service_tier == "standard"
    assert message._request_id
    assert counted.input_tokens == message.usage.input_tokens


async def test_one_address_serves_both_sdks(proxy):
    async with AsyncAnthropic(**options(proxy)) as claude, proxy.sdk() as openai:
        message = await claude.messages.create(**asked("both", "wait"))
        chat = await openai.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "both"}],
            extra_headers={"X-Deferrable": "wait"},
        )

    assert text_of(message) == right("both")
    assert chat.choices[0].message.content == right_answer("both")


async def test_a_job_is_fetched_by_its_id_as_the_sdks_own_type(proxy):
    async with AsyncAnthropic(**options(proxy)) as client:
        hollow = await client.messages.create(**asked("later", "job"))
        message = await client.get(f"/anthropic/jobs/{hollow.id}", cast_to=Message)

    assert hollow.id.startswith("job_")
    assert text_of(message) == right("later")
    assert message.usage.service_tier == "batch"


async def test_a_held_call_brings_the_answer_of_the_batch(proxy):
    def call() -> Message:
        with Anthropic(**options(proxy)) as client:
            made: Message = client.messages.create(**asked("held", "wait"))
            return made

    message = await asyncio.to_thread(call)

    assert text_of(message) == right("held")
    assert message.usage.service_tier == "batch"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tools": [TOOL], "tool_choice": {"type": "any"}},
        {"thinking": {"type": "enabled", "budget_tokens": 1_024}, "max_tokens": 2_000},
    ],
    ids=["text", "tool", "thinking"],
)
async def test_a_held_stream_beats_with_pings_and_ends_with_the_message(tmp_path, more):
    settings = SandboxSettings(turnaround_s=2.0)
    async with (
        running(tmp_path, settings) as (proxy, _),
        # The SDK tells its read timeout: a third of it is left without a byte, no more.
        AsyncAnthropic(**options(proxy, timeout=3.0)) as client,
    ):
        whole = await client.messages.create(**asked("streamed", **more))
        async with client.messages.stream(**asked("streamed", "wait", **more)) as stream:
            kinds = [event.type async for event in stream]
            message = await stream.get_final_message()

    assert contents(message) == contents(whole)
    assert message.stop_reason == whole.stop_reason
    assert message.usage.output_tokens == whole.usage.output_tokens
    assert message.usage.service_tier == "batch"
    assert {"message_start", "content_block_stop", "message_stop"} <= set(kinds)


async def test_a_held_stream_sends_pings_before_its_first_event(tmp_path):
    headers = {
        "X-Api-Key": KEY,
        "Anthropic-Version": "2023-06-01",
        "X-Deferrable": "wait",
        "X-Stainless-Read-Timeout": "3",
    }
    async with (
        running(tmp_path, SandboxSettings(turnaround_s=2.0)) as (proxy, _),
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{proxy.base_url}/v1/messages", json=body("x") | {"stream": True}) as answer,
    ):
        raw = await answer.read()

    kinds = [line[7:] for line in raw.splitlines() if line.startswith(b"event: ")]
    assert kinds[0] == b"ping"
    assert next(kind for kind in kinds if kind != b"ping") == b"message_start"
    assert kinds[-1] == b"message_stop"


async def test_raise_names_the_job_and_is_sent_once(tmp_path):
    async with (
        running(tmp_path) as (proxy, provider),
        AsyncAnthropic(**options(proxy, max_retries=2)) as client,
    ):
        with pytest.raises(anthropic.BadRequestError) as raised:
            await client.messages.create(**asked("loud", "raise"))
        job_id = raised.value.response.headers["x-deferrable-job"]
        message = await client.get(f"/anthropic/jobs/{job_id}", cast_to=Message)

        assert provider.ledger.bought(body_hash(body("loud"))) == 1
    assert job_id in str(raised.value)
    assert error_of(raised.value)["code"] == "deferred_accepted"
    assert text_of(message) == right("loud")


async def test_the_beta_methods_are_batched_too(tmp_path):
    async with running(tmp_path) as (proxy, provider):
        async with AsyncAnthropic(**options(proxy)) as client:
            message = await client.beta.messages.create(
                **asked("beta", "wait"), betas=["output-300k-2026-03-24"]
            )

        assert provider.ledger.totals(lane="batch").executions == 1
    assert message.usage.service_tier == "batch"


async def test_calls_with_other_betas_go_in_other_batches(tmp_path):
    async with running(tmp_path) as (proxy, provider):
        async with AsyncAnthropic(**options(proxy)) as client:
            calls = [
                client.beta.messages.create(**asked(f"beta {n}", "wait"), betas=[f"beta-{n}"])
                for n in range(2)
            ]
            await asyncio.gather(*calls)

        batches = {entry.batch_id for entry in provider.ledger.entries(lane="batch")}
    assert len(batches) == 2


async def test_a_line_that_is_refused_is_answered_as_the_api_would(proxy):
    async with AsyncAnthropic(**options(proxy, max_retries=2)) as client:
        with pytest.raises(anthropic.NotFoundError) as direct:
            await client.messages.create(**asked("x", model="claude-nowhere"))
        with pytest.raises(anthropic.NotFoundError) as deferred:
            await client.messages.create(**asked("x", "wait", model="claude-nowhere"))

    assert error_of(deferred.value) == error_of(direct.value)
    assert deferred.value.request_id


async def test_what_no_batch_takes_is_called_directly(proxy):
    async with AsyncAnthropic(**options(proxy)) as client:
        message = await client.messages.create(**asked("fast", "wait", speed="fast"))

    assert message.usage.service_tier == "standard"


def _asked(provider: Provider) -> bool:
    return any(armed.hits for armed in provider.faults.armed())


CRASHES: dict[str, tuple[HttpFault | None, Callable[[Proxy, Provider], object]]] = {
    "before the batch exists": (
        HttpFault(action="reset_before", path=BATCHES, method="POST", delay_s=30),
        lambda _, provider: _asked(provider),
    ),
    "after the batch exists, its answer lost": (
        HttpFault(action="stall", path=BATCHES, method="POST"),
        lambda _, provider: _asked(provider),
    ),
    "while polling": (
        None,
        lambda _, provider: provider.ledger.requests[f"GET {BATCHES}/{{id}}"],
    ),
    "in the middle of ingesting": (
        HttpFault(action="stall", path=f"{BATCHES}/*/results", method="GET", after_bytes=3_000),
        lambda _, provider: _asked(provider),
    ),
    "once it is settled": (None, lambda proxy, _: proxy.events("batch.settled")),
}


@pytest.mark.parametrize("step", CRASHES)
async def test_a_killed_process_loses_no_job_and_buys_none_twice(step, tmp_path):
    fault, reached = CRASHES[step]
    async with running(tmp_path) as (proxy, provider):
        if fault is not None:
            provider.faults.add(fault)
        prompts = [f"question {n}" for n in range(JOBS)]
        async with AsyncAnthropic(**options(proxy)) as client:
            jobs = [await client.messages.create(**asked(prompt, "job")) for prompt in prompts]
        await wait_until(lambda: reached(proxy, provider))

        await proxy.kill()
        provider.faults.clear()
        await proxy.start()

        answers = await results(proxy, [job.id for job in jobs], key=KEY)
        assert [status for status, _ in answers] == [200] * JOBS
        texts = [json.loads(raw)["content"][0]["text"] for _, raw in answers]
        assert texts == [right(prompt) for prompt in prompts]
        purchases = [provider.ledger.bought(body_hash(body(prompt))) for prompt in prompts]
        assert purchases == [1] * JOBS
        assert await proxy.metric("offramp_possible_double_total") == 0


async def test_a_batch_whose_create_was_not_answered_is_adopted_confirmed_and_kept(tmp_path):
    async with running(tmp_path) as (proxy, provider):
        provider.faults.add(HttpFault(action="reset_after", path=BATCHES, method="POST"))
        async with AsyncAnthropic(**options(proxy)) as client:
            messages = await asyncio.gather(
                *(client.messages.create(**asked(f"q{n}", "wait")) for n in range(JOBS))
            )

        assert [text_of(message) for message in messages] == [right(f"q{n}") for n in range(JOBS)]
        assert provider.ledger.requests[f"POST {BATCHES}"] == 1
        counted = "offramp_create_unnamed_total"
        assert await proxy.metric(counted, 'outcome="adopted"') == 1
        assert await proxy.metric(counted, 'outcome="confirmed"') == 1


async def test_a_settled_batch_is_deleted_at_the_provider(tmp_path):
    async with running(tmp_path) as (proxy, provider):
        async with AsyncAnthropic(**options(proxy)) as client:
            await client.messages.create(**asked("gone", "wait"))
        await wait_until(lambda: proxy.events("batch.settled"))
        async with AsyncAnthropic(base_url=provider.base_url, api_key=KEY) as direct:
            listed = [batch.id async for batch in direct.messages.batches.list()]

    assert listed == []


async def test_the_key_is_in_no_log(proxy):
    async with AsyncAnthropic(**options(proxy)) as client:
        await client.messages.create(**asked("prompt-canary", "wait"))

    assert KEY not in "".join(proxy.raw_logs)
    assert "prompt-canary" not in "".join(proxy.raw_logs)
