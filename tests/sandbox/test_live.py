"""Interactive calls: answers, lanes, refusals and callers who leave."""

import asyncio
from collections.abc import Callable

import pytest

from proxy.sandbox import ModelSpec, answer_text, body_hash
from tests.sandbox.rigs import KEY, chat_body, started

CHAT = "/v1/chat/completions"


async def until(predicate: Callable[[], object]) -> None:
    """Yield to the loop until the predicate holds; only a hang makes it fail."""
    async with asyncio.timeout(20):
        while not predicate():
            await asyncio.sleep(0.001)


async def test_the_answer_is_a_function_of_the_question_alone(rig):
    _, first = await rig.call("POST", CHAT, chat_body("why?"))
    _, second = await rig.call("POST", CHAT, chat_body("why?"), key="sk-other")
    _, other = await rig.call("POST", CHAT, chat_body("why?", seed=1))

    right = answer_text(body_hash(chat_body("why?")), "why?")
    assert first["choices"] == second["choices"]
    assert first["choices"][0]["message"]["content"] == right
    assert first["usage"] == second["usage"]
    assert first["id"] != second["id"]
    assert other["choices"] != first["choices"]


async def test_flex_costs_half_and_gives_the_same_answer(rig):
    _, full = await rig.call("POST", CHAT, chat_body())
    _, flex = await rig.call("POST", CHAT, chat_body(service_tier="flex"))

    bills = rig.running.ledger.by_lane()
    assert (full["service_tier"], flex["service_tier"]) == ("default", "flex")
    assert full["choices"] == flex["choices"]
    assert bills["interactive"].paid_micro_usd == 2 * bills["flex"].paid_micro_usd > 0
    assert bills["flex"].list_micro_usd == bills["interactive"].list_micro_usd
    assert rig.running.ledger.bought(body_hash(chat_body())) == 2


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, chat_body()), ("/v1/responses", {"model": "gpt-5.4", "input": "a"})]
)
async def test_flex_can_be_refused_and_costs_nothing_then(rig, path, body):
    rig.running.flex.refusals = 2

    answers = [await rig.call("POST", path, {**body, "service_tier": "flex"}) for _ in range(3)]
    ordinary, _ = await rig.call("POST", path, body)

    assert [status for status, _ in answers] == [429, 429, 200]
    assert answers[0][1]["error"]["code"] == "resource_unavailable"
    assert ordinary == 200
    assert rig.running.ledger.totals(lane="flex").executions == 1


@pytest.mark.parametrize("model", ["gpt-5.4-interactive", "gpt-4o-mini", "gpt-4.1"])
async def test_flex_is_not_sold_for_every_model(rig, model):
    asked = chat_body(model=model, service_tier="flex")

    assert (await rig.call("POST", CHAT, asked))[0] == 400


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"messages": []}, 400, None, None),
        (chat_body(model="nonsense"), 404, "model_not_found", "model"),
        (chat_body(model="text-embedding-3-small"), 404, None, "model"),
        ({"model": "gpt-5.4"}, 400, "missing_required_parameter", "messages"),
        (chat_body(messages=[]), 400, "empty_array", "messages"),
        (chat_body(messages=[{"content": "a"}]), 400, "missing_required_parameter", None),
        (chat_body(temperature=2.5), 400, "decimal_above_max_value", "temperature"),
        (chat_body(n=0), 400, "integer_below_min_value", "n"),
        (chat_body(n="two"), 400, "invalid_type", "n"),
        ([1], 400, None, None),
    ],
)
async def test_a_bad_chat_body_is_refused_and_not_billed(rig, body, status, code, param):
    got, answer = await rig.call("POST", CHAT, body)

    assert got == status
    assert code is None or answer["error"]["code"] == code
    assert param is None or answer["error"]["param"] == param
    assert rig.running.ledger.totals().executions == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat_body("x" * 100, model="small")),
        ("/v1/responses", {"model": "small", "input": "x" * 100}),
    ],
)
async def test_a_question_beyond_the_models_context_is_refused(path, body):
    async with started(models=(ModelSpec("small", context_tokens=20),)) as rig:
        status, answer = await rig.call("POST", path, body)

        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")


