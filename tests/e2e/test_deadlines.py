"""What a provider does to batches: deadlines are kept, paid answers kept, and the rest bought once.

One proxy for all; each test has a key of its own, and faults that befall that key.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from proxy.sandbox import BatchFault, HttpFault, LineFault, SandboxSettings, body_hash, key_id
from proxy.sandbox import Running as Provider
from proxy.sandbox.settings import DEFAULT_MODELS, ModelSpec
from tests.e2e.processes import (
    Proxy,
    body_of,
    chat,
    proxy_and_provider,
    results,
    right_answer,
)
from tests.helpers.raw_upstream import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

JOBS = 12
TOKENS_MAX = 8


@dataclass(frozen=True)
class Scene:
    proxy: Proxy
    provider: Provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    limited = ModelSpec("gpt-limited", enqueued_tokens_max=TOKENS_MAX)
    settings = SandboxSettings(turnaround_s=0.4, models=(*DEFAULT_MODELS, limited))
    lanes = {
        "turnaround": "500ms",
        "cancel_time": "1s",
        "call_time": "1s",
        "margin": "500ms",
        "calls_per_s": 50,
    }
    async with proxy_and_provider(
        tmp_path_factory.mktemp("deadlines"),
        provider_settings=settings,
        changes={"lanes": lanes},
    ) as (proxy, provider):
        yield Scene(proxy, provider)


@dataclass(frozen=True)
class Run:
    """One test's jobs, under a key of its own."""

    scene: Scene
    name: str
    deadline: str = "20h"
    model: str = "gpt-4o-mini"

    @property
    def key(self) -> str:
        return f"sk-canary-{self.name.replace(' ', '-')}"

    @property
    def key_id(self) -> str:
        return key_id(self.key)

    def prompt(self, number: int) -> str:
        return f"{self.name} {number}"

    async def defer(self, count: int = JOBS) -> list[str]:
        made = await asyncio.gather(*[self._defer(number) for number in range(count)])
        assert {status for status, _ in made} == {202}
        return [str(job["id"]) for _, job in made]

    async def _defer(self, number: int) -> tuple[int, dict[str, object]]:
        headers = {"X-Deferrable": "job", "X-Deferrable-Deadline": self.deadline}
        return await chat(
            self.scene.proxy, self.prompt(number), headers=headers, key=self.key, model=self.model
        )

    async def finish(self, job_ids: list[str]) -> list[int]:
        """Wait for all results, check that each is right, and return how often each was bought."""
        answers = await results(self.scene.proxy, job_ids, key=self.key)
        for number, (status, body) in enumerate(answers):
            assert status == 200, body
            text = json.loads(body)["choices"][0]["message"]["content"]
            assert text == right_answer(self.prompt(number), model=self.model)
        return [self.bought(number) for number in range(len(job_ids))]

    def bought(self, number: int) -> int:
        body = body_of(self.prompt(number), model=self.model)
        return self.scene.provider.ledger.bought(body_hash(body))

    def executed(self, lane: str) -> int:
        return self.scene.provider.ledger.totals(lane=lane, key=self.key).executions


async def test_a_stuck_batch_is_harvested_and_its_rest_bought_in_time(scene: Scene) -> None:
    run = Run(scene, "stuck", deadline="8s")
    scene.provider.faults.add(BatchFault(stop_after=5, key_id=run.key_id))

    begun = time.monotonic()
    times_bought = await run.finish(await run.defer())

    assert time.monotonic() - begun < 8
    assert times_bought == [1] * JOBS
    # What it had finished is kept. The rest is called, or batched again if there is time.
    assert run.executed("batch") >= 5
    assert run.executed("batch") + run.executed("interactive") == JOBS


async def test_a_deadline_too_near_for_any_batch_is_met_by_direct_calls(scene: Scene) -> None:
    run = Run(scene, "near", deadline="2s")

    assert await run.finish(await run.defer(4)) == [1] * 4
    assert (run.executed("batch"), run.executed("interactive")) == (0, 4)


async def test_an_expired_batchs_finished_answers_are_kept_and_only_the_rest_is_bought(
    scene: Scene,
) -> None:
    run = Run(scene, "expired")
    fault = scene.provider.faults.add(BatchFault(stop_after=4, expire=False, key_id=run.key_id))
    job_ids = await run.defer()
    await wait_until(lambda: run.executed("batch") == 4)
    scene.provider.faults.add(BatchFault(expire=True, batch_id=_batch_of(run)))
    times_bought = await run.finish(job_ids)
    scene.provider.faults.remove(fault)

    assert times_bought == [1] * JOBS


