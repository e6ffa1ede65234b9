"""What the wire families differ in, as tables: paths, credentials, error envelopes.

A clone of the OpenAI API is a row here and no code. What a batch needs beyond
the row (files, states, result lines) is the provider adapter's.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from proxy.core.errors import CallerError, OverloadedError, ProxyError

RawHeaders = tuple[tuple[bytes, bytes], ...]
"""Header fields as they arrived: order, case and duplicates kept."""


class Shape(StrEnum):
    """Which API an endpoint speaks: decides required fields and how to synthesise a stream."""

    CHAT = "chat"
    RESPONSES = "responses"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    MODERATIONS = "moderations"
    MESSAGES = "messages"


class Family(StrEnum):
    """Whose error envelope and SDKs a dialect shares."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A path whose calls can be deferred."""

    path: str
    """As the batch API names it; also the path of the direct call."""

    shape: Shape
    required: tuple[str, ...]
    """Top-level body fields without which the provider refuses."""

    batched: bool = True
    """Whether the provider batches it; if not, another lane runs it."""

    unbatched_fields: tuple[str, ...] = ()
    """Top-level body fields with which another lane must run a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One provider's variant of a wire family."""

    name: str
    family: Family
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    """Deferrable paths, without query."""

    credential_headers: tuple[str, ...] = ("authorization",)
    """Where a token may stand, in lower case, the first found counts."""

    billing_headers: tuple[str, ...] = ()
    """Headers that select who pays: part of the credential."""

    batch_headers: tuple[str, ...] = ()
    """Headers that apply to a batch as a whole: part of the batch key."""

    models_path: str = "/v1/models"
    """A free listing, by which a credential can be verified."""

    idle_queries: tuple[str, ...] = ()
    """Queries that SDKs add and that change nothing, whole."""

    listing_headers: tuple[tuple[str, str], ...] = ()
    """What that listing wants besides the credential."""

    def is_idle_query(self, query: str) -> bool:
        """Return whether a call with this query asks for what it would ask for without."""
        return not query or query in self.idle_queries


_OPENAI_ENDPOINTS: Final = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint(path="/v1/chat/completions", shape=Shape.CHAT, required=("model", "messages")),
        Endpoint(path="/v1/responses", shape=Shape.RESPONSES, required=("model",)),
        Endpoint(path="/v1/completions", shape=Shape.COMPLETIONS, required=("model", "prompt")),
        Endpoint(path="/v1/embeddings", shape=Shape.EMBEDDINGS, required=("model", "input")),
        Endpoint(path="/v1/moderations", shape=Shape.MODERATIONS, required=("input",)),
    )
}

ANTHROPIC_VERSION: Final = "2023-06-01"
"""The `anthropic-version` of calls that no caller made: what we read has not changed since."""

DIALECTS: Final[Mapping[str, Dialect]] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            name="openai",
            family=Family.OPENAI,
            endpoints=_OPENAI_ENDPOINTS,
            billing_headers=("openai-organization", "openai-project"),
        ),
        Dialect(
            name="anthropic",
            family=Family.ANTHROPIC,
            endpoints={
                "/v1/messages": Endpoint(
                    path="/v1/messages",
                    shape=Shape.MESSAGES,
                    required=("model", "messages", "max_tokens"),
                    unbatched_fields=("speed", "fallbacks"),
                )
            },
            credential_headers=("x-api-key", "authorization"),
            billing_headers=("anthropic-workspace-id",),
            batch_headers=("anthropic-version", "anthropic-beta"),
            # Of `client.beta.messages`; what is beta about a call stands in its headers.
            idle_queries=("beta=true",),
            listing_headers=(("anthropic-version", ANTHROPIC_VERSION),),
        ),
        Dialect(
            name="gemini",
            family=Family.GEMINI,
            credential_headers=("x-goog-api-key", "authorization"),
            billing_headers=("x-goog-user-project",),
            models_path="/v1beta/models",
        ),
    )
}
"""Every dialect that an upstream can be configured with."""


