import asyncio
import io
import os
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from proxy.providers.upload_body import CHUNKS_AHEAD, UploadBody, WrongLengthError
from proxy.providers.worker import AbortedError
from tests.helpers.raw_upstream import wait_until
from tests.providers.kit import opener


async def sent(body: UploadBody, chunks: Sequence[bytes], size: int = 7) -> bytes:
    """Read the body in a thread, as the client does, while it is filled."""
    got = bytearray()
    failure: WrongLengthError | None = None

    def send() -> None:
        while part := body.read(size):
            assert len(part) <= size
            got.extend(part)

    async with asyncio.TaskGroup() as group:
        filling = group.create_task(body.fill(opener(chunks)()))
        try:
            await asyncio.to_thread(send)
        except WrongLengthError as exc:
            exc.add_note(bytes(got).decode())
            failure = exc
        filling.cancel()
    if failure:
        raise failure
    return bytes(got)


async def test_what_goes_in_comes_out():
    chunks = [b"one\n", b"", b"two\nthree\n", b"4" * 100]

    assert await sent(UploadBody(114), chunks) == b"".join(chunks)


@pytest.mark.parametrize("length", [9, 11, 5, 1_000])
async def test_another_length_than_announced_never_becomes_a_whole_file(length):
    with pytest.raises(WrongLengthError) as failure:
        await sent(UploadBody(length), [b"12345", b"67890"])

    handed_out = failure.value.__notes__[0]
    assert len(handed_out) < length


async def test_the_source_is_read_only_a_few_chunks_ahead():
    opened = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal opened
        for _ in range(100):
            opened += 1
            yield b"x"

    body = UploadBody(100)
    async with asyncio.TaskGroup() as group:
        filling = group.create_task(body.fill(source()))
        await wait_until(lambda: opened > CHUNKS_AHEAD)
        assert opened == CHUNKS_AHEAD + 1

        assert await asyncio.to_thread(body.read, 1) == b"x"
        await wait_until(lambda: opened == CHUNKS_AHEAD + 2)
        filling.cancel()


async def test_an_abort_wakes_a_reader_that_waits():
    body, ended = UploadBody(10), threading.Event()

    def send() -> None:
        with pytest.raises(AbortedError):
            body.read(10)
        ended.set()

    thread = threading.Thread(target=send)
    thread.start()
    body.abort()
    await wait_until(ended.is_set)
    thread.join()

    with pytest.raises(AbortedError):
        body.read(10)


async def test_it_tells_its_length_as_a_file_would_and_cannot_go_back():
    body = UploadBody(4)

    assert body.tell() == 0
    assert body.seek(0, os.SEEK_END) == 4
    assert body.seek(0) == 0
    async with asyncio.TaskGroup() as group:
        group.create_task(body.fill(opener([b"abcd"])()))
        assert await asyncio.to_thread(body.read, 3) == b"abc"
    assert body.tell() == 3
    with pytest.raises(io.UnsupportedOperation):
        body.seek(0)
