import asyncio
import socket

import pytest

from proxy.core.upstream import Upstream
from proxy.ports.upstream import Cause, Phase, UpstreamRequest, UpstreamUnavailableError
from proxy.upstreams.sending import let_news_be_read, may_repeat

UPSTREAM = Upstream.parse("up", "openai", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("method", "body", "phase", "cause", "reused", "again"),
    [
        ("GET", None, Phase.FIRST_BYTE, "reset", True, True),
        ("HEAD", b"", Phase.FIRST_BYTE, "reset", True, True),
        ("GET", None, Phase.FIRST_BYTE, "reset", False, False),
        ("GET", None, Phase.FIRST_BYTE, "timeout", True, False),
        ("GET", None, Phase.IDLE, "reset", True, False),
        ("GET", b"body", Phase.FIRST_BYTE, "reset", True, False),
        ("POST", None, Phase.FIRST_BYTE, "reset", True, False),
    ],
)
def test_only_what_buys_nothing_twice_is_sent_again(
    method: str, body: bytes | None, phase: Phase, cause: Cause, reused: bool, again: bool
) -> None:
    request = UpstreamRequest(UPSTREAM, method, "/v1/models", body=body)
    error = UpstreamUnavailableError("up is gone", phase=phase, cause=cause, sent=True)

    assert may_repeat(request, error, reused=reused) is again


async def test_what_has_arrived_is_read_before_more_is_written() -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    read: list[bytes] = []
    with ours, theirs:
        ours.setblocking(False)
        loop.add_reader(ours, lambda: read.append(ours.recv(100)))
        theirs.send(b"413")

        await let_news_be_read()

        loop.remove_reader(ours)
    assert read == [b"413"]
