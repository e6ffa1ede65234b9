"""The life of a batch: its schedule, its ends and what is left of it."""

from typing import Any

import pytest

from proxy.sandbox import answer_text, body_hash
from tests.sandbox.rigs import chat_body, line, started


def right_answer(entry: dict[str, Any]) -> str:
    body = entry["body"]
    return answer_text(body_hash(body), body["messages"][-1]["content"])


async def test_a_batch_goes_through_its_statuses_on_schedule(slow):
    batch = await slow.submit([line(n) for n in range(10)])
    assert batch["status"] == "validating"
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}

    await slow.running.advance(60)
    shown = await slow.batch(batch["id"])
    assert (shown["status"], shown["request_counts"]["total"]) == ("in_progress", 10)

    await slow.running.advance(1_800)
    shown = await slow.batch(batch["id"])
    assert (shown["status"], shown["request_counts"]["completed"]) == ("in_progress", 5)

    await slow.running.advance(1_800)
    shown = await slow.batch(batch["id"])
    assert (shown["status"], shown["output_file_id"]) == ("finalizing", None)

    await slow.running.advance(60)
    shown = await slow.batch(batch["id"])
    assert shown["status"] == "completed"
    assert shown["error_file_id"] is None
    assert len(await slow.lines(shown["output_file_id"])) == 10


async def test_a_jump_of_days_leaves_the_times_of_the_schedule(slow):
    batch = await slow.submit([line()])

    await slow.running.advance(10 * 86_400)

    shown = await slow.batch(batch["id"])
    created = batch["created_at"]
    assert shown["status"] == "completed"
    assert shown["in_progress_at"] == created + 60
    assert shown["finalizing_at"] == created + 3_660
    assert shown["completed_at"] == created + 3_720
    assert shown["expires_at"] == created + 86_400


async def test_every_line_gets_its_one_right_answer_in_another_order(rig):
    sent = [line(n) for n in range(30)]

    batch = await rig.batch((await rig.submit(sent))["id"])

    results = await rig.lines(batch["output_file_id"])
    got = {
        result["custom_id"]: result["response"]["body"]["choices"][0]["message"]["content"]
        for result in results
    }
    assert got == {entry["custom_id"]: right_answer(entry) for entry in sent}
    assert [result["custom_id"] for result in results] != [entry["custom_id"] for entry in sent]
    assert all(result["error"] is None for result in results)
    assert all(result["response"]["status_code"] == 200 for result in results)


async def test_without_a_seed_results_keep_the_order_of_the_input():
    async with started(shuffle_seed=None) as rig:
        sent = [line(n) for n in range(30)]

        batch = await rig.batch((await rig.submit(sent))["id"])

        results = await rig.lines(batch["output_file_id"])
        assert [r["custom_id"] for r in results] == [entry["custom_id"] for entry in sent]


async def test_a_bad_line_fails_alone_with_its_error_in_the_response(rig):
    wrong = line(1, body=chat_body(temperature=9))

    batch = await rig.batch((await rig.submit([line(0), wrong]))["id"])

    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    (error,) = await rig.lines(batch["error_file_id"])
    assert error["custom_id"] == "req-1"
    assert error["error"] is None
    assert error["response"]["status_code"] == 400
    assert error["response"]["body"]["error"]["param"] == "temperature"
    assert rig.running.ledger.totals().executions == 1


async def test_a_batch_without_a_success_completes_without_an_output_file(rig):
    wrong = line(1, body={"model": "gpt-5.4-mini"})

    batch = await rig.batch((await rig.submit([wrong]))["id"])

    assert batch["status"] == "completed"
    assert batch["output_file_id"] is None
    assert batch["error_file_id"] is not None


async def test_a_cancel_keeps_and_bills_what_was_finished(slow):
    batch = await slow.submit([line(n) for n in range(10)])
    await slow.running.advance(60 + 1_800)

    status, cancelling = await slow.call("POST", f"/v1/batches/{batch['id']}/cancel")
    await slow.running.advance(599)
    before = await slow.batch(batch["id"])
    await slow.running.advance(1)
    after = await slow.batch(batch["id"])

    assert (status, cancelling["status"]) == (200, "cancelling")
    assert before["status"] == "cancelling"
    assert after["status"] == "cancelled"
    assert after["cancelled_at"] == after["cancelling_at"] + 600
    finished = await slow.lines(after["output_file_id"])
    given_up = await slow.lines(after["error_file_id"])
    assert (len(finished), len(given_up)) == (5, 5)
    assert {entry["error"]["code"] for entry in given_up} == {"batch_cancelled"}
    assert all(entry["response"] is None for entry in given_up)
    ids = {entry["custom_id"] for entry in finished + given_up}
    assert ids == {f"req-{n}" for n in range(10)}
    assert slow.running.ledger.totals().executions == 5


async def test_a_cancel_while_validating_executes_nothing(slow):
    batch = await slow.submit([line()])

    await slow.call("POST", f"/v1/batches/{batch['id']}/cancel")
    await slow.running.advance(7_200)

    shown = await slow.batch(batch["id"])
    assert shown["status"] == "cancelled"
    assert shown["output_file_id"] is None
    assert slow.running.ledger.totals().executions == 0


