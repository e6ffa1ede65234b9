"""Short ways to talk to a sandbox in Anthropic's dialect."""

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from tests.sandbox.rigs import Rig

KEY = "sk-ant-sandbox"
BATCHES = "/v1/messages/batches"


def message_body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """A body; a field that is None is left out."""
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 2_048,
        "messages": [{"role": "user", "content": text}],
        **fields,
    }
    return {name: value for name, value in body.items() if value is not None}


def request(number: int = 0, **changes: Any) -> dict[str, Any]:
    """One request of a batch."""
    return {
        "custom_id": f"req-{number}",
        "params": message_body(f"question {number}"),
        **changes,
    }


async def raw(
    rig: Rig, method: str, path: str, body: Any = None, **headers: str | None
) -> tuple[int, Mapping[str, str], Any]:
    """Call by plain HTTP; `body` is JSON or the exact bytes. Return status, headers, JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"x-api-key": KEY, "anthropic-version": "2023-06-01", **headers}
    async with rig.http.request(
        method,
        rig.running.base_url + path,
        data=None if body is None else BytesIO(content),
        headers={name: value for name, value in fields.items() if value is not None},
    ) as response:
        return response.status, response.headers, json.loads(await response.read())


async def results(rig: Rig, batch_id: str, key: str = KEY) -> dict[str, Any]:
    """Return the `result` of each line by its custom ID."""
    url = f"{rig.running.base_url}{BATCHES}/{batch_id}/results"
    headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
    async with rig.http.get(url, headers=headers) as response:
        assert response.status == 200, await response.text()
        lines = [json.loads(line) for line in (await response.read()).splitlines()]
    return {line["custom_id"]: line["result"] for line in lines}
