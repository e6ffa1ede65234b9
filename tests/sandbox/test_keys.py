"""What a key opens and what it is refused, also when that changes at run time."""

from tests.sandbox.rigs import chat_body, line

CHAT = "/v1/chat/completions"
OTHER = "sk-sandbox-two"


async def test_a_call_without_a_key_is_refused(rig):
    status, _ = await rig.call("POST", CHAT, chat_body(), key=None)

    assert status == 401


async def test_a_revoked_key_is_refused_until_it_is_restored(rig):
    rig.running.keys.revoke(OTHER)
    refused, answer = await rig.call("GET", "/v1/models", key=OTHER)
    rig.running.keys.restore(OTHER)
    accepted, _ = await rig.call("GET", "/v1/models", key=OTHER)

    assert (refused, answer["error"]["code"]) == (401, "invalid_api_key")
    assert OTHER not in answer["error"]["message"]
    assert accepted == 200


async def test_a_batch_goes_on_when_its_key_is_revoked(slow):
    batch = await slow.submit([line()], key=OTHER)
    slow.running.keys.assign("sk-successor", slow.running.keys.state(OTHER).project)
    slow.running.keys.revoke(OTHER)

    await slow.running.advance(7_200)

    assert (await slow.batch(batch["id"], "sk-successor"))["status"] == "completed"


async def test_files_and_batches_of_another_project_do_not_exist(rig):
    batch = await rig.batch((await rig.submit([line()]))["id"])

    for path in (
        f"/v1/batches/{batch['id']}",
        f"/v1/files/{batch['input_file_id']}",
        f"/v1/files/{batch['output_file_id']}/content",
    ):
        assert (await rig.call("GET", path, key=OTHER))[0] == 404
    assert (await rig.call("POST", f"/v1/batches/{batch['id']}/cancel", key=OTHER))[0] == 404
    assert (await rig.call("DELETE", f"/v1/files/{batch['input_file_id']}", key=OTHER))[0] == 404
    assert (await rig.call("GET", "/v1/batches", key=OTHER))[1]["data"] == []
    assert (await rig.call("GET", "/v1/files", key=OTHER))[1]["data"] == []


async def test_another_projects_file_cannot_be_put_into_a_batch(rig):
    file_id = await rig.upload([line()])
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}

    _, batch = await rig.call("POST", "/v1/batches", body, key=OTHER)

    assert (await rig.batch(batch["id"], OTHER))["status"] == "failed"


async def test_keys_of_one_project_share_their_batches(rig):
    rig.running.keys.assign("sk-sandbox-one", "proj_shared")
    rig.running.keys.assign(OTHER, "proj_shared")

    batch = await rig.submit([line()])

    assert (await rig.call("GET", f"/v1/batches/{batch['id']}", key=OTHER))[0] == 200


async def test_exhausted_credit_refuses_calls_and_creates_but_not_looks(rig):
    file_id = await rig.upload([line()])
    rig.running.keys.exhaust("sk-sandbox-one")
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}

    status, answer = await rig.call("POST", CHAT, chat_body())
    create_status, create = await rig.call("POST", "/v1/batches", body)

    assert (status, answer["error"]["code"]) == (429, "insufficient_quota")
    assert (create_status, create["error"]["code"]) == (429, "insufficient_quota")
    assert (await rig.call("GET", "/v1/batches"))[0] == 200
    assert rig.running.ledger.totals().executions == 0


async def test_exhausted_credit_can_show_on_every_line(slow):
    batch = await slow.submit([line(n) for n in range(4)])
    await slow.running.advance(60 + 1_800)
    slow.running.keys.exhaust("sk-sandbox-one", surface="line")

    await slow.running.advance(7_200)

    shown = await slow.batch(batch["id"])
    assert shown["request_counts"] == {"total": 4, "completed": 2, "failed": 2}
    errors = await slow.lines(shown["error_file_id"])
    codes = {entry["response"]["body"]["error"]["code"] for entry in errors}
    assert codes == {"insufficient_quota"}


async def test_exhausted_credit_can_fail_the_whole_batch(rig):
    rig.running.keys.exhaust("sk-sandbox-one", surface="batch")

    batch = await rig.batch((await rig.submit([line()]))["id"])

    assert batch["status"] == "failed"
    assert batch["errors"]["data"][0]["code"] == "insufficient_quota"


async def test_a_key_without_batch_scope_still_calls(rig):
    batch = await rig.submit([line()])
    rig.running.keys.deny_batch("sk-sandbox-one")

    assert (await rig.call("GET", "/v1/batches"))[0] == 403
    assert (await rig.call("GET", f"/v1/batches/{batch['id']}"))[0] == 403
    assert (await rig.call("POST", f"/v1/batches/{batch['id']}/cancel"))[0] == 403
    assert (await rig.call("POST", "/v1/batches", {}))[0] == 403
    assert (await rig.call("POST", CHAT, chat_body()))[0] == 200
