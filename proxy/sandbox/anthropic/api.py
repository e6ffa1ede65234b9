"""Anthropic's dialect: its endpoints, its credential and its error envelope."""

import re
from typing import Final

from aiohttp import web

from proxy.sandbox.anthropic import errors
from proxy.sandbox.anthropic.batches import MessageBatches
from proxy.sandbox.anthropic.live import Live
from proxy.sandbox.engine import Engine
from proxy.sandbox.wire import ApiError, Reply, Route


class AnthropicDialect:
    """Speaks the Messages API."""

    request_id_header: Final = "request-id"

    def __init__(self, engine: Engine) -> None:
        self._parts = (Live(engine), MessageBatches(engine))

    def routes(self) -> list[Route]:
        """Return all endpoints of the dialect."""
        return [route for part in self._parts for route in part.routes()]

    def recognises(self, request: web.Request) -> bool:
        """Return whether a request speaks this dialect."""
        headers = request.headers
        return (
            request.path.startswith("/v1/messages")
            or "anthropic-version" in headers
            or "x-api-key" in headers
        )

    def credential(self, request: web.Request) -> str | None:
        """Return the key that a request carries, in either of its forms."""
        key = request.headers.get("x-api-key")
        if key:
            return str(key)
        match = re.fullmatch(r"Bearer +(\S+)", request.headers.get("Authorization", ""))
        return match[1] if match else None

    def unauthorized(self, *, has_credential: bool) -> ApiError:
        """Return the refusal of a wrong or absent key."""
        return errors.bad_key(has_credential=has_credential)

    def unknown(self, method: str, path: str) -> ApiError:  # noqa: ARG002 (it says no more)
        """Return the refusal of a URL that is no endpoint."""
        return errors.not_found("Not Found")

    def refuse(self, exc: ApiError, request_id: str) -> Reply:
        """Return a refusal as this dialect words it."""
        return errors.error_reply(exc, request_id)
