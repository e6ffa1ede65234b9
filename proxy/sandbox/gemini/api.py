"""Gemini's dialect: its endpoints, its credential and its error envelope."""

import re
from typing import Final

from aiohttp import web

from proxy.sandbox.engine import Engine
from proxy.sandbox.files import FileStore
from proxy.sandbox.gemini import errors
from proxy.sandbox.gemini.batches import Batches
from proxy.sandbox.gemini.files import Files
from proxy.sandbox.gemini.live import Live
from proxy.sandbox.wire import ApiError, Reply, Route

_PATHS: Final = re.compile(
    r"(?:/upload|/download)?/v1beta(?:/.*)?|/(?:upload|download)/v1/.*"
    r"|/v1/(?:models|batches)/[^/:]+:[A-Za-z]+",
    re.DOTALL,
)


class GeminiDialect:
    """Speaks the Gemini API."""

    request_id_header: Final = "x-request-id"

    def __init__(self, engine: Engine) -> None:
        store = FileStore(engine.directory)
        self._files = Files(engine, store)
        self._parts = (Live(engine), self._files, Batches(engine, store))

    def routes(self) -> list[Route]:
        """Return all endpoints of the dialect."""
        return [route for part in self._parts for route in part.routes()]

    def recognises(self, request: web.Request) -> bool:
        """Return whether a request speaks this dialect."""
        return (
            bool(_PATHS.fullmatch(request.path))
            or "x-goog-api-key" in request.headers
            or "key" in request.query
        )

    def credential(self, request: web.Request) -> str | None:
        """Return the key that a request carries, in any of its forms."""
        key = request.headers.get("x-goog-api-key") or request.query.get("key")
        if key:
            return str(key)
        match = re.fullmatch(r"Bearer +(\S+)", request.headers.get("Authorization", ""))
        # The address of an upload that was begun is as good as the key that began it.
        return match[1] if match else self._files.key_of(request.query.get("upload_id"))

    def unauthorized(self, *, has_credential: bool) -> ApiError:
        """Return the refusal of a wrong or absent key."""
        return errors.bad_key() if has_credential else errors.no_key()

    def unknown(self, method: str, path: str) -> ApiError:  # noqa: ARG002 (it says no more)
        """Return the refusal of a URL that is no endpoint."""
        return errors.not_found("The requested URL was not found on this server.")

    def refuse(self, exc: ApiError, request_id: str) -> Reply:  # noqa: ARG002 (only a header)
        """Return a refusal as this dialect words it."""
        return errors.error_reply(exc)
