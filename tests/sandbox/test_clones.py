"""Members of the OpenAI family on the sandbox's port: each has its own ways, all one engine."""

import json
from typing import Any

import aiohttp
import pytest

from proxy.sandbox import Running, Sandbox, SandboxSettings
from proxy.sandbox.openai.habits import CLONES, MISTRAL, Habits

LINE = (
    b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions",'
    b'"body":{"model":"gpt-5.4-mini","messages":[{"role":"user","content":"hi"}]}}\n'
)


@pytest.fixture
async def server():
    async with Sandbox(SandboxSettings(time_scale=0, turnaround_s=60)).serve() as running:
        yield running


class Client:
    """A plain client of one member."""

    def __init__(self, server: Running, habits: Habits, http: aiohttp.ClientSession) -> None:
        self.base = server.base_url
        self.habits = habits
        self.http = http
        value = "sk-1" if habits.key_header == "api-key" else "Bearer sk-1"
        self.headers = {habits.key_header: value, "User-Agent": habits.agent + "x"}

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        url = self.base + self.habits.path(path)
        headers = self.headers | more.pop("headers", {})
        async with self.http.request(method, url, headers=headers, **more) as answer:
            if answer.content_type == "application/json":
                return answer.status, await answer.json()
            return answer.status, await answer.text()

    async def upload(self, **fields: str) -> tuple[int, Any]:
        form = aiohttp.FormData({"purpose": self.habits.purpose, **fields})
        form.add_field("file", LINE, filename="in.jsonl")
        return await self.ask("POST", self.habits.upload, data=form)

    async def create(self, **changes: Any) -> tuple[int, Any]:
        _, file = await self.upload()
        body = {
            "input_file_id": file["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        return await self.ask("POST", "/v1/batches", json=body | changes)


@pytest.fixture(params=CLONES, ids=lambda habits: habits.prefix)
async def clone(request, server):
    async with aiohttp.ClientSession() as http:
        yield Client(server, request.param, http)


async def test_every_member_runs_a_batch_and_bills_it_once(clone, server):
    status, created = await clone.create()
    batch = created.get("job", created)

    await server.advance(60)
    _, ended = await clone.ask("GET", f"/v1/batches/{batch['id']}")
    _, output = await clone.ask("GET", f"/v1/files/{ended['output_file_id']}/content")

    assert status == 200
    assert ended["status"].lower() == "completed"
    assert '"custom_id":"a"' in output
    assert server.ledger.totals(lane="batch").executions == 1


async def test_what_a_member_does_not_take_it_refuses(clone):
    for name, takes in (
        ("metadata", clone.habits.takes_metadata),
        ("output_expires_after", clone.habits.takes_expiry),
    ):
        value = {"a": "b"} if name == "metadata" else {"anchor": "created_at", "seconds": 3_600}
        status, _ = await clone.create(**{name: value})
        assert status == (200 if takes else 400)
    expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    assert (await clone.upload(**expiry))[0] == (200 if clone.habits.takes_expiry else 400)
    for window in ("1h", "24h", "7d"):
        status, _ = await clone.create(completion_window=window)
        assert status == (200 if window in clone.habits.windows else 400)


async def test_a_member_wants_its_own_credential_and_another_key_sees_nothing(clone):
    _, created = await clone.create()
    batch_id = created.get("job", created)["id"]
    place = f"/v1/batches/{batch_id}"
    other = "sk-2" if clone.habits.key_header == "api-key" else "Bearer sk-2"

    nobody = {clone.habits.key_header: ""}
    assert (await clone.ask("GET", place, headers=nobody))[0] == 401
    assert (await clone.ask("GET", place, headers={clone.habits.key_header: other}))[0] == 404
    assert (await clone.ask("GET", place))[0] == 200


async def test_azure_shouts_little_writes_times_out_and_names_an_empty_error_file(server):
    async with aiohttp.ClientSession() as http:
        azure = Client(server, next(one for one in CLONES if one.prefix == "/azure"), http)
        _, created = await azure.create()
        await server.advance(60)
        _, ended = await azure.ask("GET", f"/v1/batches/{created['id']}")
        _, errors = await azure.ask("GET", f"/v1/files/{ended['error_file_id']}/content")

    assert (created["status"], ended["status"]) == ("Validating", "Completed")
    assert "T" in ended["created_at"]
    assert ended["request_counts"] is None
    assert errors in ("", b"")


async def test_groq_lists_its_batches_in_pages_that_name_a_cursor(server):
    async with aiohttp.ClientSession() as http:
        groq = Client(server, next(one for one in CLONES if one.prefix == "/groq"), http)
        made = [(await groq.create())[1]["id"] for _ in range(3)]
        _, first = await groq.ask("GET", "/v1/batches?limit=2")
        cursor = first["paging"]["next_cursor"]
        _, second = await groq.ask("GET", f"/v1/batches?limit=2&cursor={cursor}")

    assert [batch["id"] for batch in first["data"] + second["data"]] == made[::-1]
    assert second["paging"]["next_cursor"] is None
    assert "has_more" not in first


async def test_together_refuses_agents_that_it_does_not_know(server):
    async with aiohttp.ClientSession() as http:
        together = Client(server, next(one for one in CLONES if one.prefix == "/together"), http)
        together.headers["User-Agent"] = "offramp"

        status, _ = await together.upload()

    assert status == 403


async def test_members_and_openai_do_not_see_each_others_batches(clone, server):
    _, created = await clone.create()
    batch_id = created.get("job", created)["id"]
    headers = {"Authorization": "Bearer sk-1"}
    url = f"{server.base_url}/v1/batches/{batch_id}"

    async with clone.http.get(url, headers=headers) as answer:
        assert answer.status == 404


@pytest.fixture
async def mistral(server):
    async with aiohttp.ClientSession() as http:
        yield Client(server, MISTRAL, http)


EMBEDDING = {"model": "text-embedding-3-small", "input": "hi"}


async def test_mistral_gives_every_answer_an_id(mistral, server):
    requests = [{"custom_id": "a", "body": EMBEDDING}]
    job = {"endpoint": "/v1/embeddings", "requests": requests}
    _, created = await mistral.ask("POST", "/v1/batch/jobs", json=job)
    await server.advance(60)
    _, ended = await mistral.ask("GET", f"/v1/batch/jobs/{created['id']}?inline=true")

    _, answer = await mistral.ask("POST", "/v1/embeddings", json=EMBEDDING)
    _, chat = await mistral.ask("POST", "/v1/chat/completions", json=json.loads(LINE)["body"])

    assert answer["id"]
    assert ended["outputs"][0]["response"]["body"]["id"]
    assert chat["id"].startswith("chatcmpl-")


async def test_a_tool_that_mistral_may_choose_is_called(mistral):
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    asked = {"tools": [tool], "tool_choice": "any"}

    _, chat = await mistral.ask(
        "POST", "/v1/chat/completions", json=json.loads(LINE)["body"] | asked
    )

    assert chat["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "look"
