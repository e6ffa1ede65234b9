"""Speak to a proxy as a caller does: defer a call, wait for jobs, fetch their results."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import aiohttp

from proxy.core.dialects import DIALECTS
from proxy.core.refusals import error_in
from proxy.core.statuses import PENDING
from proxy.send.errors import KeyRefusedError, SendError
from proxy.send.lines import GEMINI_OPENAI, Line
from proxy.system_words import system_words

_TIMEOUT: Final = aiohttp.ClientTimeout(total=120, sock_connect=10)
_TRIES: Final = 10
_TRIES_KNOWN: Final = 130
"""Tries for a proxy that has answered before: an hour. A deployment, or a machine that restarts,
must not end a command that waits for batches overnight."""

_PAUSE_MIN_S: Final = 1.0
_PAUSE_MAX_S: Final = 30.0

_TOLD_AFTER: Final = 2
"""Tries; what is over by then is nobody's trouble."""

_BUSY: Final = frozenset({408, 429})
"""Beside 5xx: statuses of a moment. A body that came too slowly comes faster alone."""

_AWAY: Final = frozenset({429, 502, 503, 504})
"""How a proxy answers, or what stands before it, while it or its store is away or full."""

_TRUST: Final = "SSL_CERT_FILE names a file of the authorities that are trusted"

_REFUSES_ALL: Final = frozenset({401, 403, 421})
"""Statuses that would meet every other line as well."""

_RESULTS: Final = "/v1/jobs/results"
_NOBODY: Final = "job_of_nobody"
"""No job is called so, and a proxy says that it has none."""

_NO_PROXY: Final = ": is this an offramp?"
_CHECK: Final = "check --url; it is where the proxy listens, without a provider's prefix"

_COMPLETED: Final = "completed"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a line became no job, as the caller of the call would see it."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """What a proxy knows of one job: its line of JSON, and how it stands."""

    raw: bytes
    status: str | None
    """Nothing if there is no such job (any more)."""

    status_code: int | None
    message: str | None
    """What went wrong with a failed one, on one line."""

    @property
    def is_pending(self) -> bool:
        return self.status in PENDING

    @property
    def is_lost(self) -> bool:
        """Whether there was an answer that nobody can have any more."""
        return self.status is None or (self.status == _COMPLETED and self.status_code is None)


class _Reply(NamedTuple):
    """An answer that is one."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Trouble(NamedTuple):
    """Why a post got none, this time."""

    what: str
    is_away: bool = True
    """Whether the proxy or its store cannot be reached: it may be restarting then."""

    retry_after_s: float = 0.0


