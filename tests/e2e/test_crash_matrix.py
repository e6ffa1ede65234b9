"""SIGKILL at every step between a 202 and the settled batch.

After each restart every accepted job has its one right answer, and what the
provider bills is what we know of: nothing twice, but for a direct call that was
on its way, which is booked as a possible double.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.sandbox import HttpFault, SandboxSettings, answer_text, body_hash
from proxy.sandbox import Running as Provider
from tests.e2e.processes import Proxy, chat, proxy_and_provider, results
from tests.helpers.raw_upstream import wait_until

JOBS = 12


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


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
async def test_a_killed_process_loses_no_job_and_buys_none_twice(
    step: Step, tmp_path: Path
) -> None:
    settings = SandboxSettings(turnaround_s=0.5, latency_s=0)
    async with proxy_and_provider(tmp_path, provider_settings=settings) as (proxy, provider):
        if step.fault is not None:
            provider.faults.add(step.fault)
        job_ids = [await _defer(proxy, number) for number in range(JOBS)]
        await wait_until(lambda: step.reached(proxy, provider))

        await proxy.kill()
        provider.faults.clear()
        await proxy.start()

        answers = await results(proxy, job_ids)
        assert [_text(status, body) for status, body in answers] == _right_answers()
        # A create without an answer is swept for twins for 25 h: it settles later.
        await wait_until(lambda: proxy.events("batch.settled") or proxy.events("batch.ingested"))
        assert _purchases(provider) == [1] * JOBS
        assert await proxy.metric("offramp_possible_double_total") == 0


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
        assert provider.ledger.bought(body_hash(_body(0))) == 2
        assert await proxy.metric("offramp_possible_double_total") == 1


async def _defer(proxy: Proxy, number: int) -> str:
    status, job = await chat(proxy, _prompt(number), headers={"X-Deferrable": "job"})
    assert status == 202, job
    return str(job["id"])


def _prompt(number: int) -> str:
    return f"question {number}"


def _body(number: int) -> dict[str, object]:
    return {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": _prompt(number)}],
    }


def _right_answers() -> list[str]:
    return [answer_text(body_hash(_body(number)), _prompt(number)) for number in range(JOBS)]


def _text(status: int, body: bytes) -> str:
    assert status == 200, body
    text = json.loads(body)["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def _purchases(provider: Provider) -> list[int]:
    return [provider.ledger.bought(body_hash(_body(number))) for number in range(JOBS)]
