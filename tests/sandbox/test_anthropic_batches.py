"""Message batches: what is checked at once, what waits for its line, and what a batch tells."""

import json

import pytest

from proxy.sandbox import BatchFault, LineFault, answer_text, body_hash
from tests.sandbox.anthropic_rigs import BATCHES, message_body, raw, request, results
from tests.sandbox.rigs import started

HOUR = 3_600.0


async def test_a_batch_runs_as_the_sdk_sees_it_and_costs_half(rig, claude):
    created = await claude.messages.batches.create(requests=[request(n) for n in range(5)])
    await rig.running.settle()

    ended = await claude.messages.batches.retrieve(created.id)
    lines = [line async for line in await claude.messages.batches.results(created.id)]

    assert created.processing_status == "in_progress"
    assert created.request_counts.processing == 5
    assert (ended.processing_status, ended.request_counts.succeeded) == ("ended", 5)
    assert ended.results_url == f"{rig.running.base_url}{BATCHES}/{created.id}/results"
    assert {line.custom_id for line in lines} == {f"req-{n}" for n in range(5)}
    assert [line.custom_id for line in lines] != [f"req-{n}" for n in range(5)]
    for line in lines:
        body = message_body(f"question {line.custom_id[4:]}")
        text = line.result.message.content[0].text
        assert text == answer_text(body_hash(body), f"question {line.custom_id[4:]}")
        assert line.result.message.usage.service_tier == "batch"
    total = rig.running.ledger.totals(lane="batch")
    assert total.executions == 5
    assert total.paid_micro_usd * 2 == total.list_micro_usd > 0


async def test_a_running_batch_tells_no_progress_and_has_no_results():
    async with started(turnaround_s=HOUR) as rig:
        _, _, created = await raw(rig, "POST", BATCHES, {"requests": [request(n) for n in (0, 1)]})
        await rig.running.advance(HOUR * 0.6)

        _, _, running = await raw(rig, "GET", f"{BATCHES}/{created['id']}")
        status, _, error = await raw(rig, "GET", f"{BATCHES}/{created['id']}/results")
        kept, _, refusal = await raw(rig, "DELETE", f"{BATCHES}/{created['id']}")

        assert rig.running.ledger.totals(lane="batch").executions == 1
    assert running["request_counts"] == {
        "processing": 2, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0,
    }  # fmt: skip
    assert running["results_url"] is None
    assert (status, error["error"]["type"]) == (404, "not_found_error")
    assert (kept, refusal["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"{}",
        b"[]",
        b'{"requests": []}',
        b'{"requests": [1]}',
        b'{"requests": [{"custom_id": "a", "params": {}}',
        b'{"requests": [{"custom_id": "a", "params": {}},]}',
        b'{"requests": [{"custom_id": "a", "params": {}}], "metadata": {}}',
        b'{"requests": [{"params": {}}]}',
        b'{"requests": [{"custom_id": "a b", "params": {}}]}',
        b'{"requests": [{"custom_id": "%s", "params": {}}]}' % (b"x" * 65),
        b'{"requests": [{"custom_id": 1, "params": {}}]}',
        b'{"requests": [{"custom_id": "a", "params": {}}, {"custom_id": "a", "params": {}}]}',
        b'{"requests": [{"custom_id": "a", "params": {"x": }}]}',
    ],
)
async def test_what_concerns_the_whole_is_refused_at_once(rig, body):
    status, _, error = await raw(rig, "POST", BATCHES, body)
    _, _, listed = await raw(rig, "GET", BATCHES)

    assert (status, error["error"]["type"]) == (400, "invalid_request_error")
    assert listed["data"] == []
    assert list(rig.running.engine.directory.glob("requests-*")) == []


async def test_more_requests_or_bytes_than_allowed_are_refused():
    async with started(inline_max=2, inline_bytes_max=2_000) as rig:
        many, _, _ = await raw(rig, "POST", BATCHES, {"requests": [request(n) for n in range(3)]})
        large = {"requests": [request(params=message_body("x" * 2_000))]}
        status, _, error = await raw(rig, "POST", BATCHES, large)

    assert many == 400
    assert (status, error["error"]["type"]) == (413, "request_too_large")


