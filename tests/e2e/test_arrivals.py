"""Many callers who come at the same moment."""

import asyncio
import socket
from contextlib import AsyncExitStack, ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from proxy.operators import listen
from proxy.settings import parse_address
from proxy.web.certificates import Certificate
from proxy.web.entrance.server import DataServer
from proxy.web.handshakes import Handshakes
from tests.helpers.certificates import write_certificate

AT_ONCE = 400
"""More than wait to be accepted by default, which is 100 or 128."""

GRANTED = int(Path("/proc/sys/net/core/somaxconn").read_text())


@pytest.mark.skipif(GRANTED < AT_ONCE, reason="the system lets no more wait")
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
async def test_many_wait_to_be_accepted_and_none_has_to_begin_again(secured, tmp_path):
    async with asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
        file = write_certificate(tmp_path / "proxy.pem")
        handshakes = Handshakes(Certificate(file, file).context, tasks) if secured else None
        runner = web.ServerRunner(DataServer(_hello), shutdown_timeout=0.2)
        url = await listen(stack, runner, parse_address("127.0.0.1:0"), handshakes=handshakes)
        port = urlsplit(url).port

        # The event loop accepts none of them meanwhile.
        with ExitStack() as callers:
            for _ in range(AT_ONCE):
                caller = socket.create_connection(("127.0.0.1", port), timeout=0.5)
                callers.enter_context(closing(caller))


async def _hello(request: web.BaseRequest) -> web.Response:
    return web.Response(text="hello")
