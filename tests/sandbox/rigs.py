"""Sandboxes for tests, on a free port, and short ways to talk to them."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from openai import AsyncOpenAI

from proxy.sandbox import Running, Sandbox, SandboxSettings

KEY = "sk-sandbox-one"


def settings_of(**changes: Any) -> SandboxSettings:
    return SandboxSettings(**{"time_scale": 0.0, "epoch": 1_800_000_000.0, **changes})


class Rig:
    """One running sandbox, the official SDK, and plain HTTP beside it."""

    def __init__(self, running: Running, http: aiohttp.ClientSession, sdk: AsyncOpenAI) -> None:
        self.running = running
        self.http = http
        self.sdk = sdk

    def sdk_for(self, key: str) -> AsyncOpenAI:
        return self.sdk.with_options(api_key=key)

    async def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = KEY
    ) -> tuple[int, Any]:
        """Call and return the status and the parsed body."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        url = self.running.base_url + path
        async with self.http.request(method, url, json=body, headers=headers) as response:
            return response.status, json.loads(await response.read())

    async def upload(self, content: bytes | list[dict[str, Any]], key: str = KEY) -> str:
        """Upload a batch input, given as bytes or as lines; return its file ID."""
        raw = content if isinstance(content, bytes) else jsonl(content)
        file = await self.sdk_for(key).files.create(file=("input.jsonl", raw), purpose="batch")
        return file.id

    async def submit(
        self, content: bytes | list[dict[str, Any]], *, key: str = KEY, **fields: Any
    ) -> dict[str, Any]:
        """Upload and create a batch; return it as it was at first."""
        file_id = await self.upload(content, key)
        endpoint = fields.pop("endpoint", "/v1/chat/completions")
        body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        batch: dict[str, Any]
        status, batch = await self.call("POST", "/v1/batches", {**body, **fields}, key=key)
        assert status == 200, batch
        return batch

    async def batch(self, batch_id: str, key: str = KEY) -> dict[str, Any]:
        """Retrieve a batch when nothing more can happen to it at the present time."""
        await self.running.settle()
        batch: dict[str, Any]
        status, batch = await self.call("GET", f"/v1/batches/{batch_id}", key=key)
        assert status == 200, batch
        return batch

    async def raw_lines(self, file_id: str | None, key: str = KEY) -> list[bytes]:
        if not file_id:
            return []
        content = await self.sdk_for(key).files.content(file_id)
        return content.content.splitlines()

    async def lines(self, file_id: str | None, key: str = KEY) -> list[dict[str, Any]]:
        return [json.loads(line) for line in await self.raw_lines(file_id, key)]


def chat_body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    body = {"model": "gpt-5.4-mini", "messages": [{"role": "user", "content": text}]}
    return {**body, **fields}


def line(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "custom_id": f"req-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": chat_body(f"question {number}"),
        **changes,
    }


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in lines)


@contextlib.asynccontextmanager
async def started(**changes: Any) -> AsyncIterator[Rig]:
    """Run a sandbox with these settings; its clock stands still unless they say otherwise."""
    async with (
        Sandbox(settings_of(**changes)).serve() as running,
        aiohttp.ClientSession() as http,
        AsyncOpenAI(base_url=f"{running.base_url}/v1", api_key=KEY, max_retries=0) as sdk,
    ):
        yield Rig(running, http, sdk)
