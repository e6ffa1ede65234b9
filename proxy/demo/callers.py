"""Who calls in the demo: one application for each of three APIs, all at one address.

OpenAI's speaks through the stock SDK. The other two speak their API's own wire, so that
the demo needs no SDK that the proxy itself does not.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from proxy.sandbox import answer_text, body_hash

if TYPE_CHECKING:
    import aiohttp
    from openai import AsyncOpenAI

_TAG: Final = {"X-Deferrable": "job"}


class Caller(Protocol):
    """An application that calls one API."""

    @property
    def title(self) -> str:
        """What the bill calls it."""
        ...

    @property
    def key(self) -> str:
        """Its credential, by which the provider's ledger knows it."""
        ...

    async def complete(self, prompt: str) -> str:
        """Make an ordinary call."""
        ...

    async def defer(self, prompt: str) -> str:
        """Make the same call with one more header; return the job's ID."""
        ...

    async def fetch(self, job_id: str) -> str:
        """Fetch a result by the job's ID."""
        ...

    def right_answer(self, prompt: str) -> str:
        """Return what a direct call is answered."""
        ...


@asynccontextmanager
async def callers(base_url: str) -> AsyncIterator[list[Caller]]:
    """Return one caller for each API, all of them calling `base_url`."""
    import aiohttp  # noqa: PLC0415 - these take half a second, when they are needed
    from openai import AsyncOpenAI  # noqa: PLC0415

    key = "sk-demo-of-offramp"
    async with (
        AsyncOpenAI(base_url=f"{base_url}/v1", api_key=key) as client,
        aiohttp.ClientSession(base_url) as http,
    ):
        yield [_OpenAI(client, key), *(_Plain(http, api) for api in (_ANTHROPIC, _GEMINI))]


class _OpenAI:
    """Calls with the stock SDK, and fetches with the SDK's own method."""

    title = "OpenAI"
    _MODEL: Final = "gpt-4o-mini"

    def __init__(self, client: "AsyncOpenAI", key: str) -> None:
        self.key = key
        self._client = client

    async def complete(self, prompt: str) -> str:
        answer = await self._client.chat.completions.create(**self._body(prompt))
        return answer.choices[0].message.content or ""

    async def defer(self, prompt: str) -> str:
        job = await self._client.chat.completions.create(**self._body(prompt), extra_headers=_TAG)
        return str(job.id)

    async def fetch(self, job_id: str) -> str:
        answer = await self._client.chat.completions.retrieve(job_id)
        return answer.choices[0].message.content or ""

    def right_answer(self, prompt: str) -> str:
        return answer_text(body_hash(self._body(prompt)), prompt)

    def _body(self, prompt: str) -> dict[str, Any]:
        return {"model": self._MODEL, "messages": [{"role": "user", "content": prompt}]}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Api:
    """How an API is spoken."""

    title: str
    prefix: str
    """What the paths begin with under which the proxy has this provider."""

    path: str
    headers: Mapping[str, str]
    key: str
    body: Callable[[str], dict[str, Any]]
    text: Callable[[Any], str]
    """Where an answer has its text."""

    asked: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body
    """All that is asked: with what stands in the path and not in the body."""


_ANTHROPIC_KEY: Final = "sk-ant-demo-of-offramp"
_ANTHROPIC: Final = _Api(
    title="Anthropic",
    prefix="/anthropic",
    path="/v1/messages",
    key=_ANTHROPIC_KEY,
    headers={"x-api-key": _ANTHROPIC_KEY, "anthropic-version": "2023-06-01"},
    body=lambda prompt: {
        "model": "claude-haiku-4-5",
        "max_tokens": 500,
        "messages": [{"role": "user", "content": prompt}],
    },
    text=lambda answer: str(answer["content"][0]["text"]),
)

_GEMINI_KEY: Final = "demo-of-offramp"
_GEMINI_MODEL: Final = "gemini-2.5-flash"
_GEMINI: Final = _Api(
    title="Gemini",
    prefix="/gemini",
    path=f"/v1beta/models/{_GEMINI_MODEL}:generateContent",
    key=_GEMINI_KEY,
    headers={"x-goog-api-key": _GEMINI_KEY},
    body=lambda prompt: {"contents": [{"role": "user", "parts": [{"text": prompt}]}]},
    text=lambda answer: str(answer["candidates"][0]["content"]["parts"][0]["text"]),
    asked=lambda body: {**body, "model": _GEMINI_MODEL},
)


class _Plain:
    """Calls by plain HTTP, and fetches from `/PREFIX/jobs/ID`."""

    def __init__(self, http: "aiohttp.ClientSession", api: _Api) -> None:
        self._http = http
        self._api = api

    @property
    def title(self) -> str:
        return self._api.title

    @property
    def key(self) -> str:
        return self._api.key

    async def complete(self, prompt: str) -> str:
        return self._api.text(await self._ask("POST", self._api.path, prompt))

    async def defer(self, prompt: str) -> str:
        job = await self._ask("POST", self._api.path, prompt, _TAG)
        return str(job["id"])

    async def fetch(self, job_id: str) -> str:
        return self._api.text(await self._ask("GET", f"{self._api.prefix}/jobs/{job_id}"))

    def right_answer(self, prompt: str) -> str:
        return answer_text(body_hash(self._api.asked(self._api.body(prompt))), prompt)

    async def _ask(
        self,
        method: str,
        path: str,
        prompt: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        body = None if prompt is None else self._api.body(prompt)
        async with self._http.request(
            method,
            path,
            json=body,
            headers={**self._api.headers, **(headers or {})},
            raise_for_status=True,
        ) as answer:
            return await answer.json()
