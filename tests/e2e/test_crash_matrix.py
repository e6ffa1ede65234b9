"""SIGKILL at every step between a 202 and the settled batch.

After each restart every accepted job has its one right answer, and what the
provider bills is what we know of: nothing twice, but for a direct call that was
on its way, which is booked as a possible double.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from proxy.sandbox import HttpFault, SandboxSettings
from proxy.sandbox import Running as Provider
from tests.e2e.processes import (
    Bill,
    Proxy,
    bill,
    bought,
    chat,
    proxy_and_provider,
    results,
    right_answer,
)
from tests.helpers.raw_upstream import wait_until

JOBS = 12
AT_ONCE = 4


@dataclass(frozen=True)
class Step:
    """Where the process dies: a fault that holds it there, and how to see that it is there."""

    name: str
    fault: HttpFault | None
    reached: Callable[[Proxy, Provider], bool]


def _asked(request: str) -> Callable[[Proxy, Provider], bool]:
    return lambda _, provider: provider.ledger.requests[request] > 0


def _logged(event: str) -> Callable[[Proxy, Provider], bool]:
    return lambda proxy, _: bool(proxy.events(event))


def _hit(_: Proxy, provider: Provider) -> bool:
    return any(armed.hits for armed in provider.faults.armed())


STEPS = [
    Step("after intake", None, lambda _proxy, _provider: True),
    Step("once the batch is sealed", None, _logged("batch.sealed")),
    Step(
        "during the upload",
        HttpFault(action="reset_before", path="/v1/files", method="POST", delay_s=30),
        _hit,
    ),
    Step(
        "after the file exists, its answer lost",
        HttpFault(action="stall", path="/v1/files", method="POST"),
        _hit,
    ),
    Step(
        "before the batch exists",
        HttpFault(action="reset_before", path="/v1/batches", method="POST", delay_s=30),
        _hit,
    ),
    Step(
        "after the batch exists, its answer lost",
        HttpFault(action="stall", path="/v1/batches", method="POST"),
        _hit,
    ),
    Step("while polling", None, _asked("GET /v1/batches/{id}")),
    Step(
        "in the middle of ingesting",
        HttpFault(action="stall", path="/v1/files/*/content", method="GET", after_bytes=3_000),
        _hit,
    ),
    Step(
        "in the middle of settling",
        HttpFault(action="reset_before", path="/v1/files/*", method="DELETE", delay_s=30),
        _hit,
    ),
    Step("once it is settled", None, _logged("batch.settled")),
]


@dataclass(frozen=True)
class Seen:
    """What came out of one kill."""

    answers: list[str]
    purchases: list[int]
    possible_doubles: float
    bill: Bill


Outcomes = dict[str, Seen | Exception]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Kill a process of its own at each step, several beside each other: most of it is waiting."""
    seats = asyncio.Semaphore(AT_ONCE)

    async def one(step: Step) -> Seen:
        async with seats:
            return await _kill_at(step, tmp_path_factory.mktemp("crash"))

    seen = await asyncio.gather(*[one(step) for step in STEPS], return_exceptions=True)
    found: Outcomes = {}
    for step, outcome in zip(STEPS, seen, strict=True):
        assert isinstance(outcome, Seen | Exception)
        found[step.name] = outcome
    return found


# Whichever is first waits for the outcomes of all: twenty starts of a process.
@pytest.mark.timeout(300)
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("step", [step.name for step in STEPS])
async def test_a_killed_process_loses_no_job_and_buys_none_twice(
    step: str, outcomes: Outcomes
) -> None:
    seen = outcomes[step]
    if isinstance(seen, Exception):
        raise seen

    assert seen.answers == _right_answers()
    assert seen.purchases == [1] * JOBS
    assert seen.possible_doubles == 0
    assert (seen.bill.known, seen.bill.possible) == (seen.bill.provider, 0)
    assert seen.bill.unpriced == 0
    assert seen.bill.list == 2 * seen.bill.provider > 0


async def _kill_at(step: Step, folder: Path) -> Seen:
    settings = SandboxSettings(turnaround_s=0.5, latency_s=0)
    async with proxy_and_provider(folder, provider_settings=settings) as (proxy, provider):
        if step.fault is not None:
            provider.faults.add(step.fault)
        job_ids = [await _defer(proxy, number) for number in range(JOBS)]
        await wait_until(lambda: step.reached(proxy, provider))

        await proxy.kill()
        provider.faults.clear()
        await proxy.start()

        answers = await results(proxy, job_ids)
        # A create without an answer is swept for twins for 25 h: it settles later.
        await wait_until(lambda: proxy.events("batch.settled") or proxy.events("batch.ingested"))
        return Seen(
            [_text(status, body) for status, body in answers],
            _purchases(provider),
            await proxy.metric("offramp_possible_double_total"),
            await bill(proxy, provider),
        )


async def test_a_direct_call_cut_off_by_a_kill_is_booked_as_a_possible_double(
    tmp_path: Path,
) -> None:
    async with proxy_and_provider(tmp_path) as (proxy, provider):
        provider.faults.add(
            HttpFault(action="stall", path="/v1/chat/completions", method="POST", after_bytes=0)
        )
        status, job = await chat(
            proxy, _prompt(0), headers={"X-Deferrable": "job", "X-Deferrable-Deadline": "10m"}
        )
        assert status == 202
        await wait_until(lambda: _hit(proxy, provider))

        await proxy.kill()
        provider.faults.clear()
        await proxy.start()

        [(status, body)] = await results(proxy, [job["id"]])
        assert _text(status, body) == _right_answers()[0]
        assert bought(provider, _prompt(0)) == 2
        assert await proxy.metric("offramp_possible_double_total") == 1
        both = await bill(proxy, provider)
        assert both.known + both.possible == both.provider == 2 * both.known
        assert both.unpriced == 0


async def _defer(proxy: Proxy, number: int) -> str:
    status, job = await chat(proxy, _prompt(number), headers={"X-Deferrable": "job"})
    assert status == 202, job
    return str(job["id"])


def _prompt(number: int) -> str:
    return f"question {number}"


def _right_answers() -> list[str]:
    return [right_answer(_prompt(number)) for number in range(JOBS)]


def _text(status: int, body: bytes) -> str:
    assert status == 200, body
    text = json.loads(body)["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def _purchases(provider: Provider) -> list[int]:
    return [bought(provider, _prompt(number)) for number in range(JOBS)]
