"""The stock OpenAI SDK reading a synthesised stream, without a socket in between."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
from openai import AsyncOpenAI, OpenAI

_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8"}


class _Played(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    def __init__(self, events: list[bytes]) -> None:
        self._events = events

    def __iter__(self) -> Iterator[bytes]:
        yield from self._events

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for event in self._events:
            yield event


class Player:
    """SDK clients whose every call is answered by `events`; their types are of no interest."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        transport = httpx2.MockTransport(self._answer)
        options: dict[str, Any] = {"base_url": "http://replay/v1", "api_key": "k", "max_retries": 0}
        self.sync: Any = OpenAI(http_client=httpx2.Client(transport=transport), **options)
        self.parallel: Any = AsyncOpenAI(
            http_client=httpx2.AsyncClient(transport=transport), **options
        )

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers=_HEADERS, stream=_Played(self.events))


def without_nulls(value: Any) -> Any:
    """Return `value` with what says nothing left out, at every depth."""
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [without_nulls(one) for one in value]
    return value