def _batch_of(run: Run) -> str:
    entry = next(run.scene.provider.ledger.entries(lane="batch", key=run.key))
    assert entry.batch_id is not None
    return entry.batch_id


async def test_a_model_that_cannot_be_batched_is_called_and_then_known(scene: Scene) -> None:
    run = Run(scene, "unbatchable", model="gpt-5.4-interactive")

    assert await run.finish(await run.defer(3)) == [1] * 3
    assert run.executed("interactive") == 3


async def test_one_bad_line_fails_the_batch_and_spoils_no_other_job(scene: Scene) -> None:
    run = Run(scene, "bad line")
    scene.provider.faults.add(
        BatchFault(fail_code="invalid_request", fail_line=3, key_id=run.key_id)
    )

    assert await run.finish(await run.defer()) == [1] * JOBS
    assert run.executed("interactive") == 1


async def test_a_full_token_queue_is_waited_for_and_buys_nothing_twice(scene: Scene) -> None:
    run = Run(scene, "tokens", model="gpt-limited", deadline="7s")

    assert await run.finish(await run.defer(6)) == [1] * 6
    await wait_until(lambda: scene.proxy.events("batch.throttled"))


async def test_a_create_that_answers_500_is_looked_for_and_not_repeated_blindly(
    scene: Scene,
) -> None:
    run = Run(scene, "create")
    scene.provider.faults.add(
        HttpFault(action="status", status=500, path="/v1/batches", method="POST", key_id=run.key_id)
    )

    assert await run.finish(await run.defer()) == [1] * JOBS
    assert run.executed("batch") == JOBS


@pytest.mark.parametrize("action", ["reset_after", "truncate"])
async def test_a_create_whose_answer_was_lost_is_adopted(scene: Scene, action: str) -> None:
    run = Run(scene, f"adopted {action}")
    scene.provider.faults.add(
        HttpFault(action=action, path="/v1/batches", method="POST", key_id=run.key_id)  # type: ignore[arg-type]
    )

    assert await run.finish(await run.defer()) == [1] * JOBS
    assert len({e.batch_id for e in scene.provider.ledger.entries(key=run.key)}) == 1


async def test_a_flapping_provider_delays_and_buys_nothing_twice(scene: Scene) -> None:
    run = Run(scene, "flapping")
    for path, method in (("/v1/batches/*", "GET"), ("/v1/files/*/content", "GET")):
        for nth, action in ((1, "status"), (3, "reset_before")):
            scene.provider.faults.add(
                HttpFault(
                    action=action,  # type: ignore[arg-type]
                    status=503,
                    path=path,
                    method=method,
                    nth=nth,
                    key_id=run.key_id,
                )
            )

    assert await run.finish(await run.defer()) == [1] * JOBS


async def test_lines_that_fail_for_now_are_run_again_and_those_that_succeeded_are_not(
    scene: Scene,
) -> None:
    run = Run(scene, "lines")
    scene.provider.faults.add(
        LineFault(outcome="status", status=500, every=3, count=4, key_id=run.key_id)
    )

    assert await run.finish(await run.defer()) == [1] * JOBS


async def test_a_line_that_fails_for_good_is_told_as_the_provider_told_it(scene: Scene) -> None:
    run = Run(scene, "for good")
    scene.provider.faults.add(
        LineFault(
            outcome="status",
            status=400,
            code="content_policy",
            message="No.",
            key_id=run.key_id,
        )
    )
    job_ids = await run.defer()
    answers = await results(scene.proxy, job_ids, key=run.key)

    refused = [json.loads(body) for status, body in answers if status == 400]
    assert [one["error"]["code"] for one in refused] == ["content_policy"]
    assert sum(run.bought(number) for number in range(JOBS)) == JOBS - 1


@pytest.mark.parametrize("outcome", ["missing", "unparsable", "duplicate", "foreign"])
async def test_a_spoiled_result_line_costs_one_answer_at_most_and_is_counted(
    scene: Scene, outcome: str
) -> None:
    run = Run(scene, f"spoiled {outcome}")
    scene.provider.faults.add(LineFault(outcome=outcome, key_id=run.key_id))  # type: ignore[arg-type]

    times_bought = await run.finish(await run.defer())

    assert sum(times_bought) == JOBS + (outcome in {"missing", "unparsable"})