async def test_a_second_cancel_changes_nothing_and_a_late_one_is_refused(slow):
    batch = await slow.submit([line()])
    _, first = await slow.call("POST", f"/v1/batches/{batch['id']}/cancel")
    await slow.running.advance(10)
    status, second = await slow.call("POST", f"/v1/batches/{batch['id']}/cancel")
    await slow.running.advance(3_600)
    late, _ = await slow.call("POST", f"/v1/batches/{batch['id']}/cancel")

    assert (status, second["cancelling_at"]) == (200, first["cancelling_at"])
    assert late == 409


async def test_an_expired_batch_keeps_and_bills_what_was_finished():
    async with started(turnaround_s=2 * 86_400) as rig:
        batch = await rig.submit([line(n) for n in range(10)])

        await rig.running.advance(3 * 86_400)

        shown = await rig.batch(batch["id"])
        assert shown["status"] == "expired"
        assert shown["expired_at"] == shown["expires_at"]
        assert len(await rig.lines(shown["output_file_id"])) == 5
        given_up = await rig.lines(shown["error_file_id"])
        assert [entry["error"]["code"] for entry in given_up] == ["batch_expired"] * 5
        assert rig.running.ledger.totals(lane="batch").executions == 5


async def test_usage_adds_up_and_the_price_is_half(rig):
    batch = await rig.batch((await rig.submit([line(n) for n in range(7)]))["id"])

    results = await rig.lines(batch["output_file_id"])
    usages = [result["response"]["body"]["usage"] for result in results]
    assert batch["usage"]["input_tokens"] == sum(usage["prompt_tokens"] for usage in usages)
    assert batch["usage"]["output_tokens"] == sum(usage["completion_tokens"] for usage in usages)
    bill = rig.running.ledger.totals(lane="batch")
    assert bill.list_micro_usd == 2 * bill.paid_micro_usd > 0
    assert bill.input_tokens == batch["usage"]["input_tokens"]


async def test_batches_are_listed_newest_first_in_pages(rig):
    made = [(await rig.submit([line()]))["id"] for _ in range(5)]

    _, first = await rig.call("GET", "/v1/batches?limit=2")
    _, second = await rig.call("GET", f"/v1/batches?limit=10&after={first['last_id']}")

    assert [batch["id"] for batch in first["data"]] == [made[4], made[3]]
    assert first["has_more"] is True
    assert [batch["id"] for batch in second["data"]] == [made[2], made[1], made[0]]
    assert second["has_more"] is False


async def test_metadata_comes_back_as_it_was_given(rig):
    batch = await rig.submit([line()], metadata={"owner": "pb_1"})

    assert (await rig.batch(batch["id"]))["metadata"] == {"owner": "pb_1"}


async def test_output_files_expire_as_asked(rig):
    life = {"anchor": "created_at", "seconds": 3_600}
    batch = await rig.batch((await rig.submit([line()], output_expires_after=life))["id"])
    path = f"/v1/files/{batch['output_file_id']}"

    _, file = await rig.call("GET", path)
    await rig.running.advance(3_601)
    status, _ = await rig.call("GET", path)

    assert file["purpose"] == "batch_output"
    assert file["expires_at"] == file["created_at"] + 3_600
    assert status == 404


async def test_a_deleted_input_file_does_not_stop_its_batch(slow):
    batch = await slow.submit([line(n) for n in range(4)])
    await slow.running.settle()

    await slow.call("DELETE", f"/v1/files/{batch['input_file_id']}")
    await slow.running.advance(7_200)

    assert (await slow.batch(batch["id"]))["request_counts"]["completed"] == 4


async def test_a_new_batch_becomes_visible_only_after_the_lag():
    async with started(batch_list_lag_s=30, batch_get_lag_s=10) as rig:
        batch = await rig.submit([line()])
        path = f"/v1/batches/{batch['id']}"

        assert (await rig.call("GET", path))[0] == 404
        await rig.running.advance(10)
        assert (await rig.call("GET", path))[0] == 200
        assert (await rig.call("GET", "/v1/batches"))[1]["data"] == []
        await rig.running.advance(20)
        assert len((await rig.call("GET", "/v1/batches"))[1]["data"]) == 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/nothing"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, None),
        ({"input_file_id": 7}, "input_file_id"),
    ],
)
async def test_a_create_with_a_bad_field_is_refused_at_once(rig, change, param):
    body = {
        "input_file_id": "file-any",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }

    status, answer = await rig.call("POST", "/v1/batches", {**body, **change})

    assert status == 400
    assert param is None or answer["error"]["param"] == param


async def test_an_embeddings_batch_runs_too(rig):
    body = {"model": "text-embedding-3-small", "input": ["a", "b"]}
    entry = line(url="/v1/embeddings", body=body)

    batch = await rig.batch((await rig.submit([entry], endpoint="/v1/embeddings"))["id"])

    (result,) = await rig.lines(batch["output_file_id"])
    assert len(result["response"]["body"]["data"]) == 2