class Remote:
    """One proxy. `keys` maps providers to their API keys."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        keys: Mapping[str, str],
        headers: Mapping[str, str],
        dialects: Mapping[str, str] | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        on_trouble: Callable[[str], object] = lambda _trouble: None,
    ) -> None:
        """`headers` are sent with every call, e.g. its deadline.

        `on_trouble` is told in words what does not pass by itself at once.

        `dialects` has those of the upstreams that are known, by their names; that of
        another one follows from the path of a call. `sleep` takes seconds.
        """
        self._dialects = dialects or {}
        self._sleep = sleep
        self._on_trouble = on_trouble
        self._is_known = False
        self._session = session
        self._url = url.rstrip("/")
        self._keys = keys
        self._headers = {"Content-Type": "application/json", "X-Deferrable": "job", **headers}

    async def meet(self, provider: str) -> None:
        """Make sure that answers can be collected there, before any is bought.

        Raises:
            SendError: if they cannot, as from a provider or with a prefix in the URL.
        """
        body = json.dumps({"ids": [_NOBODY]}).encode()
        status, _, text = await self._post(_RESULTS, body, self._credential(provider))
        if status in _REFUSES_ALL:
            raise KeyRefusedError(f"{provider}: HTTP {status}: {message_of(text)}")
        if status != 200 or _object(text).get("id") != _NOBODY:
            raise SendError(f"HTTP {status} for {self._url}{_RESULTS}{_NO_PROXY}", hint=_CHECK)

    async def defer(self, line: Line, key: str) -> str | Refusal:
        """Make the line a job, or find the one that `key` stands for; return its ID.

        Raises:
            SendError: if nothing can be sent, or not with this API key.
        """
        headers = {
            **self._headers,
            **self._credential(line.provider, line.dialect),
            "Idempotency-Key": key,
        }
        status, answer_headers, body = await self._post(line.url, line.body, headers)
        job = answer_headers.get("X-Deferrable-Job")
        if status < 300 and job is not None:
            return job
        if status in _REFUSES_ALL:
            raise KeyRefusedError(f"{line.provider}: HTTP {status}: {message_of(body)}")
        if status < 400 or (status == 404 and not _object(body)):
            raise SendError(f"HTTP {status} without a job{_NO_PROXY}", hint=_CHECK)
        return Refusal(status, body)

    async def results(self, provider: str, jobs: Sequence[str]) -> list[Answered]:
        """Return what is known of each job, in the order asked for.

        Raises:
            SendError: if the proxy does not say.
        """
        body = json.dumps({"ids": list(jobs)}).encode()
        status, _, text = await self._post(_RESULTS, body, self._credential(provider))
        if status != 200:
            raise SendError(f"HTTP {status}: {message_of(text)}")
        found = [_answered(raw) for raw in text.split(b"\n") if raw]
        if len(found) != len(jobs):
            raise SendError(f"asked for {len(jobs)} results, got {len(found)}")
        return found

    async def wait(self, provider: str, job: str, *, for_s: int) -> None:
        """Return when the job has ended, or after some time, whichever comes first.

        That is a second at least: who holds too many waiters, or is about to stop,
        answers at once.
        """
        pause_s = _PAUSE_MIN_S
        try:
            async with self._session.get(
                f"{self._url}/v1/jobs/{job}?wait={for_s}",
                headers=self._credential(provider),
                timeout=_TIMEOUT,
                allow_redirects=False,
            ) as answer:
                text = await answer.read()
            if answer.status == 200 and _status_of(text) not in PENDING:
                return
            pause_s = max(pause_s, _seconds(answer.headers.get("Retry-After")))
        except (aiohttp.ClientError, TimeoutError):
            # Asking again will tell.
            pass
        await self._sleep(min(pause_s, _PAUSE_MAX_S))

    async def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> _Reply:
        """Post until there is an answer that is one: every post here may be repeated.

        Raises:
            SendError: if none comes for too long, or none ever will.
        """
        tries = failures = 0
        while True:
            reply = await self._try(path, body, headers)
            if isinstance(reply, _Reply):
                self._is_known = True
                return reply
            tries += 1
            failures += not (reply.is_away and self._is_known)
            if tries > _TOLD_AFTER:
                self._on_trouble(f"no answer from {self._url} yet: {reply.what}")
            if failures == _TRIES or tries == _TRIES_KNOWN:
                raise SendError(
                    f"no answer from {self._url}: {reply.what}",
                    hint="once there is one, the same command goes on",
                )
            await self._sleep(min(max(reply.retry_after_s, 0.1 * 2**tries), _PAUSE_MAX_S))

    async def _try(self, path: str, body: bytes, headers: Mapping[str, str]) -> _Reply | _Trouble:
        """Post once."""
        try:
            # A redirect would carry key and call wherever it points.
            async with self._session.post(
                self._url + path,
                data=body,
                headers=headers,
                timeout=_TIMEOUT,
                allow_redirects=False,
            ) as answer:
                text = await answer.read()
        except aiohttp.ClientConnectorCertificateError as exc:
            raise SendError(f"{self._url}: {exc.certificate_error}", hint=_TRUST) from exc
        except (aiohttp.ClientError, TimeoutError) as exc:
            return _Trouble(_in_words(exc))
        if answer.status not in _BUSY and answer.status < 500:
            return _Reply(answer.status, answer.headers, text)
        return _Trouble(
            f"HTTP {answer.status}: {message_of(text)}",
            is_away=answer.status in _AWAY,
            retry_after_s=_seconds(answer.headers.get("Retry-After")),
        )

    def _credential(self, provider: str, path_dialect: str = "openai") -> dict[str, str]:
        """Return the headers that a call to the provider wants; about a job, any will do."""
        if path_dialect == GEMINI_OPENAI:
            # It is also reached by an upstream of Gemini's own API, whose keys are no bearers.
            named = path_dialect
        else:
            known = provider if provider in DIALECTS else path_dialect
            named = self._dialects.get(provider, known)
        dialect = DIALECTS[named]
        return dict([dialect.key_header(self._keys[provider]), *dialect.listing_headers])


def message_of(body: bytes) -> str:
    """Return the message of an error in any provider's shape, on one line."""
    try:
        error = error_in(json.loads(body))
    except (ValueError, RecursionError):
        error = None
    message = error.get("message") if isinstance(error, dict) else None
    text = message if isinstance(message, str) else body[:200].decode("utf-8", "replace")
    return _on_one_line(text)


def _on_one_line(text: str) -> str:
    """Return what no terminal obeys: a provider wrote it, or somebody through it."""
    return "".join(char if char.isprintable() else " " for char in text)


def _answered(raw: bytes) -> Answered:
    content = _object(raw)
    if "status" not in content:
        raise SendError(f"an answer that is none to be collected{_NO_PROXY}", hint=_CHECK)
    response, error = content.get("response"), content.get("error")
    status_code = response.get("status_code") if isinstance(response, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    message = _on_one_line(message) if isinstance(message, str) else None
    if message is None and response and isinstance(status_code, int) and status_code >= 400:
        message = message_of(json.dumps(response.get("body")).encode())
    return Answered(raw, content.get("status"), status_code, message)


def _status_of(job: bytes) -> object:
    """Return how a job stands; what cannot be read is taken for pending."""
    return _object(job).get("status", "queued")


def _object(text: bytes) -> dict[str, Any]:
    """Return the object that it is; an empty one if it is none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isdecimal() else 0.0


def _in_words(error: aiohttp.ClientError | TimeoutError) -> str:
    # The library's own words for a refused connection to `http://…` speak of SSL.
    if isinstance(error, aiohttp.ClientConnectorError):
        return system_words(error.os_error)
    return str(error) or type(error).__name__
