"""OpenAI's dialect: its endpoints, its credential and its error envelope."""

import re
from typing import Final

from aiohttp import web

from proxy.sandbox import openai_errors as errors
from proxy.sandbox.engine import Engine
from proxy.sandbox.files import FileStore
from proxy.sandbox.openai_batches import Batches
from proxy.sandbox.openai_files import Files
from proxy.sandbox.openai_live import Live
from proxy.sandbox.openai_stored import StoredResponses
from proxy.sandbox.wire import ApiError, Reply, Route


class OpenAIDialect:
    """Speaks the OpenAI API."""

    request_id_header: Final = "x-request-id"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        store = FileStore(engine.directory)
        stored = StoredResponses(engine)
        self._parts = (
            Live(engine, stored),
            stored,
            Files(engine, store),
            Batches(engine, store),
        )

    def routes(self) -> list[Route]:
        """Return all endpoints of the dialect."""
        return [route for part in self._parts for route in part.routes()]

    def credential(self, request: web.Request) -> str | None:
        """Return the key that a request carries, if any."""
        match = re.fullmatch(r"Bearer +(\S+)", request.headers.get("Authorization", ""))
        return match[1] if match else None

    def unauthorized(self, *, has_credential: bool) -> ApiError:
        """Return the refusal of a wrong or absent key."""
        return errors.invalid_key() if has_credential else errors.missing_key()

    def recognises(self, request: web.Request) -> bool:  # noqa: ARG002 (whoever is left)
        """Return whether a request speaks this dialect."""
        return True

    def unknown(self, method: str, path: str) -> ApiError:
        """Return the refusal of a URL that is no endpoint."""
        return errors.no_such_url(method, path)

    def refuse(self, exc: ApiError, request_id: str) -> Reply:  # noqa: ARG002 (only a header)
        """Return a refusal as this dialect words it."""
        return errors.error_reply(exc)
