"""What is no whole answer never becomes one on its way."""

import pytest

from proxy.ports.upstream import ClientLimits
from proxy.web.forwarding.relay import Outcome
from tests.helpers.raw_upstream import RawCaller, RawConnection, RawUpstream, wait_until
from tests.web.transparency.harness import CLIENTS, running_proxy
from tests.web.transparency.malformed import MALFORMED, Malformed

POST = b"POST /up/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


def test_the_table_is_large_and_its_rows_are_told_apart():
    assert len(MALFORMED) >= 60
    assert len({row.name for row in MALFORMED}) == len(MALFORMED)
    assert all("lean" not in row.read_by for row in MALFORMED)


CASES = [
    pytest.param(row, client, cut, id=f"{client}-{row.name.replace(' ', '_')}-{cut}")
    for row in MALFORMED
    for client in CLIENTS
    if client not in row.read_by
    for cut in ("at_once", "byte_by_byte")
    if cut == "at_once" or len(row.reply) < 1000
]


@pytest.mark.parametrize(("row", "client", "cut"), CASES)
async def test_it_reaches_nobody_as_a_whole_answer(row: Malformed, client: str, cut: str):
    step = 1 if cut == "byte_by_byte" else len(row.reply) or 1

    async def script(connection: RawConnection) -> None:
        await connection.request()
        for at in range(0, len(row.reply), step):
            await connection.send(row.reply[at : at + step])

    limits = ClientLimits(first_byte_s=5, idle_s=5)
    async with (
        RawUpstream(script) as upstream,
        running_proxy(upstream.port, CLIENTS[client], limits=limits) as proxy,
        RawCaller(proxy.port) as caller,
    ):
        await caller.send(POST)
        answer = await caller.response()
        while answer.head.startswith(b"HTTP/1.1 1"):
            answer = await caller.response()

        refused = answer.head.startswith(b"HTTP/1.1 502 ")
        assert refused or not answer.complete
        await wait_until(lambda: proxy.done, "the record")
        assert proxy.done[0].outcome is (Outcome.REFUSED if refused else Outcome.BROKEN)
        # A paid call is not sent again to see whether it goes better.
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("client", CLIENTS)
async def test_what_is_injected_behind_an_answer_answers_nobody(client: str):
    """Two answers where one was due: the second is not given to the next caller."""
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"

    async def script(connection: RawConnection) -> None:
        while True:
            request = await connection.request()
            await connection.send(ok + request.body + ok + b"no")

    async with (
        RawUpstream(script) as upstream,
        running_proxy(upstream.port, CLIENTS[client]) as proxy,
        RawCaller(proxy.port) as caller,
    ):
        for body in (b"01", b"02", b"03"):
            await caller.send(POST.replace(b"{}", body))
            assert (await caller.response()).body == body
        assert len(upstream.connections) == 3
