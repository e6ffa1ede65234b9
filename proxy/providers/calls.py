"""Calls to batch APIs over the client that also carries forwarded calls.

Each is sent once. Every one has a connection of its own: a create that meets a
kept connection just as it dies is ambiguous, and here nothing could tell what
became of it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from proxy.core.errors import ProviderRejectedError
from proxy.core.upstream import Upstream
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential
from proxy.ports.provider import Submission
from proxy.ports.upstream import (
    BodySourceError,
    UpstreamClient,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamUnavailableError,
)
from proxy.providers import _wire

CALL_S: Final = 120.0
"""Bound of one short call."""

READ_S: Final = 60.0
"""Bound of the wait for more of a result stream."""

_ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
"""A page of 1,000 batches has about 500 KB."""


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


async def _without_first(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    is_first = True
    async for chunk in chunks:
        yield chunk[1:] if is_first else chunk
        is_first = is_first and not chunk


async def _without_commas(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    async for chunk in chunks:
        # Chunks hold whole lines, and no body holds a line feed.
        yield chunk[1:].replace(b"\n,", b"\n")


class Calls:
    """Sends to one upstream, and translates what comes back.

    `headers` go with every call, unless it has others of these names.
    """

    def __init__(
        self,
        upstream: Upstream,
        client: UpstreamClient,
        clock: Clock,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._upstream = upstream
        self._client = client
        self._clock = clock
        self._headers = dict(headers or {})

    async def call(
        self,
        what: str,
        credential: Credential,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Input | None = None,
        within_s: float = CALL_S,
    ) -> bytes:
        """Return the body of a success.

        Raises:
            ProviderError: for anything else; its `sent` is false if a body was
                given and did not get out whole.
        """
        answer = await self.exchange(
            what, credential, method, path, headers=headers, body=body, within_s=within_s
        )
        return answer.content

    async def exchange(
        self,
        what: str,
        credential: Credential,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Input | None = None,
        within_s: float = CALL_S,
    ) -> "Answered":
        """Return a success with its headers; raises as `call` does."""
        async with self._translated(what, within_s, body):
            request = self._request(credential, method, path, headers or {}, body)
            response = await self._client.send(request)
            try:
                content = await _read(what, response)
            finally:
                response.close()
        if not 200 <= response.status < 300:
            raise self._refusal(what, credential, response, content)
        return Answered(content, _fields(response))

    async def delete(self, what: str, credential: Credential, path: str) -> None:
        """Delete something; what is gone already is no error."""
        try:
            await self.call(what, credential, "DELETE", path)
        except ProviderRejectedError as exc:
            if exc.status_code != 404:
                raise

    async def stream(
        self, what: str, credential: Credential, path: str
    ) -> AsyncGenerator[bytes, None]:
        """Yield the body of a success as it arrives."""
        request = self._request(credential, "GET", path, {}, None)
        async with self._translated(what, CALL_S):
            response = await self._client.send(request)
        try:
            if response.status != 200:
                async with self._translated(what, CALL_S):
                    content = await _read(what, response)
                raise self._refusal(what, credential, response, content)
            while True:
                async with self._translated(what, READ_S):
                    chunk = await response.next_chunk()
                if not chunk:
                    return
                yield chunk
        finally:
            response.close()

    @asynccontextmanager
    async def _translated(
        self, what: str, within_s: float, body: Input | None = None
    ) -> AsyncIterator[None]:
        # Without causes: they may hold the request, and so the credential.
        try:
            async with asyncio.timeout(within_s) as bound:
                yield
        except UpstreamUnavailableError as exc:
            raise _wire.unavailable(
                what, f"{exc.phase.value}: {exc.cause}", sent=exc.sent
            ) from None
        except BodySourceError as exc:
            if body is not None and body.failure is not None:
                raise body.failure from None
            reason = f"the input has another length: {exc}"
            raise _wire.unavailable(what, reason, sent=False) from None
        except TimeoutError:
            assert bound.expired(), "a TimeoutError of someone else's came through"
            reason = f"no answer within {within_s:g} s"
            raise _wire.unavailable(what, reason, sent=_is_whole(body)) from None

    def _request(
        self,
        credential: Credential,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Input | None,
    ) -> UpstreamRequest:
        fields = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "connection": "close",
            "user-agent": "offramp",
            **self._headers,
            **headers,
            **dict(credential.headers),
        }
        if body is not None:
            fields |= {"content-type": body.content_type, "content-length": str(body.length)}
        return UpstreamRequest(
            upstream=self._upstream,
            method=method,
            target=self._upstream.target_of(path),
            headers=(
                (b"host", self._upstream.host_header),
                *((name.encode("latin-1"), v.encode("latin-1")) for name, v in fields.items()),
            ),
            body=body.stream() if body is not None else None,
        )

    def _refusal(
        self, what: str, credential: Credential, response: UpstreamResponse, content: bytes
    ) -> Exception:
        pause = _fields(response).get("retry-after")
        values = [value for _, value in credential.headers]
        return _wire.refusal(
            what,
            status=response.status,
            body=content,
            retry_after_s=_wire.retry_after_s(pause, now=self._clock.now()),
            secrets=tuple({part for v in values for part in (v, v.split(" ")[-1]) if part}),
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """A success: its body, and its header fields by names in lower case."""

    content: bytes
    headers: Mapping[str, str]


def _fields(response: UpstreamResponse) -> Mapping[str, str]:
    return {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
    }


def _is_whole(body: Input | None) -> bool:
    return body is None or body.is_whole


async def _read(what: str, response: UpstreamResponse) -> bytes:
    parts, size = [], 0
    while part := await response.next_chunk():
        size += len(part)
        if size > _ANSWER_BYTES_MAX:
            raise _wire.unavailable(what, "the answer does not end")
        parts.append(part)
    return b"".join(parts)