async def test_latency_is_the_sandboxs_time():
    async with started(latency_s=3_600) as rig, asyncio.TaskGroup() as group:
        call = group.create_task(rig.call("POST", CHAT, chat_body()))
        await until(lambda: rig.running.ledger.requests[f"POST {CHAT}"])
        assert rig.running.ledger.totals().executions == 0
        rig.running.clock.advance(3_600)
        assert (await call)[0] == 200


async def test_a_caller_who_leaves_while_it_computes_is_not_billed():
    async with started(latency_s=3_600) as rig:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await rig.call("POST", CHAT, chat_body())

        await until(lambda: rig.running.ledger.abandoned == 1)
        assert rig.running.ledger.totals().executions == 0


async def test_a_caller_who_leaves_a_stream_pays_for_what_was_sent():
    async with started(stream_pause_s=3_600) as rig:
        url, headers = f"{rig.running.base_url}{CHAT}", {"Authorization": f"Bearer {KEY}"}
        body = chat_body(stream=True)
        async with rig.http.post(url, json=body, headers=headers) as response:
            await response.content.readuntil(b"\n\n")

        await until(lambda: rig.running.ledger.totals().executions == 1)
        assert rig.running.ledger.abandoned == 1
        bill = rig.running.ledger.totals()
    async with started() as rig:
        await rig.call("POST", CHAT, chat_body())
        assert 0 <= bill.output_tokens < rig.running.ledger.totals().output_tokens


async def test_a_background_response_runs_through_its_statuses_and_is_billed_at_its_end():
    async with started(background_s=100) as rig:
        asked = {"model": "gpt-5.4", "input": "hello", "background": True}
        _, created = await rig.call("POST", "/v1/responses", asked)
        path = f"/v1/responses/{created['id']}"

        seen = []
        for pause in (0, 25, 74, 1):
            await rig.running.advance(pause)
            _, shown = await rig.call("GET", path)
            seen.append((shown["status"], rig.running.ledger.totals().executions))

        assert seen == [("queued", 0), ("in_progress", 0), ("in_progress", 0), ("completed", 1)]
        _, direct = await rig.call("POST", "/v1/responses", {"model": "gpt-5.4", "input": "hello"})
        assert shown["output"] == direct["output"]


async def test_a_cancelled_background_response_is_never_billed():
    async with started(background_s=100) as rig:
        asked = {"model": "gpt-5.4", "input": "hello", "background": True}
        _, created = await rig.call("POST", "/v1/responses", asked)
        path = f"/v1/responses/{created['id']}"

        _, cancelled = await rig.call("POST", f"{path}/cancel")
        await rig.running.advance(200)
        _, shown = await rig.call("GET", path)

        assert cancelled["status"] == shown["status"] == "cancelled"
        assert rig.running.ledger.totals().executions == 0


async def test_a_stored_response_can_be_retrieved_and_deleted_by_its_project_only(rig):
    _, made = await rig.call("POST", "/v1/responses", {"model": "gpt-5.4", "input": "hello"})
    path = f"/v1/responses/{made['id']}"

    assert (await rig.call("GET", path, key="sk-other"))[0] == 404
    assert (await rig.call("GET", path)) == (200, made)
    assert (await rig.call("POST", f"{path}/cancel"))[0] == 400
    assert (await rig.call("DELETE", path))[1]["deleted"] is True
    assert (await rig.call("GET", path))[0] == 404


async def test_a_response_that_was_not_to_be_stored_is_not(rig):
    asked = {"model": "gpt-5.4", "input": "hello", "store": False}

    _, made = await rig.call("POST", "/v1/responses", asked)

    assert (await rig.call("GET", f"/v1/responses/{made['id']}"))[0] == 404


async def test_every_answer_names_its_request(rig):
    headers = {"Authorization": f"Bearer {KEY}"}
    async with rig.http.get(f"{rig.running.base_url}/v1/models", headers=headers) as response:
        assert response.headers["x-request-id"].startswith("req_")
