"""Gemini's batches and files: both inputs, every end, limits, and what the SDK reads of them."""

import json
from typing import Any

import pytest
from google import genai
from google.genai import types

from proxy.sandbox import BatchFault, LineFault
from tests.sandbox.gemini_rigs import (
    KEY,
    MODEL,
    MODELS,
    created,
    element,
    jsonl,
    raw,
    row,
    uploaded,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:Inheritance class AiohttpClientSession:DeprecationWarning"
)


async def shown(rig: Any, name: str, query: str = "") -> Any:
    status, _, answer = await raw(rig, "GET", f"/v1beta/{name}{query}")
    assert status == 200, answer
    return answer


def state(operation: Any) -> str:
    return str(operation["metadata"]["state"])


async def lines(rig: Any, operation: Any) -> list[Any]:
    name = operation["metadata"]["output"]["responsesFile"]
    url = f"{rig.running.base_url}/download/v1beta/{name}:download?alt=media"
    async with rig.http.get(url, headers={"x-goog-api-key": KEY}) as response:
        assert response.status == 200
        return [json.loads(line) for line in (await response.read()).splitlines()]


async def file_batch(rig: Any, rows: list[Any]) -> tuple[int, Any]:
    name = await uploaded(rig, jsonl(rows))
    body = {"batch": {"displayName": "b", "inputConfig": {"fileName": name}}}
    status, _, answer = await raw(rig, "POST", f"{MODELS}/{MODEL}:batchGenerateContent", body)
    return status, answer


async def test_an_inline_batch_lives_and_shows_its_results_in_order(slow):
    _, made = await created(slow, [element(n) for n in range(4)])
    begun = await shown(slow, made["name"])
    await slow.running.advance(60 + 1_800)
    half = await shown(slow, made["name"])
    await slow.running.advance(1_800)
    ended = await shown(slow, made["name"])

    assert (state(begun), "done" in begun) == ("BATCH_STATE_PENDING", False)
    assert begun["metadata"]["batchStats"] == {"requestCount": "4", "pendingRequestCount": "4"}
    assert state(half) == "BATCH_STATE_RUNNING"
    assert half["metadata"]["batchStats"]["successfulRequestCount"] == "2"
    assert (state(ended), ended["done"]) == ("BATCH_STATE_SUCCEEDED", True)
    inlined = ended["metadata"]["output"]["inlinedResponses"]["inlinedResponses"]
    assert [one["metadata"]["key"] for one in inlined] == [f"row-{n}" for n in range(4)]
    assert ended["response"]["inlinedResponses"]["inlinedResponses"] == inlined
    bill = slow.running.ledger.totals(lane="batch")
    assert (bill.executions, bill.paid_micro_usd * 2) == (4, bill.list_micro_usd)


async def test_a_file_batch_leaves_a_file_and_keeps_the_order_of_its_input(rig):
    _, made = await file_batch(rig, [row(n) for n in range(5)])
    await rig.running.settle()

    results = await lines(rig, await shown(rig, made["name"]))

    assert [one["key"] for one in results] == [f"row-{n}" for n in range(5)]
    assert all(one["response"]["candidates"] for one in results)


@pytest.mark.parametrize("end", ["cancelled", "expired"])
async def test_a_batch_that_did_not_succeed_leaves_nothing_of_what_it_had_finished(slow, end):
    _, made = await created(slow, [element(n) for n in range(4)])
    await slow.running.advance(60 + 1_800)
    if end == "cancelled":
        status, _, answer = await raw(slow, "POST", f"/v1beta/{made['name']}:cancel", {})
        assert (status, answer) == (200, {})
        await slow.running.advance(600)
    else:
        slow.running.faults.add(BatchFault(batch_id=made["name"], stop_after=2))
        await slow.running.advance(48 * 3_600)

    ended = await shown(slow, made["name"])

    assert state(ended) == f"BATCH_STATE_{end.upper()}"
    assert "output" not in ended["metadata"]
    assert ended["error"]["code"] == (13 if end == "cancelled" else 4)
    assert slow.running.ledger.totals(lane="batch").executions == 2


async def test_a_request_that_is_refused_is_an_error_of_its_row(rig):
    rows = [row(0), row(1, request={"contents": []}), row(2)]
    _, made = await file_batch(rig, rows)
    await rig.running.settle()

    ended = await shown(rig, made["name"])
    results = await lines(rig, ended)

    assert ended["metadata"]["batchStats"]["failedRequestCount"] == "1"
    assert ["response" in one for one in results] == [True, False, True]
    assert results[1]["error"]["code"] == 3


@pytest.mark.parametrize(
    "spoilt",
    [
        {"request": {"fieldOfTomorrow": 1}},
        {"request": "x"},
        {"request": {"contents": "x"}},
        {"fieldOfTomorrow": 1},
    ],
)
async def test_a_row_that_is_no_request_refuses_the_whole_and_buys_nothing(rig, spoilt):
    inline = await created(rig, [element(0), element(1, **spoilt)])
    in_file = await file_batch(rig, [row(0), row(1, **spoilt)])

    assert (inline[0], in_file[0]) == (400, 400)
    assert "requests[1]" in inline[1]["error"]["message"]
    assert "1" not in in_file[1]["error"]["message"]
    assert await shown(rig, "batches") == {}
    assert rig.running.ledger.totals().executions == 0


async def test_a_file_that_is_no_jsonl_refuses_the_whole(rig):
    name = await uploaded(rig, b'{"key":"a"\n')
    body = {"batch": {"displayName": "b", "inputConfig": {"fileName": name}}}

    status, _, answer = await raw(rig, "POST", f"{MODELS}/{MODEL}:batchGenerateContent", body)

    assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")


