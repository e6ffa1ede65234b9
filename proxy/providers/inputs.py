"""Bodies of creates and uploads, made of a batch's lines on their way out."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping

import pydantic_core

from proxy.core.ids import BatchId
from proxy.ports.provider import Submission
from proxy.ports.upstream import BodySourceError


class Input:
    """A body that is made on its way out, of chunks of a known length between two ends.

    The last chunk is held back until the source has ended with exactly the length that
    was announced, so that nothing whole arrives that was not meant.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        chunk_bytes: int,
        *,
        head: bytes = b"",
        tail: bytes = b"",
        content_type: str = "application/json",
    ) -> None:
        self._chunks = chunks
        self._chunk_bytes = chunk_bytes
        self._head = head
        self._tail = tail
        self.content_type = content_type
        self.failure: Exception | None = None
        """Why the source gave up, in its own terms."""

        self.is_whole = False
        """Whether all of it was handed out: before that, no batch can come of it."""

    @property
    def length(self) -> int:
        """Bytes of the whole body."""
        return len(self._head) + self._chunk_bytes + len(self._tail)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body; raises `BodySourceError` before its end if the source fails."""
        seen, held = 0, self._head
        try:
            async for chunk in self._chunks:
                seen += len(chunk)
                if seen > self._chunk_bytes:
                    break
                if held:
                    yield held
                held = chunk
        except Exception as exc:
            # The client knows one error of a source; ours is raised again behind it.
            self.failure = exc
            raise BodySourceError from exc
        if seen != self._chunk_bytes:
            raise BodySourceError(f"{seen} bytes or more instead of {self._chunk_bytes}")
        self.is_whole = True
        yield held + self._tail


def small_input(content: bytes) -> Input:
    """Return a body that is there already."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield content

    return Input(chunks(), len(content))


def json_input(submission: Submission, head: bytes, tail: bytes) -> Input:
    """Return a create that carries the lines of a batch as items of a list.

    Each line begins with the comma that parts it from the one before, so that it is
    the same wherever it stands; the first comma is not sent.
    """
    return Input(
        _without_first(submission.lines()), submission.input_bytes - 1, head=head, tail=tail
    )


def json_file(submission: Submission, head: bytes, tail: bytes, content_type: str) -> Input:
    """Return an upload of the same lines as a file of JSON lines, without the commas."""
    return Input(
        _without_commas(submission.lines()),
        submission.input_bytes - submission.count,
        head=head,
        tail=tail,
        content_type=content_type,
    )


def list_item(custom_id: str, member: bytes) -> tuple[bytes, bytes]:
    """Return what stands around a body that is `member` of such an item, comma and all."""
    return b',{"custom_id":%b,"%b":' % (pydantic_core.to_json(custom_id), member), b"}\n"


def file_line(custom_id: str, endpoint: str) -> tuple[bytes, bytes]:
    """Return what stands around a body in a line of a file of OpenAI's shape."""
    name, url = pydantic_core.to_json(custom_id), pydantic_core.to_json(endpoint)
    return b'{"custom_id":%b,"method":"POST","url":%b,"body":' % (name, url), b"}\n"


def form_ends(batch_id: BatchId, fields: Mapping[str, str]) -> tuple[bytes, bytes, str]:
    """Return what stands around the file of an upload, and the type of the whole (RFC 7578)."""
    # A line holds no carriage return, so that no input can contain the boundary.
    boundary = f"offramp-{batch_id}"
    head = "".join(
        f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += (
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; '
        f'filename="{file_name(batch_id)}"\r\n'
        "content-type: application/jsonl\r\n\r\n"
    )
    tail = f"\r\n--{boundary}--\r\n"
    return head.encode(), tail.encode(), f"multipart/form-data; boundary={boundary}"


def file_name(batch_id: BatchId) -> str:
    """Return by what name the input of a batch is uploaded, and found again."""
    return f"{batch_id}.jsonl"


async def _without_first(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    is_first = True
    async for chunk in chunks:
        yield chunk[1:] if is_first else chunk
        is_first = is_first and not chunk


async def _without_commas(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    async for chunk in chunks:
        # Chunks hold whole lines, and no body holds a line feed.
        yield chunk[1:].replace(b"\n,", b"\n")
