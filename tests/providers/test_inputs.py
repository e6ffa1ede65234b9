"""The body of a create on its way, and what a failure on the way means."""

import json
from collections.abc import AsyncIterator

import pytest

from proxy.core.errors import StoreUnavailableError
from proxy.ports.provider import Submission
from proxy.ports.upstream import BodySourceError
from proxy.providers.inputs import Input, json_file, json_input
from tests.providers.kit import make_batch_id, opener

LINES = [b',{"custom_id":"a","params":{}}\n', b',{"custom_id":"b","params":{"x":[1]}}\n']


HEAD, TAIL = b'{"requests":[', b"]}"


def submission(chunks: list[bytes], *, difference: int = 0) -> Submission:
    return Submission(
        batch_id=make_batch_id(),
        endpoint="/v1/messages",
        model="m",
        headers=(),
        count=len(LINES),
        input_bytes=sum(map(len, LINES)) + difference,
        lines=opener(chunks),
    )


async def read(body: Input) -> bytes:
    return b"".join([piece async for piece in body.stream()])


@pytest.mark.parametrize("chunks", [LINES, [b"".join(LINES)], [b"", *LINES]])
async def test_the_lines_become_one_body_of_the_announced_length(chunks):
    body = json_input(submission(chunks), HEAD, TAIL)

    sent = await read(body)

    assert len(sent) == body.length
    assert json.loads(sent) == {
        "requests": [
            {"custom_id": "a", "params": {}},
            {"custom_id": "b", "params": {"x": [1]}},
        ]
    }
    assert body.is_whole


@pytest.mark.parametrize("chunks", [LINES, [b"".join(LINES)], [b"", *LINES]])
async def test_as_a_file_they_have_no_commas_between_them(chunks):
    body = json_file(submission(chunks), b"<", b">", "text/plain")

    sent = await read(body)

    assert len(sent) == body.length
    assert sent == b"<" + b"".join(line[1:] for line in LINES) + b">"
    assert body.content_type == "text/plain"


@pytest.mark.parametrize("difference", [-1, 1])
async def test_a_source_of_another_length_never_gives_a_whole_body(difference):
    body = json_input(submission(LINES, difference=difference), HEAD, TAIL)
    pieces: list[bytes] = []

    async def send() -> None:
        async for piece in body.stream():
            pieces.append(piece)  # noqa: PERF401 (what came before the failure counts)

    with pytest.raises(BodySourceError):
        await send()

    assert not body.is_whole
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(b"".join(pieces))


async def test_the_failure_of_a_source_is_kept_in_its_own_terms():
    async def broken() -> AsyncIterator[bytes]:
        yield LINES[0]
        raise StoreUnavailableError("away")

    body = Input(broken(), 100)

    with pytest.raises(BodySourceError):
        await read(body)
    assert isinstance(body.failure, StoreUnavailableError)
