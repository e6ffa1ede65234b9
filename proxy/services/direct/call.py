"""One direct call of a job, as an ordinary client would make it."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from proxy.core.dialects import DIALECTS
from proxy.core.errors import (
    ProviderRejectedError,
    ProviderUnavailableError,
)
from proxy.core.fields import by_name, raw_headers
from proxy.core.job import Job
from proxy.core.loose_json import loose_json
from proxy.core.outcomes import ANSWER_BYTES_MAX, ANSWER_TOO_LONG, Answer
from proxy.core.retry_after import pause_asked_for
from proxy.core.upstream import Upstream
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential, Result
from proxy.ports.upstream import (
    UpstreamClient,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamUnavailableError,
)
from proxy.services.flex import asking_for

_GZIP: Final = frozenset({"gzip", "x-gzip"})
"""What servers use that heed no `Accept-Encoding` (RFC 9110, section 8.4.1.3)."""


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """A complete answer, and when the provider asks us to come back."""

    result: Result
    answer: Answer
    retry_after: timedelta | None


class DirectCaller:
    """Calls upstreams on behalf of jobs."""

    def __init__(
        self, client: UpstreamClient, upstreams: Mapping[str, Upstream], clock: Clock
    ) -> None:
        self._client = client
        self._clock = clock
        self._upstreams = upstreams

    async def call(
        self, job: Job, credential: Credential, body: bytes, *, tier_field: str | None = None
    ) -> CallAnswer:
        """Send the job's call once and return the answer, whatever its status.

        `tier_field` is the field of the body that asks for the discount tier, if that is wanted.

        Raises:
            ProviderUnavailableError: if there is no whole answer; its `sent` says
                whether the provider may have computed (and billed) one.
        """
        headers = {
            "content-type": "application/json",
            "accept": "application/json",
            **job.headers,
            **dict(job.key.headers),
            **dict(credential.headers),
        }
        if tier_field is not None:
            body = asking_for(tier_field, body)
        return await self._send(job.key.upstream, "POST", job.target, headers, body)

    async def list_models(
        self, credential: Credential, models_path: str, more_headers: Mapping[str, str]
    ) -> CallAnswer:
        """Ask for the free listing of models, by which a credential is verified."""
        headers = {"accept": "application/json", **more_headers, **dict(credential.headers)}
        return await self._send(credential.upstream, "GET", models_path, headers, None)

    async def _send(
        self,
        upstream_name: str,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> CallAnswer:
        upstream = self._upstreams.get(upstream_name)
        if upstream is None:
            raise ProviderRejectedError(
                f"upstream {upstream_name} is not configured any more", sent=False
            )
        length = {} if body is None else {"content-length": str(len(body))}
        agent = DIALECTS[upstream.dialect].user_agent
        fields = {"user-agent": agent, **headers, **length, "accept-encoding": "identity"}
        request = UpstreamRequest(
            upstream=upstream,
            method=method,
            target=target,
            headers=(
                (b"host", upstream.host_header),
                *raw_headers(fields),
            ),
            body=body,
        )
        try:
            response = await self._client.send(request)
            try:
                content = await _read(response)
            finally:
                response.close()
        except UpstreamUnavailableError as exc:
            raise ProviderUnavailableError(
                f"{method} {target} at {upstream_name}: {exc.detail}", sent=exc.sent
            ) from exc
        return _answer(response, content, now=self._clock.now())


async def _read(response: UpstreamResponse) -> bytes:
    parts = []
    size = 0
    while part := await response.next_chunk():
        size += len(part)
        if size > ANSWER_BYTES_MAX:
            # An error may be shorter the next time.
            code = ANSWER_TOO_LONG if response.status < 400 else None
            message = f"the answer is longer than {ANSWER_BYTES_MAX} bytes"
            raise ProviderUnavailableError(message, code=code)
        parts.append(part)
    return b"".join(parts)


def _inflated(content: bytes, encoding: str) -> bytes:
    """Return a body without the compression of a server that was asked for none.

    The caller fetches the answer from us, later and perhaps with other headers, and is told of no
    encoding.
    """
    if encoding.strip().lower() not in _GZIP:
        return content
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(content, ANSWER_BYTES_MAX)
    except zlib.error:
        return content
    return plain if inflater.eof else content


def _answer(response: UpstreamResponse, content: bytes, *, now: datetime) -> CallAnswer:
    found = by_name(response.headers)
    content = _inflated(content, found.get("content-encoding", ""))
    try:
        parsed: object = loose_json(content)
    except ValueError:
        parsed = None
    result = Result(
        status_code=response.status,
        body=content,
        content_type=found.get("content-type", "application/json"),
        request_id=found.get("x-request-id") or found.get("request-id"),
    )
    # Gemini tells the tier in a header, OpenAI in the body.
    tier = found.get("x-gemini-service-tier")
    answer = Answer(status=response.status, content=parsed, service_tier=tier)
    return CallAnswer(result, answer, pause_asked_for(found.get("retry-after"), now=now))
