"""Short ways to talk to a sandbox in Gemini's dialect."""

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from tests.sandbox.rigs import Rig

KEY = "gemini-sandbox"
MODEL = "gemini-2.5-flash"
MODELS = "/v1beta/models"
BATCHES = "/v1beta/batches"


def request(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """A GenerateContentRequest."""
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], **fields}


def row(number: int = 0, **changes: Any) -> dict[str, Any]:
    """One row of an input file."""
    return {"key": f"row-{number}", "request": request(f"question {number}"), **changes}


def element(number: int = 0, **changes: Any) -> dict[str, Any]:
    """One inlined request."""
    asked = request(f"question {number}")
    return {"metadata": {"key": f"row-{number}"}, "request": asked, **changes}


async def raw(
    rig: Rig, method: str, path: str, body: Any = None, **headers: str | None
) -> tuple[int, Mapping[str, str], Any]:
    """Call by plain HTTP; `body` is JSON or the exact bytes. Return status, headers, JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"x-goog-api-key": KEY, **headers}
    async with rig.http.request(
        method,
        path if path.startswith("http") else rig.running.base_url + path,
        data=None if body is None else BytesIO(content),
        headers={name: value for name, value in fields.items() if value is not None},
    ) as response:
        answer = await response.read()
        return response.status, response.headers, json.loads(answer) if answer else None


async def created(rig: Rig, requests: list[Any], **batch: Any) -> tuple[int, Any]:
    """Create an inline batch; return status and answer."""
    config = {"requests": {"requests": requests}}
    body = {"batch": {"displayName": "b", "inputConfig": config, **batch}}
    status, _, answer = await raw(rig, "POST", f"{MODELS}/{MODEL}:batchGenerateContent", body)
    return status, answer


async def uploaded(rig: Rig, content: bytes, *, key: str = KEY, name: str = "in") -> str:
    """Upload a file as the SDK does; return its name."""
    headers = {
        "x-goog-api-key": key,
        "X-Goog-Upload-Protocol": "resumable",
        "X-Goog-Upload-Command": "start",
        "X-Goog-Upload-Header-Content-Length": str(len(content)),
        "X-Goog-Upload-Header-Content-Type": "application/jsonl",
    }
    body = {"file": {"display_name": name}}
    _, told, _ = await raw(rig, "POST", "/upload/v1beta/files", body, **headers)
    # Its address is as good as the key.
    sent = {
        "x-goog-api-key": None,
        "X-Goog-Upload-Command": "upload, finalize",
        "X-Goog-Upload-Offset": "0",
    }
    status, told, answer = await raw(rig, "POST", told["X-Goog-Upload-URL"], content, **sent)
    assert (status, told["X-Goog-Upload-Status"]) == (200, "final")
    return str(answer["file"]["name"])


def jsonl(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in rows)
