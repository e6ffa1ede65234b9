"""What breaks on command, and how far the work had come when it broke."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from proxy.sandbox import BatchFault, HttpFault, LineFault, body_hash, key_id
from tests.sandbox.rigs import KEY, Rig, chat_body, line

CHAT = "/v1/chat/completions"


async def post(rig: Rig, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
    """Call with plain HTTP; return status and raw body."""
    headers = {"Authorization": f"Bearer {KEY}"}
    url = rig.running.base_url + CHAT
    async with rig.http.post(url, json=body or chat_body(), headers=headers) as response:
        return response.status, await response.read()


async def test_a_refusal_executes_nothing_and_strikes_as_often_as_told(rig):
    rig.running.faults.add(
        HttpFault(
            action="status",
            path=CHAT,
            status=503,
            code="busy",
            headers={"Retry-After": "7"},
            count=2,
        )
    )

    answers = [await rig.call("POST", CHAT, chat_body()) for _ in range(3)]

    assert [status for status, _ in answers] == [503, 503, 200]
    assert answers[0][1]["error"]["code"] == "busy"
    assert rig.running.ledger.totals().executions == 1


async def test_a_refusal_can_have_any_body_and_headers(rig):
    rig.running.faults.add(
        HttpFault(action="status", status=529, body="<html>", headers={"X-Odd": "yes"})
    )
    headers = {"Authorization": f"Bearer {KEY}"}

    async with rig.http.get(f"{rig.running.base_url}/v1/models", headers=headers) as response:
        assert (response.status, await response.text()) == (529, "<html>")
        assert response.headers["X-Odd"] == "yes"


async def test_a_fault_hits_the_nth_match_only(rig):
    rig.running.faults.add(HttpFault(action="status", path=CHAT, nth=3))

    statuses = [(await post(rig))[0] for _ in range(4)]

    assert statuses == [200, 200, 500, 200]


@pytest.mark.parametrize(
    "narrowed",
    [
        {"method": "GET"},
        {"path": "/v1/embeddings"},
        {"key_id": key_id("sk-other")},
        {"model": "gpt-5.4"},
    ],
)
async def test_a_fault_leaves_other_calls_alone(rig, narrowed):
    rig.running.faults.add(HttpFault(action="status", count=None, **narrowed))

    assert (await post(rig))[0] == 200


@pytest.mark.parametrize(
    "narrowed", [{"method": "POST"}, {"path": "/v1/*"}, {"key_id": key_id(KEY)}, {"model": "gpt-*"}]
)
async def test_a_fault_finds_the_calls_it_names(rig, narrowed):
    rig.running.faults.add(HttpFault(action="status", count=None, **narrowed))

    assert (await post(rig))[0] == 500


async def test_a_reset_before_processing_bills_nothing(rig):
    rig.running.faults.add(HttpFault(action="reset_before", path=CHAT))

    with pytest.raises(aiohttp.ClientError):
        await post(rig)

    assert rig.running.ledger.bought(body_hash(chat_body())) == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reset_after_processing_is_billed(rig, stream):
    rig.running.faults.add(HttpFault(action="reset_after", path=CHAT))

    with pytest.raises(aiohttp.ClientError):
        await post(rig, chat_body(stream=stream))

    assert rig.running.ledger.bought(body_hash(chat_body())) == 1


async def test_a_create_that_was_reset_after_processing_can_be_found_in_the_list(rig):
    rig.running.faults.add(HttpFault(action="reset_after", method="POST", path="/v1/batches"))

    with pytest.raises(aiohttp.ClientError):
        await rig.submit([line()], metadata={"tag": "mine"})

    _, listing = await rig.call("GET", "/v1/batches")
    assert [batch["metadata"] for batch in listing["data"]] == [{"tag": "mine"}]


async def test_an_upload_that_was_reset_after_processing_is_stored(rig):
    rig.running.faults.add(HttpFault(action="reset_after", method="POST", path="/v1/files"))

    with pytest.raises(Exception, match="Connection error"):
        await rig.upload([line()])

    _, listing = await rig.call("GET", "/v1/files")
    assert [file["filename"] for file in listing["data"]] == ["input.jsonl"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_truncated_body_breaks_off(rig, stream):
    rig.running.faults.add(HttpFault(action="truncate", path=CHAT, after_bytes=10))

    with pytest.raises(aiohttp.ClientPayloadError):
        await post(rig, chat_body(stream=stream))

    assert rig.running.ledger.totals().executions == 1


async def test_a_stalled_body_never_ends(rig):
    rig.running.faults.add(HttpFault(action="stall", path=CHAT, after_bytes=10))
    headers = {"Authorization": f"Bearer {KEY}"}
    url = rig.running.base_url + CHAT

    async with rig.http.post(url, json=chat_body(), headers=headers) as response:
        start = await response.content.readexactly(10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await response.content.readexactly(1)

    assert len(start) == 10


async def test_a_delay_lasts_as_long_as_the_clock_says(rig):
    rig.running.faults.add(HttpFault(action="delay", path=CHAT, delay_s=30))

    async with asyncio.TaskGroup() as group:
        pending = group.create_task(post(rig))
        while not rig.running.ledger.requests[f"POST {CHAT}"]:
            await asyncio.sleep(0)
        assert rig.running.ledger.totals().executions == 0
        rig.running.clock.advance(30)

    assert pending.result()[0] == 200


@pytest.mark.parametrize("status", [500, 429, 400, 401])
async def test_a_refused_line_is_in_the_error_file_and_not_billed(rig, status):
    rig.running.faults.add(
        LineFault(outcome="status", custom_id="req-1", status=status, code="told", message="so")
    )

    batch = await rig.batch((await rig.submit([line(n) for n in range(3)]))["id"])

    (error,) = await rig.lines(batch["error_file_id"])
    assert (error["custom_id"], error["response"]["status_code"]) == ("req-1", status)
    assert error["response"]["body"]["error"]["code"] == "told"
    assert error["error"] is None
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert not list(rig.running.ledger.entries(custom_id="req-1"))


async def test_a_missing_line_is_billed_and_in_no_file(rig):
    rig.running.faults.add(LineFault(outcome="missing", custom_id="req-1"))

    batch = await rig.batch((await rig.submit([line(n) for n in range(3)]))["id"])

    found = [entry["custom_id"] for entry in await rig.lines(batch["output_file_id"])]
    assert sorted(found) == ["req-0", "req-2"]
    assert batch["error_file_id"] is None
    assert len(list(rig.running.ledger.entries(custom_id="req-1"))) == 1


async def test_an_unparsable_line_harms_no_other(rig):
    rig.running.faults.add(LineFault(outcome="unparsable", custom_id="req-1"))

    batch = await rig.batch((await rig.submit([line(n) for n in range(3)]))["id"])

    parsed, broken = [], 0
    for raw in await rig.raw_lines(batch["output_file_id"]):
        try:
            parsed.append(json.loads(raw)["custom_id"])
        except ValueError:
            broken += 1
    assert (sorted(parsed), broken) == (["req-0", "req-2"], 1)


async def test_a_duplicate_and_a_foreign_line_come_on_top(rig):
    rig.running.faults.add(LineFault(outcome="duplicate", custom_id="req-1"))
    rig.running.faults.add(LineFault(outcome="foreign", custom_id="req-2"))

    batch = await rig.batch((await rig.submit([line(n) for n in range(3)]))["id"])

    found = [entry["custom_id"] for entry in await rig.lines(batch["output_file_id"])]
    assert len(found) == 5
    assert found.count("req-1") == 2
    assert len(set(found) - {f"req-{n}" for n in range(3)}) == 1


async def test_every_kth_line_can_be_hit(rig):
    rig.running.faults.add(LineFault(outcome="status", every=3, count=None))

    batch = await rig.batch((await rig.submit([line(n) for n in range(9)]))["id"])

    assert batch["request_counts"]["failed"] == 3


@pytest.mark.parametrize("stage", ["validating", "in_progress", "finalizing"])
async def test_a_stuck_batch_outlives_its_window_and_expires_when_released(slow, stage):
    fault = slow.running.faults.add(BatchFault(stick_in=stage))
    batch = await slow.submit([line(n) for n in range(4)])

    await slow.running.advance(3 * 86_400)
    stuck = await slow.batch(batch["id"])
    slow.running.faults.remove(fault)
    released = await slow.batch(batch["id"])

    assert stuck["status"] == stage
    assert released["status"] == "expired"
    assert released["expired_at"] == released["created_at"] + 3 * 86_400
    finished = 0 if stage == "validating" else 4
    assert len(await slow.lines(released["output_file_id"])) == finished
    assert slow.running.ledger.totals().executions == finished


@pytest.mark.parametrize("stage", ["validating", "in_progress", "finalizing"])
async def test_a_batch_released_within_its_window_completes_from_there(slow, stage):
    fault = slow.running.faults.add(BatchFault(stick_in=stage))
    batch = await slow.submit([line(n) for n in range(4)])

    await slow.running.advance(7_200)
    slow.running.faults.remove(fault)
    await slow.running.advance(7_200)

    shown = await slow.batch(batch["id"])
    assert shown["status"] == "completed"
    assert shown["completed_at"] >= shown["created_at"] + 7_200
    assert shown["request_counts"]["completed"] == 4


async def test_a_stuck_batch_can_be_cancelled(slow):
    slow.running.faults.add(BatchFault(stick_in="in_progress"))
    batch = await slow.submit([line(n) for n in range(4)])
    await slow.running.advance(7_200)

    await slow.call("POST", f"/v1/batches/{batch['id']}/cancel")
    await slow.running.advance(600)

    shown = await slow.batch(batch["id"])
    assert shown["status"] == "cancelled"
    assert len(await slow.lines(shown["output_file_id"])) == 4


async def test_a_cancel_can_be_stuck_too(slow):
    fault = slow.running.faults.add(BatchFault(stick_in="cancelling"))
    batch = await slow.submit([line()])
    await slow.call("POST", f"/v1/batches/{batch['id']}/cancel")

    await slow.running.advance(86_400)
    stuck = await slow.batch(batch["id"])
    slow.running.faults.remove(fault)
    released = await slow.batch(batch["id"])

    assert (stuck["status"], released["status"]) == ("cancelling", "cancelled")


async def test_a_vanished_batch_is_gone_from_retrieval_and_list(rig):
    batch = await rig.submit([line()])
    fault = rig.running.faults.add(BatchFault(batch_id=batch["id"], vanish="not_found"))

    status, _ = await rig.call("GET", f"/v1/batches/{batch['id']}")
    _, listing = await rig.call("GET", "/v1/batches")
    rig.running.faults.remove(fault)
    again, _ = await rig.call("GET", f"/v1/batches/{batch['id']}")

    assert (status, listing["data"], again) == (404, [], 200)


async def test_a_vanished_batch_may_answer_200_with_an_error(rig):
    batch = await rig.submit([line()])
    rig.running.faults.add(BatchFault(batch_id=batch["id"], vanish="error_body"))

    status, answer = await rig.call("GET", f"/v1/batches/{batch['id']}")

    assert (status, list(answer)) == (200, ["error"])


async def test_an_unknown_status_can_be_shown(rig):
    rig.running.faults.add(BatchFault(shown_status="reticulating"))

    batch = await rig.submit([line()])

    assert (await rig.batch(batch["id"]))["status"] == "reticulating"


@pytest.mark.parametrize(
    ("file_ids", "output_is_shown"), [("empty_absent", True), ("empty_all", False)]
)
async def test_a_completed_batch_can_have_empty_file_ids(rig, file_ids, output_is_shown):
    rig.running.faults.add(BatchFault(file_ids=file_ids))

    batch = await rig.batch((await rig.submit([line()]))["id"])

    assert batch["status"] == "completed"
    assert batch["error_file_id"] == ""
    assert bool(batch["output_file_id"]) is output_is_shown


async def test_a_batch_can_expire_at_once_with_what_is_finished(slow):
    batch = await slow.submit([line(n) for n in range(10)])
    await slow.running.advance(60 + 1_800)

    slow.running.faults.add(BatchFault(batch_id=batch["id"], expire=True))

    shown = await slow.batch(batch["id"])
    assert shown["status"] == "expired"
    assert len(await slow.lines(shown["output_file_id"])) == 5
    assert slow.running.ledger.totals().executions == 5


async def test_a_batch_can_stop_after_some_lines(slow):
    slow.running.faults.add(BatchFault(stop_after=3))
    batch = await slow.submit([line(n) for n in range(10)])

    await slow.running.advance(80_000)
    before = await slow.batch(batch["id"])
    await slow.running.advance(10_000)
    after = await slow.batch(batch["id"])

    assert (before["status"], before["request_counts"]["completed"]) == ("in_progress", 3)
    assert after["status"] == "expired"
    assert len(await slow.lines(after["output_file_id"])) == 3


async def test_a_batch_can_fail_with_any_code(rig):
    rig.running.faults.add(BatchFault(fail_code="billing_hard_limit_reached"))

    batch = await rig.batch((await rig.submit([line()]))["id"])

    assert batch["status"] == "failed"
    assert batch["errors"]["data"][0]["code"] == "billing_hard_limit_reached"
    assert rig.running.ledger.totals().executions == 0


async def test_a_batch_fault_hits_as_many_batches_as_told(rig):
    rig.running.faults.add(BatchFault(fail_code="told", nth=2, model="gpt-*"))

    made = [await rig.submit([line()]) for _ in range(3)]

    shown = [(await rig.batch(batch["id"]))["status"] for batch in made]
    assert shown == ["completed", "failed", "completed"]