def endpoint_for(dialect: Dialect, upstream_target: str) -> Endpoint | None:
    """Return the deferrable endpoint that a raw target at the upstream names."""
    path, _, _ = upstream_target.partition("?")
    return dialect.endpoints.get(path)


@dataclass(frozen=True, slots=True)
class Presented:
    """What a call presents to be let in and billed by. Never logged, never shown."""

    token: str
    """The token's value alone: scheme and header name removed."""

    headers: tuple[tuple[str, str], ...]
    """The header fields that make a call of the same credential, in lower case."""

    billing: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return "Presented(…)"


def presented_credential(
    dialect: Dialect, headers: RawHeaders, *, query_key: str | None = None
) -> Presented | None:
    """Return the credential of a call, or nothing if it has none.

    `query_key` is the value of `?key=`, which Gemini accepts in place of a header.
    """
    wanted = (*dialect.credential_headers, *dialect.billing_headers)
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        if name in wanted and name not in found:
            found[name] = raw_value.decode("latin-1").strip()
    billing = tuple((name, found[name]) for name in dialect.billing_headers if name in found)
    for name in dialect.credential_headers:
        value = found.get(name)
        if not value:
            continue
        token = value
        if name == "authorization":
            _, _, token = value.partition(" ")
        token = token.strip()
        if token:
            return Presented(token, ((name, value), *billing), billing)
    if query_key:
        return Presented(query_key, (("x-goog-api-key", query_key), *billing), billing)
    return None


def pick_headers(names: Iterable[str], headers: RawHeaders) -> tuple[tuple[str, str], ...]:
    """Return the named header fields in lower case and sorted, e.g. for a batch key."""
    wanted = frozenset(names)
    if not wanted:
        return ()
    return tuple(
        sorted(
            (name, raw_value.decode("latin-1").strip())
            for raw_name, raw_value in headers
            if (name := raw_name.decode("latin-1").lower()) in wanted
        )
    )


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error of our own, in the shape that the caller's SDK understands."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


_GEMINI_STATUS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

ANTHROPIC_STATUS: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The HTTP status of each error type (Anthropic API, "Errors"): lines of a batch name no other."""

_ANTHROPIC_TYPE: Final = {status: kind for kind, status in ANTHROPIC_STATUS.items()}


def error_answer(family: Family, error: ProxyError) -> ErrorAnswer:
    """Return `error` in the error envelope of `family`.

    Sources of the shapes: OpenAI API reference, "Error codes"; Anthropic API,
    "Errors"; Google API design guide, "Error model" (google.rpc.Status).
    """
    status = error.http_status
    content: dict[str, object]
    if family is Family.ANTHROPIC:
        other = "api_error" if status >= 500 else "invalid_request_error"
        kind = _ANTHROPIC_TYPE.get(status, other)
        content = {
            "type": "error",
            "error": {"type": kind, "message": error.message, "code": error.code},
        }
    elif family is Family.GEMINI:
        name = _GEMINI_STATUS.get(status, "INTERNAL" if status >= 500 else "FAILED_PRECONDITION")
        content = {
            "error": {
                "code": status,
                "message": error.message,
                "status": name,
                "details": [{"reason": error.code}],
            }
        }
    else:
        content = {"error": openai_error(error)}
    headers = [("Content-Type", "application/json")]
    if isinstance(error, OverloadedError):
        headers.append(("Retry-After", str(error.retry_after_s)))
    return ErrorAnswer(status, tuple(headers), json.dumps(content).encode())


def openai_error(error: ProxyError) -> dict[str, object]:
    """Return the `error` member that OpenAI's SDKs show the message of."""
    param = error.param if isinstance(error, CallerError) else None
    kind = "invalid_request_error" if error.http_status < 500 else "server_error"
    return {"message": error.message, "type": kind, "param": param, "code": error.code}
