"""A server that answers what it is told to, for wire shapes that were recorded."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.providers.kit import serving


@dataclass
class Recorded:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Recorder:
    """A server that answers what it is told to, and records what it is asked."""

    base_url: str = ""
    answers: list[web.Response] = field(default_factory=list)
    asked: list[Recorded] = field(default_factory=list)

    def answer(self, value: Any = None, *, status: int = 200, **more: Any) -> None:
        if isinstance(value, str):
            self.answers.append(web.Response(text=value, status=status, **more))
        else:
            self.answers.append(web.json_response(value, status=status, **more))

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append(Recorded(request.method, request.raw_path, headers, await request.read()))
        return self.answers.pop(0)

    @classmethod
    @asynccontextmanager
    async def serving(cls) -> AsyncIterator["Recorder"]:
        """One that listens."""
        made = cls()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", made.handle)
        async with serving(app) as made.base_url:
            yield made
