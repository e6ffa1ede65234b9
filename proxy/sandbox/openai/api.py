"""The dialect of OpenAI and its family: endpoints, credential and error envelope."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from aiohttp import web

from proxy.sandbox.engine import Engine
from proxy.sandbox.files import FileStore
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.batches import Batches
from proxy.sandbox.openai.files import Files
from proxy.sandbox.openai.habits import OPENAI, Habits
from proxy.sandbox.openai.live import Live
from proxy.sandbox.openai.stored import StoredResponses
from proxy.sandbox.wire import ApiError, Reply, Route


class Part(Protocol):
    """Some of the endpoints."""

    def routes(self) -> list[Route]:
        """Return the endpoints served here."""
        ...


class OpenAIDialect:
    """Speaks the OpenAI API, as OpenAI or as a member of its family."""

    request_id_header: Final = "x-request-id"

    def __init__(
        self,
        engine: Engine,
        habits: Habits = OPENAI,
        batches: Callable[[Engine, FileStore, Habits], Part] = Batches,
    ) -> None:
        self._engine = engine
        self._habits = habits
        store = FileStore(engine.directory)
        stored = StoredResponses(engine)
        self._parts: tuple[Part, ...] = (
            Live(engine, stored, habits),
            stored,
            *((Files(engine, store, habits),) if habits.serves_files else ()),
            batches(engine, store, habits),
        )

    def routes(self) -> list[Route]:
        """Return all endpoints of the dialect."""
        return [
            replace(route, path=self._habits.path(route.path))
            for part in self._parts
            for route in part.routes()
        ]

    def credential(self, request: web.Request) -> str | None:
        """Return the key that a request carries, if any."""
        own = request.headers.get(self._habits.key_header, "")
        if own and self._habits.key_header != "Authorization":
            return own
        match = re.fullmatch(r"Bearer +(\S+)", request.headers.get("Authorization", ""))
        return match[1] if match else None

    def unauthorized(self, *, has_credential: bool) -> ApiError:
        """Return the refusal of a wrong or absent key."""
        return errors.invalid_key() if has_credential else errors.missing_key()

    def recognises(self, request: web.Request) -> bool:
        """Return whether a request speaks this dialect; OpenAI itself takes whoever is left."""
        return request.path.startswith(f"{self._habits.own}/")

    def unknown(self, method: str, path: str) -> ApiError:
        """Return the refusal of a URL that is no endpoint."""
        return errors.no_such_url(method, path)

    def refuse(self, exc: ApiError, request_id: str) -> Reply:  # noqa: ARG002 (only a header)
        """Return a refusal as this dialect words it."""
        return self._habits.refusal(exc)
