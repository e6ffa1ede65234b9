import asyncio
import contextlib
import errno
import os
import ssl
import subprocess
import sys

import pytest
from aiohttp import web

from proxy.core.errors import ProviderUnavailableError
from proxy.providers.channel import Channel
from proxy.providers.site import Site
from tests.providers.kit import MachineClock, make_credential, serving

LINE = b'{"custom_id":"a","response":{"status_code":200,"body":{"pad":"%s"}}}\n' % (b"x" * 1_000)


def test_the_client_library_is_not_imported_before_it_is_needed():
    program = (
        "import sys\n"
        "import proxy.providers.openai_family\n"
        "loaded = {'openai', 'httpx2'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True)


async def test_a_download_that_nobody_reads_on_leaves_the_thread_to_others():
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(LINE * 100)
        return response

    async def batch(request: web.Request) -> web.Response:
        return web.json_response({"id": "batch_1"})

    app = web.Application()
    app.router.add_get("/v1/files/{id}/content", endless)
    app.router.add_get("/v1/batches/{id}", batch)
    async with serving(app) as base_url, asyncio.timeout(60):
        channel = Channel("test-channel", Site(f"{base_url}/v1", "test"), MachineClock())
        downloads = [channel.download(make_credential(), "file-1") for _ in range(3)]
        for _ in range(3):
            for download in downloads:
                lines = await download.next_lines()
                assert lines
                assert len(lines) < 1_000

        answer = await channel.run(
            "poll", make_credential(), lambda session: session.client.batches.retrieve("b").id
        )

        assert answer == "batch_1"
        for download in downloads:
            download.close()
        await channel.aclose()


async def test_without_a_file_to_spare_a_batch_api_is_unavailable_for_now(monkeypatch):
    async with serving(web.Application()) as base_url:
        channel = Channel("test-channel", Site(f"{base_url}/v1", "test"), MachineClock())
        with monkeypatch.context() as scarce:
            # As the system refuses to open the list of whom to trust.
            scarce.setattr(ssl, "create_default_context", _no_more_files)
            with pytest.raises(ProviderUnavailableError, match="Too many open files") as told:
                await channel.run("poll", make_credential(), lambda session: session)
        assert not told.value.sent

        assert await channel.run("poll", make_credential(), lambda session: session)
        await channel.aclose()


def _no_more_files(*_: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
