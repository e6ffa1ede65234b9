"""The promise about memory, measured in a process that does nothing else."""

import asyncio
import json
import sys

import pytest
from aiohttp import web

from tests.providers.kit import serving

COUNT, BODY_BYTES = 50_000, 2_000
GROWTH_MB_MAX = 32


ANSWER = json.dumps({"id": "chatcmpl-1", "choices": [{"message": "w " * (BODY_BYTES // 2)}]})


def openai_line(n: int) -> str:
    return (
        f'{{"id":"r{n}","custom_id":"job-{n:07}","response":{{"status_code":200,'
        f'"request_id":"req_{n}","body":{ANSWER}}},"error":null}}\n'
    )


def gemini_line(n: int) -> str:
    return f'{{"key":"job-{n:07}","response":{ANSWER}}}\n'


async def swallow(request: web.Request) -> web.Response:
    async for _ in request.content.iter_any():
        pass
    place = f"{request.scheme}://{request.host}{request.path}?upload_id=1"
    file = {"id": "file-up", "object": "file", "file": {"name": "files/up"}}
    return web.json_response(file, headers={"X-Goog-Upload-URL": place})


async def content(request: web.Request) -> web.StreamResponse:
    """Results that are made while they are sent."""
    response = web.StreamResponse()
    await response.prepare(request)
    line = openai_line if request.path.startswith("/v1/") else gemini_line
    if request.match_info["id"].endswith("big"):
        for start in range(0, COUNT, 100):
            await response.write("".join(map(line, range(start, start + 100))).encode())
    return response


async def operation(request: web.Request) -> web.Response:
    output = {"responsesFile": f"files/{request.match_info['id']}"}
    return web.json_response({"metadata": {"output": output}})


async def nothing(_: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [], "has_more": False})


def big_upstream() -> web.Application:
    """Files that swallow any upload, and result files without end."""
    app = web.Application(client_max_size=0)
    for files, batches, download in (
        ("/v1/files", "/v1/batches", "/v1/files/{id}/content"),
        ("/upload/v1beta/files", "/v1beta/batches", "/download/v1beta/files/{id}:download"),
    ):
        app.router.add_post(files, swallow)
        app.router.add_get(download, content)
        app.router.add_get(batches, nothing)
    app.router.add_get("/v1beta/batches/{id}", operation)
    app.router.add_delete("/v1/files/{id}", nothing)
    app.router.add_delete("/v1beta/batches/{id}", nothing)
    return app


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("wire", ["openai", "gemini"])
async def test_50000_lines_go_up_and_come_down_in_a_few_megabytes(wire: str) -> None:
    async with serving(big_upstream()) as base_url:
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.providers.big_batch",
            wire,
            base_url,
            str(COUNT),
            str(BODY_BYTES),
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await program.communicate()

    assert program.returncode == 0
    phases = json.loads(printed)
    for name, phase in phases.items():
        print(name, {key: round(value, 2) for key, value in phase.items()})
    assert phases["upload"]["bytes"] > 100_000_000
    assert phases["upload"]["growth_mb"] < GROWTH_MB_MAX
    assert phases["download"]["growth_mb"] < GROWTH_MB_MAX
