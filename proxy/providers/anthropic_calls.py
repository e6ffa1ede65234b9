"""Calls to Anthropic's API over the client that also carries forwarded calls.

Each is sent once. Every one has a connection of its own: a create that meets a
kept connection just as it dies is ambiguous, and here nothing could tell what
became of it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from proxy.core.dialects import ANTHROPIC_VERSION
from proxy.core.routing import Upstream
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential
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
    """The body of a create, made of the batch's lines on its way out.

    The last bytes are held back until the source has ended with exactly the length
    that was announced, so that nothing whole arrives that was not meant.
    """

    _HEAD: Final = b'{"requests":['
    _TAIL: Final = b"]}"

    def __init__(self, lines: AsyncIterator[bytes], input_bytes: int) -> None:
        self._lines = lines
        self._input_bytes = input_bytes
        self.failure: Exception | None = None
        """Why the source gave up, in its own terms."""

        self.is_whole = False
        """Whether all of it was handed out: before that, no batch can come of it."""

    @property
    def length(self) -> int:
        """Bytes of the whole body. The comma before the first line is not sent."""
        return len(self._HEAD) + self._input_bytes - 1 + len(self._TAIL)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body; raises `BodySourceError` before its end if the source fails."""
        seen = 0
        try:
            async for chunk in self._lines:
                first = seen == 0 and bool(chunk)
                seen += len(chunk)
                if seen > self._input_bytes:
                    break
                yield self._HEAD + chunk[1:] if first else chunk
        except Exception as exc:
            # The client knows one error of a source; ours is raised again behind it.
            self.failure = exc
            raise BodySourceError from exc
        if seen != self._input_bytes:
            raise BodySourceError(f"{seen} bytes or more instead of {self._input_bytes}")
        self.is_whole = True
        yield self._TAIL


class AnthropicCalls:
    """Sends to one upstream, and translates what comes back."""

    def __init__(self, upstream: Upstream, client: UpstreamClient, clock: Clock) -> None:
        self._upstream = upstream
        self._client = client
        self._clock = clock

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
        async with self._translated(what, within_s, body):
            request = self._request(credential, method, path, headers or {}, body)
            response = await self._client.send(request)
            try:
                content = await _read(what, response)
            finally:
                response.close()
        if not 200 <= response.status < 300:
            raise self._refusal(what, credential, response, content)
        return content

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
            "anthropic-version": ANTHROPIC_VERSION,
            "connection": "close",
            "user-agent": "offramp",
            **headers,
            **dict(credential.headers),
        }
        if body is not None:
            fields |= {"content-type": "application/json", "content-length": str(body.length)}
        return UpstreamRequest(
            upstream=self._upstream,
            method=method,
            target=self._upstream.base_path + path,
            headers=(
                (b"host", self._upstream.host_header),
                *((name.encode("latin-1"), v.encode("latin-1")) for name, v in fields.items()),
            ),
            body=body.stream() if body is not None else None,
        )

    def _refusal(
        self, what: str, credential: Credential, response: UpstreamResponse, content: bytes
    ) -> Exception:
        found = {name.lower(): value for name, value in response.headers}
        pause = found.get(b"retry-after", b"").decode("latin-1")
        values = [value for _, value in credential.headers]
        return _wire.refusal(
            what,
            status=response.status,
            body=content,
            retry_after_s=_wire.retry_after_s(pause, now=self._clock.now()),
            secrets=tuple({part for v in values for part in (v, v.split(" ")[-1]) if part}),
        )


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
