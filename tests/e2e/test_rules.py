"""Rules through the real process: callers notice the bill and the latency, and nothing else."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from openai.types.chat import ChatCompletion

from proxy.sandbox import Running as Provider
from proxy.sandbox import SandboxSettings
from tests.e2e.processes import (
    KEY,
    Proxy,
    body_of,
    bought,
    chat,
    proxy_and_provider,
    right_answer,
    run,
)
from tests.e2e.relay import Cut, Relay
from tests.helpers.raw_upstream import wait_until

NIGHTLY: dict[str, Any] = {
    "name": "nightly",
    "when": {"headers": {"x-job": "nightly"}},
    "then": {"defer": {"deadline": "6h"}},
}
JOB = {"X-Job": "nightly"}
ROUNDS = 50
CALLERS = 6


def write(folder: Path, *rules: dict[str, Any]) -> None:
    """Put a rule file in place of the one that is there, as editors do."""
    new = folder / "policies.new"
    new.write_text(json.dumps({"rules": list(rules)}))
    new.replace(folder / "policies.yaml")


@asynccontextmanager
async def ruled(
    folder: Path,
    *rules: dict[str, Any],
    provider_settings: SandboxSettings | None = None,
    **changes: Any,
) -> AsyncIterator[tuple[Proxy, Provider]]:
    write(folder, *rules)
    changes = {"policies": "policies.yaml", **changes}
    async with proxy_and_provider(
        folder, provider_settings=provider_settings, changes=changes
    ) as both:
        yield both


async def reload(proxy: Proxy) -> None:
    """Tell the instance to read its rules, and wait until it has."""
    before = _reloads(proxy)
    assert proxy.process is not None
    proxy.process.send_signal(signal.SIGHUP)
    await wait_until(lambda: _reloads(proxy) > before)


def _reloads(proxy: Proxy) -> int:
    return sum(len(proxy.events(f"policies.{how}")) for how in ("loaded", "kept", "unchanged"))


async def ask(proxy: Proxy, prompt: str, **options: Any) -> ChatCompletion:
    """Make an untagged call by the stock SDK that the rule means."""
    async with proxy.sdk(**{"default_headers": JOB, **options}) as sdk:
        completion = await sdk.chat.completions.create(**body_of(prompt))
    assert isinstance(completion, ChatCompletion)
    return completion


async def test_an_untagged_call_gets_its_typed_answer_from_a_batch(tmp_path: Path) -> None:
    async with ruled(tmp_path, NIGHTLY) as (proxy, provider):
        completion = await ask(proxy, "divert me")
        direct, _ = await chat(proxy, "leave me")

        assert completion.choices[0].message.content == right_answer("divert me")
        assert direct == 200
        lanes = provider.ledger.by_lane()
        assert (lanes["batch"].executions, lanes["interactive"].executions) == (1, 1)
        matched = 'decision="defer",mode="live",rule="nightly"'
        assert await proxy.metric("offramp_rule_matched_total", matched) == 1
        line = await proxy.event("call.deferred")
        assert (line["decided_by"], line["answer"], line["policies"]) == ("rule:nightly", "wait", 1)


async def test_the_same_rule_in_shadow_forwards_and_is_counted(tmp_path: Path) -> None:
    async with ruled(tmp_path, {**NIGHTLY, "mode": "shadow"}) as (proxy, provider):
        completion = await ask(proxy, "only watch me")

        assert completion.choices[0].message.content == right_answer("only watch me")
        lanes = provider.ledger.by_lane()
        assert (lanes["batch"].executions, lanes["interactive"].executions) == (0, 1)
        matched = 'decision="defer",mode="shadow",rule="nightly"'
        assert await proxy.metric("offramp_rule_matched_total", matched) == 1
        line = await proxy.event("call.forwarded")
        assert (line["decided_by"], line["shadow"]) == ("default", "defer by rule:nightly")


async def test_a_diverted_call_is_answered_within_the_deadline_of_its_rule(tmp_path: Path) -> None:
    """The batch would take a day, so the call is made directly when time is short."""
    rule = {**NIGHTLY, "then": {"defer": {"deadline": "10s"}}}
    slow = SandboxSettings(turnaround_s=86_400)
    async with ruled(tmp_path, rule, provider_settings=slow) as (proxy, _):
        completion = await ask(proxy, "soon")

        assert completion.choices[0].message.content == right_answer("soon")
        assert await proxy.metric("offramp_deadline_missed_total") == 0


async def test_a_retry_after_a_timeout_and_a_reload_buys_nothing_again(tmp_path: Path) -> None:
    """Goal: what rules say by the time of a retry changes nothing for the call it repeats.

    Method: the provider's time stands still until the rule is gone. Its caller is lost
    only then, so that the repeat comes under the new rules.
    """
    still = SandboxSettings(turnaround_s=60, time_scale=0)
    async with ruled(tmp_path, NIGHTLY, provider_settings=still) as (proxy, provider):

        async def under_new_rules() -> None:
            await wait_until(lambda: proxy.events("job.accepted"))
            write(tmp_path, {"name": "no", "then": {"reject": {"message": "no"}}})
            await reload(proxy)

        async def batched() -> None:
            # Time that moves while the batch is being created would not count for it.
            await wait_until(lambda: proxy.events("batch.submitted"))
            await provider.advance(120)

        relay = Relay(lambda: proxy.base_url, _first_lost, ready=under_new_rules)
        async with relay.serve(), asyncio.TaskGroup() as tasks:
            tasks.create_task(batched())
            completion = await ask(
                proxy,
                "once",
                base_url=relay.base_url,
                default_headers={**JOB, "Connection": "close"},
                max_retries=1,
            )

        assert completion.choices[0].message.content == right_answer("once")
        assert bought(provider, "once") == 1
        assert relay.calls == 2
        assert {line["created"] for line in proxy.events("job.accepted")} == {True}
        assert len(proxy.events("job.accepted")) == 1
        status, refused = await chat(proxy, "another")
        assert (status, refused["error"]["code"]) == (403, "refused_by_policy")


def _first_lost(number: int, _head: bytes) -> Cut:
    return Cut.WHILE_HELD if number == 0 else Cut.NOT


async def test_a_reload_under_load_drops_no_call_and_mixes_no_two_sets_of_rules(
    tmp_path: Path,
) -> None:
    """Goal: whatever is written, and however often, every call is decided by one whole set.

    Method: each good file has one rule, named after the generation that it is to
    become. So each line of the log shows by itself whether it is consistent.
    """
    async with ruled(tmp_path, _generation(1)) as (proxy, _):
        done = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            callers = [tasks.create_task(_hammer(proxy, done)) for _ in range(CALLERS)]
            good = 1
            for number in range(ROUNDS):
                if number % 2:
                    good += 1
                    write(tmp_path, _generation(good))
                else:
                    (tmp_path / "policies.yaml").write_text("rules:\n  - {name: half, th")
                await reload(proxy)
            done.set()

        statuses = [status for caller in callers for status in caller.result()]
        await wait_until(lambda: len(proxy.events("call.forwarded")) >= len(statuses))
        assert len(statuses) > ROUNDS
        assert set(statuses) == {200}
        lines = proxy.events("call.forwarded")
        assert {line["decided_by"] == f"rule:g{line['policies']}" for line in lines} == {True}
        assert len({line["policies"] for line in lines}) > ROUNDS // 4
        assert good == ROUNDS // 2 + 1
        assert await proxy.metric("offramp_policies_generation") == good
        assert await proxy.metric("offramp_policies_kept_total") == ROUNDS // 2
        assert await proxy.metric("offramp_policies_refused") == 0
        assert (await _readiness(proxy))["policies"] == good


def _generation(number: int) -> dict[str, Any]:
    return {"name": f"g{number}", "then": "interactive"}


async def _hammer(proxy: Proxy, done: asyncio.Event) -> list[int]:
    statuses = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
        while not done.is_set():
            async with session.post(
                f"{proxy.base_url}/v1/chat/completions", json=body_of("load")
            ) as answer:
                statuses.append(answer.status)
                assert (await answer.json())["object"] == "chat.completion"
    return statuses


async def _readiness(proxy: Proxy) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{proxy.admin_url}/readyz") as answer,
    ):
        content = await answer.json()
    assert isinstance(content, dict)
    return content


async def test_a_changed_file_needs_no_signal(tmp_path: Path) -> None:
    """As Kubernetes changes a ConfigMap: by a link to another folder."""
    for name, mode in (("..1", "shadow"), ("..2", "live")):
        (tmp_path / name).mkdir()
        write(tmp_path / name, {**NIGHTLY, "mode": mode})
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "mounted.yaml").symlink_to("..data/policies.yaml")
    async with ruled(tmp_path, policies="mounted.yaml") as (proxy, provider):
        (tmp_path / "..new").symlink_to("..2")
        (tmp_path / "..new").replace(tmp_path / "..data")
        await wait_until(lambda: len(proxy.events("policies.loaded")) == 2)

        await ask(proxy, "by the new rule")

        assert provider.ledger.by_lane()["batch"].executions == 1


async def test_recorded_facts_hold_no_secret_and_can_be_explained(tmp_path: Path) -> None:
    recording = {"path": "facts.jsonl", "headers": ["x-job"]}
    async with ruled(tmp_path, recording=recording) as (proxy, _):
        await ask(proxy, "canary prompt")
        await chat(proxy, "canary prompt", headers={"X-Deferrable": "job"})
        await proxy.terminate()

    text = (tmp_path / "facts.jsonl").read_text()
    assert "canary" not in text
    direct, deferred = [json.loads(line) for line in text.splitlines()]
    assert (direct["status"], direct["decided_by"]) == (200, "default")
    assert (deferred["status"], deferred["decided_by"]) == (202, "header:x-deferrable")
    (tmp_path / "call.json").write_text(json.dumps(direct))
    write(tmp_path, NIGHTLY)
    explained = await run(
        tmp_path, "policy", "explain", "--json", "--policies", str(tmp_path / "policies.yaml"),
        str(tmp_path / "call.json"),
    )  # fmt: skip
    assert explained.code == 0, explained.stderr
    assert json.loads(explained.stdout)["rule"] == "nightly"
