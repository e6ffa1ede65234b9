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
from proxy.core.fields import by_name, raw_headers
from proxy.core.retry_after import pause_asked_for
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
from proxy.providers.codings import Decoder
from proxy.providers.inputs import Input

CALL_S: Final = 120.0
"""Bound of one short call."""

_BYTES_PER_S: Final = 256 * 1024
"""The slowest line that an input is given time for, beyond that of a short call."""

READ_S: Final = 60.0
"""Bound of the wait for more of a result stream."""

_SLOWEST_BYTES_PER_S: Final = 1024
"""Results that come more slowly than this, for longer than `CALL_S`, are as good as none: a
gateway may send a byte now and then for as long as it waits itself."""

_ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
"""A page of 1,000 batches has about 500 KB."""


def input_s(input_bytes: int) -> float:
    """Return how many seconds a call with so large an input may take."""
    return CALL_S + input_bytes / _BYTES_PER_S


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

    async def create(
        self, what: str, credential: Credential, path: str, submission: Submission, body: Input
    ) -> bytes:
        """Return the answer to a create, sent with the headers that its jobs share."""
        _wire.check_may_send(what, submission)
        return await self.call(
            what,
            credential,
            "POST",
            path,
            headers=dict(submission.headers),
            body=body,
            within_s=input_s(submission.input_bytes),
        )

    async def upload(
        self, what: str, credential: Credential, path: str, submission: Submission, body: Input
    ) -> bytes:
        """Return the answer to an upload of the lines of a batch."""
        return await self.call(
            what, credential, "POST", path, body=body, within_s=input_s(submission.input_bytes)
        )

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
        return Answered(content, by_name(response.headers))

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
        """Yield the body of a success as it arrives.

        Raises:
            ProviderError: for anything else, and for a body that comes by drops. How long whoever
                reads it takes does not count.
        """
        request = self._request(credential, "GET", path, {}, None)
        async with self._translated(what, CALL_S):
            response = await self._client.send(request)
        try:
            if response.status != 200:
                async with self._translated(what, CALL_S):
                    content = await _read(what, response)
                raise self._refusal(what, credential, response, content)
            decoder = _decoder(what, response)
            taken, waited_s = 0, 0.0
            while True:
                begun = self._clock.monotonic()
                async with self._translated(what, READ_S):
                    chunk = await response.next_chunk()
                if not chunk:
                    return
                taken += len(chunk)
                waited_s += self._clock.monotonic() - begun
                if waited_s > CALL_S + taken / _SLOWEST_BYTES_PER_S:
                    raise _wire.unavailable(what, "it comes by drops")
                for piece in decoder.pieces(chunk):
                    yield piece
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
            raise _wire.input_changed(what, str(exc)) from None
        except TimeoutError:
            assert bound.expired(), "a TimeoutError of someone else's came through"
            reason = f"no answer within {within_s:g} s"
            raise _wire.unavailable(what, reason, sent=body is None or body.is_whole) from None

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
        elif method == "POST":
            # RFC 9110, section 8.6: without it some servers answer 411.
            fields["content-length"] = "0"
        return UpstreamRequest(
            upstream=self._upstream,
            method=method,
            target=self._upstream.target_of(path),
            headers=(
                (b"host", self._upstream.host_header),
                *raw_headers(fields),
            ),
            body=body.stream() if body is not None else None,
        )

    def _refusal(
        self, what: str, credential: Credential, response: UpstreamResponse, content: bytes
    ) -> Exception:
        retry_after = by_name(response.headers).get("retry-after")
        return _wire.refusal(
            what,
            status=response.status,
            body=content,
            retry_after=pause_asked_for(retry_after, now=self._clock.now()),
            secrets=_wire.secrets_of(credential.headers),
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """A success: its body, and its header fields by names in lower case."""

    content: bytes
    headers: Mapping[str, str]


async def _read(what: str, response: UpstreamResponse) -> bytes:
    parts, size, decoder = [], 0, _decoder(what, response)
    while chunk := await response.next_chunk():
        for part in decoder.pieces(chunk):
            size += len(part)
            if size > _ANSWER_BYTES_MAX:
                raise _wire.unavailable(what, "the answer does not end")
            parts.append(part)
    return b"".join(parts)


def _decoder(what: str, response: UpstreamResponse) -> Decoder:
    return Decoder(what, by_name(response.headers).get("content-encoding"))
