"""xAI's batches on the sandbox's port: counts and dates, pages, and errors that are text."""

from typing import Any

import aiohttp
import pytest

from proxy.sandbox import BatchFault, LineFault, Running, Sandbox, SandboxSettings

KEY = "xai-1"


def line(n: int) -> bytes:
    body = b'{"model":"gpt-5.4-mini","messages":[{"role":"user","content":"hi %d"}]}' % n
    head = b'{"custom_id":"r%d","method":"POST","url":"/v1/chat/completions","body":' % n
    return head + body + b"}\n"


class Client:
    """A plain client."""

    def __init__(self, server: Running, http: aiohttp.ClientSession) -> None:
        self.base = server.base_url + "/xai/v1"
        self.http = http

    async def ask(self, method: str, path: str, key: str = KEY, **more: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        url = self.base + path
        async with self.http.request(method, url, headers=headers, **more) as answer:
            return answer.status, await answer.json()

    async def create(self, lines: int = 3) -> dict[str, Any]:
        form = aiohttp.FormData({"expires_after": "86400"})
        form.add_field("file", b"".join(map(line, range(lines))), filename="in.jsonl")
        status, file = await self.ask("POST", "/files", data=form)
        assert status == 200, file
        asked = {"name": "mine", "input_file_id": file["id"]}
        _, batch = await self.ask("POST", "/batches", json=asked)
        assert isinstance(batch, dict)
        return batch


@pytest.fixture
async def server():
    async with Sandbox(SandboxSettings(time_scale=0, turnaround_s=60)).serve() as running:
        yield running


@pytest.fixture
async def xai(server):
    async with aiohttp.ClientSession() as http:
        yield Client(server, http)


async def test_a_batch_is_its_name_counts_and_dates(xai, server):
    created = await xai.create()
    await server.advance(60)
    _, ended = await xai.ask("GET", f"/batches/{created['batch_id']}")

    assert created["name"] == ended["name"] == "mine"
    assert len(created["create_time"]) == len("2026-11-23")
    assert set(created["state"].values()) == {0}
    names = ("num_requests", "num_pending", "num_success", "num_error", "num_cancelled")
    assert [ended["state"][name] for name in names] == [3, 0, 3, 0, 0]
    assert "status" not in ended


async def test_results_come_in_pages_by_their_names(xai, server):
    server.faults.add(LineFault(outcome="status", status=400, custom_id="r1"))
    batch = await xai.create()
    await server.advance(60)

    _, first = await xai.ask("GET", f"/batches/{batch['batch_id']}/results?limit=2")
    rest = f"/batches/{batch['batch_id']}/results?limit=2&pagination_token="
    _, second = await xai.ask("GET", rest + first["pagination_token"])

    results = first["results"] + second["results"]
    assert [result["batch_request_id"] for result in results] == ["r0", "r1", "r2"]
    assert "choices" in results[0]["batch_result"]["response"]["chat_get_completion"]
    assert results[1]["batch_result"]["error"]["code"] == 3
    assert second["pagination_token"] is None


async def test_a_refused_input_is_told_by_a_message_and_no_counts(xai, server):
    server.faults.add(BatchFault(fail_code="x", fail_message="Model m is not supported."))
    batch = await xai.create()
    await server.advance(1)
    _, ended = await xai.ask("GET", f"/batches/{batch['batch_id']}")

    assert ended["cancel_by_xai_message"] == "Model m is not supported."
    assert ended["cancel_time"] is not None
    assert set(ended["state"].values()) == {0}


async def test_a_stopped_batch_keeps_what_it_had_and_names_the_rest(xai, server):
    server.faults.add(BatchFault(stop_after=1))
    batch = await xai.create()
    place = f"/batches/{batch['batch_id']}"
    await server.advance(60)
    _, cancelling = await xai.ask("POST", f"{place}:cancel")
    await server.advance(3_600)
    _, cancelled = await xai.ask("GET", place)
    _, page = await xai.ask("GET", f"{place}/results")

    assert (cancelling["state"]["num_pending"], cancelled["state"]["num_pending"]) == (2, 0)
    assert (cancelled["state"]["num_success"], cancelled["state"]["num_cancelled"]) == (1, 2)
    texts = [result["batch_result"].get("error") for result in page["results"]]
    assert sum(text is not None and "cancelled" in text for text in texts) == 2


async def test_lists_are_oldest_first_in_pages(xai):
    made = [(await xai.create())["batch_id"] for _ in range(3)]

    _, first = await xai.ask("GET", "/batches?limit=2")
    token = first["pagination_token"]
    _, second = await xai.ask("GET", f"/batches?limit=2&pagination_token={token}")

    assert [batch["batch_id"] for batch in first["batches"] + second["batches"]] == made
    assert second["pagination_token"] is None


async def test_a_wrong_key_is_a_wrong_argument_in_words(xai, server):
    server.keys.revoke(KEY)

    status, body = await xai.ask("GET", "/models")

    assert status == 400
    assert body == {"code": "invalid-argument", "error": "Incorrect API key provided."}