async def test_the_same_create_twice_makes_two_batches_and_the_list_has_pages(rig):
    names = [(await created(rig, [element()]))[1]["name"] for _ in range(3)]

    first = await shown(rig, "batches", "?pageSize=2")
    second = await shown(rig, "batches", f"?pageSize=2&pageToken={first['nextPageToken']}")

    told = [one["name"] for one in (*first["operations"], *second["operations"])]
    assert told == names[::-1]
    assert "nextPageToken" not in second


async def test_a_mask_selects_what_is_shown(rig):
    _, made = await created(rig, [element()])
    await rig.running.settle()

    bare = await shown(rig, made["name"], "?fields=name,metadata(state,batchStats/requestCount)")
    bad = await raw(rig, "GET", f"/v1beta/{made['name']}?fields=a(b")

    assert bare == {
        "name": made["name"],
        "metadata": {"state": "BATCH_STATE_SUCCEEDED", "batchStats": {"requestCount": "1"}},
    }
    assert bad[0] == 400


async def test_a_deleted_batch_takes_its_results_along(rig):
    _, made = await file_batch(rig, [row()])
    await rig.running.settle()
    file = (await shown(rig, made["name"]))["metadata"]["output"]["responsesFile"]

    status, _, _ = await raw(rig, "DELETE", f"/v1beta/{made['name']}")

    assert status == 200
    assert (await raw(rig, "GET", f"/v1beta/{made['name']}"))[0] == 404
    gone = await raw(rig, "GET", f"/v1beta/{file}")
    assert (gone[0], gone[2]["error"]["status"]) == (403, "PERMISSION_DENIED")


async def test_files_live_for_two_days_and_batches_outlive_them(slow):
    name = await uploaded(slow, jsonl([row()]))
    file = await shown(slow, name)
    await slow.running.advance(48 * 3_600)

    assert (file["state"], file["sizeBytes"]) == ("ACTIVE", str(len(jsonl([row()]))))
    assert (await raw(slow, "GET", f"/v1beta/{name}"))[0] == 403


@pytest.mark.parametrize("limit", ["tokens", "batches"])
async def test_a_limit_is_a_429_that_names_no_time(limited, limit):
    if limit == "tokens":
        answers = [await created(limited, [element(n) for n in range(20)])]
    else:
        answers = [await created(limited, [element()]) for _ in range(3)]

    status, answer = answers[-1]
    assert (status, answer["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert "details" not in answer["error"]


@pytest.fixture
async def limited():
    from tests.sandbox.rigs import started

    async with started(turnaround_s=3_600, enqueued_tokens_max=50, gemini_batches_max=2) as running:
        yield running


async def test_what_no_batch_runs_is_not_found_and_no_key_reaches_anothers(rig):
    body = {"batch": {"displayName": "b", "inputConfig": {"requests": {"requests": [element()]}}}}
    path = f"{MODELS}/{MODEL}-interactive:batchGenerateContent"
    unbatched = await raw(rig, "POST", path, body)
    _, made = await created(rig, [element()])
    foreign = await raw(rig, "GET", f"/v1beta/{made['name']}", **{"x-goog-api-key": "other"})

    assert (unbatched[0], "not supported for" in unbatched[2]["error"]["message"]) == (404, True)
    assert foreign[0] == 404


@pytest.mark.parametrize("outcome", ["status", "missing", "duplicate", "foreign", "unparsable"])
async def test_inline_results_break_on_command(rig, outcome):
    rig.running.faults.add(LineFault(outcome=outcome, custom_id="row-1"))
    _, made = await created(rig, [element(n) for n in range(3)])
    await rig.running.settle()

    output = (await shown(rig, made["name"]))["metadata"]["output"]
    inlined = output["inlinedResponses"]["inlinedResponses"]

    expected = {"status": 3, "missing": 2, "duplicate": 4, "foreign": 4, "unparsable": 3}
    assert len(inlined) == expected[outcome]
    assert (
        sum("response" in one for one in inlined)
        == {
            "status": 2,
            "missing": 2,
            "duplicate": 4,
            "foreign": 4,
            "unparsable": 2,
        }[outcome]
    )


@pytest.mark.filterwarnings("ignore:batches.create_embeddings")
async def test_the_stock_sdk_uploads_buys_lists_and_reads(rig, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_bytes(jsonl([row(n) for n in range(2)]))
    client = genai.Client(
        api_key=KEY, http_options=types.HttpOptions(base_url=rig.running.base_url)
    )
    try:
        file = await client.aio.files.upload(
            file=source, config=types.UploadFileConfig(mime_type="application/jsonl")
        )
        job = await client.aio.batches.create(
            model=MODEL, src=file.name or "", config={"display_name": "sdk"}
        )
        await rig.running.settle()
        got = await client.aio.batches.get(name=job.name or "")
        assert got.dest
        content = await client.aio.files.download(file=got.dest.file_name or "")
        listed = [one.display_name async for one in await client.aio.batches.list()]
        embeds = await client.aio.batches.create_embeddings(
            model="gemini-embedding-001",
            src={"inlined_requests": {"contents": ["a", "b"]}},
            config={"display_name": "embeds"},
        )
        await rig.running.settle()
        embedded = await client.aio.batches.get(name=embeds.name or "")
    finally:
        await client.aio.aclose()
        client.close()

    assert got.state is types.JobState.JOB_STATE_SUCCEEDED
    assert listed == ["sdk"]
    assert len(content.splitlines()) == 2
    assert embedded.dest
    assert len(embedded.dest.inlined_embed_content_responses or ()) == 2
