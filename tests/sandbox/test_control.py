"""The control API, for tests in another process, and the sandbox as such a process."""

import asyncio
import json
import os
import signal
import sys

import pytest

from proxy.sandbox import body_hash, key_id
from tests.sandbox.rigs import KEY, chat_body, line

CHAT = "/v1/chat/completions"


async def test_the_ledger_tells_lanes_purchases_and_requests(rig):
    await rig.call("POST", CHAT, chat_body())
    await rig.call("POST", CHAT, chat_body(service_tier="flex"))
    await rig.submit([line()])
    await rig.running.settle()

    _, shown = await rig.call("GET", "/sandbox/ledger?entries=true&lane=batch", key=None)
    _, bought = await rig.call("POST", "/sandbox/ledger/bought", {"body": chat_body()}, key=None)

    assert shown["total"]["executions"] == 3
    assert {lane: total["executions"] for lane, total in shown["lanes"].items()} == {
        "interactive": 1,
        "flex": 1,
        "batch": 1,
    }
    assert shown["purchases"][body_hash(chat_body())] == 2
    assert shown["requests"]["POST /v1/chat/completions"] == 2
    assert bought == {"executions": 2}
    (entry,) = shown["entries"]
    assert (entry["custom_id"], entry["key_id"]) == ("req-0", key_id(KEY))
    assert entry["paid_micro_usd"] * 2 == entry["list_micro_usd"] > 0


async def test_the_ledger_can_be_counted_from_zero(rig):
    await rig.call("POST", CHAT, chat_body())

    await rig.call("DELETE", "/sandbox/ledger", key=None)

    _, shown = await rig.call("GET", "/sandbox/ledger", key=None)
    assert (shown["total"]["executions"], shown["purchases"]) == (0, {})


async def test_no_key_and_no_prompt_is_in_the_ledger(rig):
    await rig.call("POST", CHAT, chat_body("a very private question"))

    _, shown = await rig.call("GET", "/sandbox/ledger?entries=true", key=None)

    assert KEY not in json.dumps(shown)
    assert "private" not in json.dumps(shown)


async def test_faults_are_added_listed_and_lifted(rig):
    asked = {"kind": "http", "action": "status", "path": CHAT, "status": 503, "count": None}
    _, made = await rig.call("POST", "/sandbox/faults", {**asked, "key": KEY}, key=None)
    refused, _ = await rig.call("POST", CHAT, chat_body())
    other, _ = await rig.call("POST", CHAT, chat_body(), key="sk-other")
    _, listed = await rig.call("GET", "/sandbox/faults", key=None)
    await rig.call("DELETE", f"/sandbox/faults/{made['id']}", key=None)
    accepted, _ = await rig.call("POST", CHAT, chat_body())

    assert (refused, other, accepted) == (503, 200, 200)
    assert [(fault["id"], fault["hits"]) for fault in listed["data"]] == [(made["id"], 1)]


async def test_batch_and_line_faults_come_over_the_wire_too(rig):
    for fault in (
        {"kind": "batch", "shown_status": "odd"},
        {"kind": "line", "outcome": "missing"},
    ):
        assert (await rig.call("POST", "/sandbox/faults", fault, key=None))[0] == 200

    batch = await rig.batch((await rig.submit([line()]))["id"])
    await rig.call("DELETE", "/sandbox/faults", key=None)
    after = await rig.batch(batch["id"])

    assert (batch["status"], after["status"]) == ("odd", "completed")
    assert after["output_file_id"] is None


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        ("faults", {"kind": "none"}, "kind: must be 'http', 'batch' or 'line'"),
        ("faults", {"kind": ["http"]}, "kind: must be 'http', 'batch' or 'line'"),
        ("faults", {"kind": "http", "action": "explode"}, "action: must be 'status', 'delay', "),
        ("faults", {"kind": "line", "outcome": "missing", "nth": "x"}, "nth: must be a valid int"),
        (
            "faults",
            {"kind": "batch", "typo": 1},
            "typo: is unknown; known are kind, key, batch_id, key_id, model, nth, count, stick_in",
        ),
        ("faults", {"kind": "http", "typo": 1}, "action: is required; typo: is unknown; known are"),
        ("keys", {"key": "a", "do": "love"}, "do: must be 'revoke', 'exhaust', 'deny_batch', "),
        ("keys", {"do": "revoke", "x": 1}, "key: is required; x: is unknown; known are key, do, "),
        ("clock/advance", {"seconds": -1}, "seconds: must be greater than or equal to 0"),
        ("flex", {}, "refusals: is required"),
        ("flex", [], "the body: must be an object with refusals"),
        ("flex", b"{", "the body is no JSON: EOF while parsing an object at line 1 column 1"),
        ("faults", b"", "the body is no JSON: EOF while parsing a value at line 1 column 0"),
    ],
)
async def test_what_control_does_not_understand_is_refused_with_what_it_does(
    rig, path, body, problem
):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with rig.http.post(f"{rig.running.base_url}/sandbox/{path}", data=raw) as response:
        answer = await response.json()

    assert response.status == 400
    assert answer["error"].startswith(problem)
    assert "pydantic" not in answer["error"]


async def test_the_clock_moves_and_work_is_done_by_the_answer(slow):
    batch = await slow.submit([line()])
    _, before = await slow.call("GET", "/sandbox/clock", key=None)

    _, after = await slow.call("POST", "/sandbox/clock/advance", {"seconds": 7_200}, key=None)

    assert after["now"] == before["now"] + 7_200
    _, shown = await slow.call("GET", f"/v1/batches/{batch['id']}")
    assert shown["status"] == "completed"


async def test_keys_and_flex_are_turned_over_the_wire(rig):
    await rig.call("POST", "/sandbox/keys", {"key": KEY, "do": "revoke"}, key=None)
    revoked, _ = await rig.call("GET", "/v1/models")
    await rig.call("POST", "/sandbox/keys", {"key": KEY, "do": "restore"}, key=None)
    await rig.call("POST", "/sandbox/flex", {"refusals": None}, key=None)
    flex, _ = await rig.call("POST", CHAT, chat_body(service_tier="flex"))

    assert (revoked, flex) == (401, 429)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
async def test_as_a_process_it_prints_its_url_and_ends_on_a_signal(rig, tmp_path, ending):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.sandbox", "--latency", "1ms", "--time-scale", "10"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            url = (await process.stdout.readline()).decode().strip()
            async with rig.http.get(f"{url}/sandbox") as response:
                about = await response.json()
    finally:
        process.send_signal(ending)
        code = await process.wait()

    assert about["object"] == "sandbox"
    assert code == 0
    assert not list(tmp_path.iterdir())