async def test_a_bad_line_harms_no_other(rig):
    bad = {
        "stream": message_body(stream=True),
        "model": message_body(model="claude-nowhere"),
        "tokens": message_body(max_tokens=0),
        "speed": message_body(speed="fast"),
        "nothing": None,
    }
    requests = [{"custom_id": name, "params": params} for name, params in bad.items()]

    _, _, created = await raw(rig, "POST", BATCHES, {"requests": [*requests, request(1)]})
    await rig.running.settle()
    found = await results(rig, created["id"])
    _, _, ended = await raw(rig, "GET", f"{BATCHES}/{created['id']}")

    assert found["req-1"]["type"] == "succeeded"
    for name in bad:
        error = found[name]["error"]
        kind = "not_found_error" if name == "model" else "invalid_request_error"
        assert (found[name]["type"], error["type"]) == ("errored", "error")
        assert error["error"]["type"] == kind
        assert error["request_id"].startswith("req_")
    assert ended["request_counts"]["errored"] == 5
    assert rig.running.ledger.totals().executions == 1


async def test_a_cancelled_batch_keeps_what_was_finished():
    async with started(turnaround_s=HOUR, cancel_s=60) as rig:
        requests = [request(n) for n in range(4)]
        _, _, created = await raw(rig, "POST", BATCHES, {"requests": requests})
        await rig.running.advance(HOUR / 2)
        _, _, canceling = await raw(rig, "POST", f"{BATCHES}/{created['id']}/cancel")
        await rig.running.advance(60)

        _, _, ended = await raw(rig, "GET", f"{BATCHES}/{created['id']}")
        found = await results(rig, created["id"])
        again, _, _ = await raw(rig, "POST", f"{BATCHES}/{created['id']}/cancel")

        assert rig.running.ledger.totals(lane="batch").executions == 2
    assert canceling["processing_status"] == "canceling"
    assert canceling["cancel_initiated_at"]
    assert ended["processing_status"] == "ended"
    assert sorted(line["type"] for line in found.values()) == ["canceled"] * 2 + ["succeeded"] * 2
    assert again == 400


async def test_a_batch_expires_with_what_was_finished():
    async with started(turnaround_s=HOUR) as rig:
        rig.running.faults.add(BatchFault(stop_after=1))
        _, _, created = await raw(rig, "POST", BATCHES, {"requests": [request(n) for n in (0, 1)]})
        await rig.running.advance(24 * HOUR)

        _, _, ended = await raw(rig, "GET", f"{BATCHES}/{created['id']}")
        found = await results(rig, created["id"])

    assert (ended["request_counts"]["expired"], ended["request_counts"]["succeeded"]) == (1, 1)
    assert ended["ended_at"] == ended["expires_at"]
    assert sorted(line["type"] for line in found.values()) == ["expired", "succeeded"]


async def test_results_are_gone_after_29_days_and_the_batch_is_not(rig):
    _, _, created = await raw(rig, "POST", BATCHES, {"requests": [request()]})
    await rig.running.advance(29 * 24 * HOUR)

    _, _, old = await raw(rig, "GET", f"{BATCHES}/{created['id']}")
    status, _, _ = await raw(rig, "GET", f"{BATCHES}/{created['id']}/results")

    assert old["archived_at"]
    assert old["results_url"] is None
    assert status == 404


