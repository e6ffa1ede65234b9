"""The ledger beside the provider's own, to the cent, whatever becomes of a batch."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.sandbox import BatchFault, LineFault, SandboxSettings
from proxy.sandbox import Running as Provider
from tests.e2e.processes import (
    KEY,
    Bill,
    Proxy,
    bill,
    chat,
    ledger,
    proxy_and_provider,
    results,
)
from tests.helpers.raw_upstream import wait_until

JOBS = 12

Meanwhile = Callable[[Proxy, Provider, list[str]], Awaitable[None]]


async def _gives_up(proxy: Proxy, _: Provider, job_ids: list[str]) -> None:
    """One caller cancels a job that the batch has, another deletes one."""
    await wait_until(lambda: bool(proxy.events("batch.submitted")))
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
        for method, path in (("POST", f"{job_ids[0]}/cancel"), ("DELETE", job_ids[1])):
            async with session.request(method, f"{proxy.base_url}/v1/jobs/{path}") as answer:
                assert answer.status == 200, await answer.text()


async def _nothing(_proxy: Proxy, _provider: Provider, _job_ids: list[str]) -> None:
    """Nobody does anything."""


@dataclass(frozen=True)
class Scenario:
    """What happens to a batch, and what the ledger then says beside what it always says."""

    name: str
    settings: SandboxSettings
    faults: Sequence[BatchFault | LineFault] = ()
    meanwhile: Meanwhile = _nothing
    useless: int = 0
    """Answers that nobody can use any more."""

    possible_doubles: int = 0


SCENARIOS = [
    Scenario("given up", SandboxSettings(turnaround_s=2), meanwhile=_gives_up, useless=2),
    Scenario(
        "expired halfway",
        SandboxSettings(turnaround_s=0.5, window_s=2),
        [BatchFault(stop_after=JOBS // 2)],
    ),
    Scenario(
        "lines failed, and one came twice",
        SandboxSettings(turnaround_s=0.5),
        [LineFault(outcome="status", nth=2, count=2), LineFault(outcome="duplicate", nth=7)],
    ),
    Scenario(
        "answers were computed and lost",
        SandboxSettings(turnaround_s=0.5),
        [LineFault(outcome="missing"), LineFault(outcome="unparsable", nth=3)],
        possible_doubles=2,
    ),
]


async def test_the_ledger_is_the_providers_bill(tmp_path: Path) -> None:
    """All beside each other, since most of it is waiting."""
    found = await asyncio.gather(
        *[_bill_of(one, tmp_path / str(number)) for number, one in enumerate(SCENARIOS)]
    )

    for scenario, (both, total) in zip(SCENARIOS, found, strict=True):
        counts = (total["answers"], total["useless"]["answers"])
        assert counts == (JOBS - scenario.useless, scenario.useless), scenario.name
        assert total["possible_doubles"]["attempts"] == scenario.possible_doubles, scenario.name
        assert both.unpriced == 0, scenario.name
        if scenario.possible_doubles:
            assert both.known < both.provider <= both.known + both.possible, scenario.name
        else:
            assert (both.known, both.possible) == (both.provider, 0), scenario.name


async def _bill_of(scenario: Scenario, folder: Path) -> tuple[Bill, dict[str, Any]]:
    folder.mkdir()
    async with proxy_and_provider(folder, provider_settings=scenario.settings) as (proxy, provider):
        for fault in scenario.faults:
            provider.faults.add(fault)
        job_ids = await asyncio.gather(*[_defer(proxy, number) for number in range(JOBS)])
        await scenario.meanwhile(proxy, provider, job_ids)
        await results(proxy, job_ids[scenario.useless :])
        await wait_until(lambda: bool(proxy.events("batch.settled")))
        return await bill(proxy, provider), (await ledger(proxy))["total"]


async def test_every_result_says_what_it_saved_and_the_ledger_says_the_same(
    tmp_path: Path,
) -> None:
    async with proxy_and_provider(tmp_path) as (proxy, _):
        job_ids = [await _defer(proxy, number, tags="team=etl, run=7") for number in range(3)]
        await results(proxy, job_ids)

        saved = []
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
            for job_id in job_ids:
                url = f"{proxy.base_url}/v1/jobs/{job_id}"
                async with session.get(f"{url}/result") as answer:
                    header = float(answer.headers["X-Deferrable-Saved-USD"])
                async with session.get(url) as answer:
                    cost = (await answer.json())["cost"]
                assert cost["saved_usd"] == header == pytest.approx(cost["paid_usd"])
                saved.append(header)

        by_tag = await ledger(proxy, by="tag")
        by_rule = await ledger(proxy, by="rule,lane")
        assert [row["tag"] for row in by_tag["rows"]] == ["run=7", "team=etl"]
        assert [row["rule"] for row in by_rule["rows"]] == ["header:x-deferrable"]
        for row in (*by_tag["rows"], *by_rule["rows"], by_tag["total"]):
            assert row["saved_usd"] == pytest.approx(sum(saved))
            assert row["jobs"] == len(job_ids)


async def _defer(proxy: Proxy, number: int, **headers: str) -> str:
    named = {f"X-Deferrable-{name.title()}": value for name, value in headers.items()}
    status, job = await chat(proxy, f"question {number}", headers={"X-Deferrable": "job", **named})
    assert status == 202, job
    return str(job["id"])
