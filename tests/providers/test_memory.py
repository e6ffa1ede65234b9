"""The promise about memory, measured in a process that does nothing else."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tests.providers.kit import serving

COUNT, BODY_BYTES = 50_000, 2_000
GROWTH_MB_MAX = 32


def big_upstream() -> web.Application:
    """Files that swallow any upload, and a result file that is made while it is sent."""
    answer = json.dumps({"id": "chatcmpl-1", "choices": [{"message": "w " * (BODY_BYTES // 2)}]})

    async def result_lines() -> AsyncIterator[bytes]:
        for start in range(0, COUNT, 100):
            yield "".join(
                f'{{"id":"r{n}","custom_id":"job-{n:07}","response":{{"status_code":200,'
                f'"request_id":"req_{n}","body":{answer}}},"error":null}}\n'
                for n in range(start, start + 100)
            ).encode()

    async def upload(request: web.Request) -> web.Response:
        async for _ in request.content.iter_any():
            pass
        return web.json_response({"id": "file-up", "object": "file"})

    async def content(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if request.match_info["id"] == "file-big":
            async for chunk in result_lines():
                await response.write(chunk)
        return response

    async def nothing(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [], "has_more": False})

    app = web.Application(client_max_size=0)
    app.router.add_post("/v1/files", upload)
    app.router.add_get("/v1/files/{id}/content", content)
    app.router.add_get("/v1/batches", nothing)
    app.router.add_delete("/v1/files/{id}", nothing)
    return app


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_50000_lines_go_up_and_come_down_in_a_few_megabytes() -> None:
    async with serving(big_upstream()) as base_url:
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.providers.big_batch",
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
