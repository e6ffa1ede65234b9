"""Parts of answers are kept as they pass, and their readers get all the same."""

import gzip
import json
from typing import Any

import pytest

from proxy.services.traffic.kept import Room, usage_in
from proxy.web.forwarding.tap import TappedResponse, tapped
from tests.helpers.raw_upstream import RawConnection, wait_until
from tests.web.stage import POST, stage
from tests.web.transparency.harness import CLIENTS

BODY = json.dumps({"usage": {"prompt_tokens": 12, "completion_tokens": 5}}).encode()
STREAM = b'data: {"a":1}\n\n' * 3_000 + b"data: " + BODY + b"\n\ndata: [DONE]\n\n"


class Answer:
    """An answer with nothing but a head."""

    def __init__(self, status: int = 200, **headers: str) -> None:
        self.status = status
        self.framed = False
        self.headers = tuple(
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        )


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("chunked", [False, True])
async def test_what_passes_is_kept_and_what_arrives_is_the_same(client, chunked):
    pieces = [STREAM[at : at + 1_000] for at in range(0, len(STREAM), 1_000)]

    async def script(connection: RawConnection) -> None:
        await connection.request()
        if chunked:
            await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in pieces:
                await connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await connection.send(b"0\r\n\r\n")
        else:
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(STREAM)
            await connection.send(head)
            for piece in pieces:
                await connection.send(piece)

    async with stage(script, CLIENTS[client], tapped=True) as (_, proxy, caller):
        await caller.send(POST)
        answer = await caller.response()
        await wait_until(lambda: proxy.done, "the record of the call")

    assert answer.body == STREAM
    (kept,) = proxy.kept
    assert len(kept.head) + len(kept.tail) < len(STREAM)
    assert usage_in(kept).usage == {"prompt_tokens": 12, "completion_tokens": 5}


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (500, {"content_type": "application/json"}),
        (200, {"content_type": "image/png"}),
        (200, {}),
        (101, {"content_type": "application/json"}),
    ],
)
def test_an_answer_that_has_no_usage_passes_untouched(status, headers):
    answer: Any = Answer(status, **headers)

    assert tapped(answer, Room()) == (answer, None)


def test_a_compressed_answer_is_kept_as_it_is():
    answer: Any = Answer(Content_Type="application/json; charset=utf-8", CONTENT_ENCODING="gzip")

    response, kept = tapped(answer, Room())

    assert isinstance(response, TappedResponse)
    assert kept is not None
    kept.add(gzip.compress(BODY))
    assert usage_in(kept).usage == {"prompt_tokens": 12, "completion_tokens": 5}