async def test_a_list_is_read_page_after_page_in_both_directions(rig, claude):
    ids: list[str] = []
    for _ in range(5):
        _, _, created = await raw(rig, "POST", BATCHES, {"requests": [request()]})
        ids.insert(0, created["id"])

    async def listed(query: str) -> tuple[list[str], bool]:
        _, _, found = await raw(rig, "GET", f"{BATCHES}?{query}")
        return [batch["id"] for batch in found["data"]], found["has_more"]

    assert await listed("limit=2") == (ids[:2], True)
    assert await listed(f"limit=2&after_id={ids[1]}") == (ids[2:4], True)
    assert await listed(f"limit=2&after_id={ids[3]}") == (ids[4:], False)
    assert await listed(f"limit=2&before_id={ids[3]}") == (ids[1:3], True)
    assert [b.id async for b in claude.messages.batches.list(limit=2)] == ids
    assert (await raw(rig, "GET", f"{BATCHES}?limit=0"))[0] == 400


async def test_another_workspace_sees_nothing(rig):
    _, _, created = await raw(rig, "POST", BATCHES, {"requests": [request()]})
    await rig.running.settle()

    other = {"x-api-key": "sk-ant-other"}
    _, _, listed = await raw(rig, "GET", BATCHES, **other)
    answers = [
        await raw(rig, method, f"{BATCHES}/{created['id']}{tail}", **other)
        for method, tail in (("GET", ""), ("GET", "/results"), ("POST", "/cancel"), ("DELETE", ""))
    ]
    rig.running.keys.assign("sk-ant-other", rig.running.keys.state("sk-ant-sandbox").project)
    shared, _, _ = await raw(rig, "GET", f"{BATCHES}/{created['id']}", **other)

    assert listed["data"] == []
    assert [status for status, _, _ in answers] == [404] * 4
    assert shared == 200


async def test_a_deleted_batch_is_gone_with_its_files(rig):
    _, _, created = await raw(rig, "POST", BATCHES, {"requests": [request()]})
    await rig.running.settle()

    _, _, deleted = await raw(rig, "DELETE", f"{BATCHES}/{created['id']}")
    status, _, _ = await raw(rig, "GET", f"{BATCHES}/{created['id']}")

    assert deleted == {"id": created["id"], "type": "message_batch_deleted"}
    assert status == 404
    assert list(rig.running.engine.directory.iterdir()) == []


@pytest.mark.parametrize(
    ("outcome", "count"), [("missing", 1), ("duplicate", 3), ("foreign", 3), ("unparsable", 2)]
)
async def test_line_faults_spoil_results(rig, outcome, count):
    rig.running.faults.add(LineFault(outcome=outcome, custom_id="req-0"))
    _, _, created = await raw(rig, "POST", BATCHES, {"requests": [request(n) for n in (0, 1)]})
    await rig.running.settle()

    url = f"{rig.running.base_url}{BATCHES}/{created['id']}/results"
    headers = {"x-api-key": "sk-ant-sandbox", "anthropic-version": "2023-06-01"}
    async with rig.http.get(url, headers=headers) as response:
        lines = (await response.read()).splitlines()

    assert len(lines) == count
    assert rig.running.ledger.totals().executions == 2


async def test_a_refused_line_is_not_billed(rig):
    rig.running.faults.add(LineFault(outcome="status", status=529))
    _, _, created = await raw(rig, "POST", BATCHES, {"requests": [request()]})
    await rig.running.settle()

    error = (await results(rig, created["id"]))["req-0"]["error"]
    assert error["error"]["type"] == "overloaded_error"
    assert rig.running.ledger.totals().executions == 0


async def test_a_large_batch_is_read_from_disk_and_run(rig):
    requests = [request(n, params=message_body("word " * 400)) for n in range(2_000)]
    body = json.dumps({"requests": requests}, indent=1).encode()
    assert len(body) > 4_000_000

    status, _, created = await raw(rig, "POST", BATCHES, body)
    await rig.running.settle()

    assert status == 200
    assert len(await results(rig, created["id"])) == 2_000


async def test_a_key_without_the_scope_may_not_use_batches(rig):
    rig.running.keys.deny_batch("sk-ant-sandbox")

    status, _, error = await raw(rig, "POST", BATCHES, {"requests": [request()]})

    assert (status, error["error"]["type"]) == (403, "permission_error")
