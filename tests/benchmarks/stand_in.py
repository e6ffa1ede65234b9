"""A provider of batches that costs next to nothing itself: it keeps names, and no bodies.

It speaks as much of OpenAI's batch API as an upload, a create and a download need.
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

_NAME: Final = re.compile(rb'"custom_id":"([\w-]+)"')
_NAME_BYTES: Final = 128
_BLOCK_BYTES: Final = 256 * 1024
_HEAD: Final = {"id": "file-in", "object": "file", "created_at": 1, "purpose": "batch"}


class StandIn:
    """Names the lines of an upload, and answers each of them by `body`."""

    def __init__(self, body: Callable[[int], bytes]) -> None:
        self._body = body
        self._names: list[bytes] = []
        self._file = b""
        self.uploaded_bytes = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Serve while the block runs; yields the base URL."""
        runner = web.ServerRunner(web.Server(self._answer, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    def prepare(self) -> int:
        """Write the result file of what was uploaded; return how many lines it has."""
        lines = [
            b'{"id":"batch_req_%d","custom_id":"%s","response":{"status_code":200,'
            b'"request_id":"req_%d","body":%s},"error":null}\n' % (n, name, n, self._body(n))
            for n, name in enumerate(reversed(self._names))
        ]
        self._file = b"".join(lines)
        return len(lines)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST" and request.path == "/v1/files":
            return await self._upload(request)
        if request.method == "POST" and request.path == "/v1/batches":
            await request.read()
            return web.json_response(
                {
                    "id": "batch_1",
                    "object": "batch",
                    "status": "in_progress",
                    "created_at": 1,
                    "endpoint": "/v1/chat/completions",
                    "input_file_id": "file-in",
                    "completion_window": "24h",
                }
            )
        if request.path.endswith("/content"):
            return await self._download(request)
        return web.json_response({"object": "list", "data": [], "has_more": False})

    async def _upload(self, request: web.BaseRequest) -> web.StreamResponse:
        self._names, rest = [], b""
        async for data in request.content.iter_any():
            self.uploaded_bytes += len(data)
            text = rest + data
            end = 0
            for name in _NAME.finditer(text):
                self._names.append(name[1])
                end = name.end()
            rest = text[max(end, len(text) - _NAME_BYTES) :]
        return web.json_response(_HEAD | {"filename": "in.jsonl", "bytes": self.uploaded_bytes})

    async def _download(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(self._file)
        await response.prepare(request)
        for start in range(0, len(self._file), _BLOCK_BYTES):
            await response.write(self._file[start : start + _BLOCK_BYTES])
        await response.write_eof()
        return response
