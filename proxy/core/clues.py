"""What a call tells of the provider that it is meant for, and whose credential it carries.

Rule: a credential never reaches a provider that visibly is not its own.
"""

from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.core.fields import RawHeaders
from proxy.core.targets import OPENAI_PATHS, begins, first_segment, query_tokens
from proxy.core.upstream import Upstream

# Shapes of tokens as the vendors document them, with the dialect and the host
# they belong to. Plain `sk-` is nobody's: half of the OpenAI clones issue it.
_TOKEN_SHAPES: Final = (
    (b"sk-ant-", "anthropic", "anthropic.com"),
    (b"sk-proj-", "openai", "openai.com"),
    (b"sk-svcacct-", "openai", "openai.com"),
    (b"sk-admin-", "openai", "openai.com"),
    (b"AIza", "gemini", "googleapis.com"),
    (b"ya29.", "gemini", "googleapis.com"),
    (b"gsk_", "groq", "groq.com"),
    (b"sk-or-", "openrouter", "openrouter.ai"),
    (b"xai-", "xai", "x.ai"),
)
_TOKEN_STARTS: Final = tuple(shape for shape, _, _ in _TOKEN_SHAPES)

# Headers that only one provider reads, and so say whose credential they carry.
_OWN_HEADERS: Final = {
    b"x-goog-api-key": ("gemini", "googleapis.com"),
    b"api-key": ("azure", "azure.com"),
}

# Browsers cannot set headers on a WebSocket, so the OpenAI Realtime API takes
# the key as a subprotocol (OpenAI API, "Realtime API with WebSockets").
WEBSOCKET_KEY: Final = b"openai-insecure-api-key."


@dataclass(slots=True)
class _Clues:
    """What one pass over the headers tells about the intended provider."""

    goog_key: bool = False
    anthropic: bool = False
    bearer: bool = False


def intended_dialect(target: str, headers: RawHeaders) -> str | None:
    """Return the dialect that a call without a prefix speaks; nothing if it could be any."""
    clues = _clues(headers)
    if _is_gemini_path(target) or clues.goog_key or _has_key_parameter(target):
        return "gemini"
    if clues.anthropic or _is_messages_path(target):
        return "anthropic"
    if clues.bearer and _is_openai_path(target):
        return "openai"
    return None


def foreign_credential(target: str, headers: RawHeaders, upstream: Upstream) -> str | None:
    """Return the dialect whose credential this is, if it is not the upstream's."""
    for name, value in headers:
        lowered = _TELLING[name]
        if lowered is None:
            continue
        tokens_of = _TOKEN_SOURCES.get(lowered)
        if tokens_of is None:
            continue
        own = None if lowered in upstream.credential_headers else _OWN_HEADERS.get(lowered)
        if own is not None and not _belongs(upstream, *own):
            return own[0]
        owner = _foreign_token(tokens_of(value), upstream)
        if owner is not None:
            return owner
    if "?" in target:
        return _foreign_token(query_tokens(target), upstream)
    return None


def _is_gemini_path(target: str) -> bool:
    if target.startswith(("/v1beta", "/upload/v1beta", "/download/v1beta")):
        return any(begins(target, f"{way}/v1beta") for way in ("", "/upload", "/download"))
    if not target.startswith("/v1/models/"):
        return False
    model, colon, verb = target[11:].partition("?")[0].rpartition(":")
    # A fine-tuned OpenAI model has colons in its very name: `ft:gpt-4o:acme::abc`.
    return bool(colon) and verb.isalpha() and not model.startswith("ft:")


def _has_key_parameter(target: str) -> bool:
    _, mark, query = target.partition("?")
    return bool(mark) and (query.startswith("key=") or "&key=" in query)


def _is_messages_path(target: str) -> bool:
    while begins(target, "/v1"):
        target = target[3:]
    if not target.startswith("/messages"):
        return False
    rest = target[9:].partition("?")[0]
    return rest in {"", "/count_tokens"} or begins(rest, "/batches")


def _is_openai_path(target: str) -> bool:
    return target.startswith("/v1/") or first_segment(target) in OPENAI_PATHS


def lacks_bearer(target: str, headers: RawHeaders) -> bool:
    """Return whether a call would be known for OpenAI's if it carried a token."""
    return _is_openai_path(target) and not _clues(headers).bearer


def _clues(headers: RawHeaders) -> _Clues:
    clues = _Clues()
    for name, value in headers:
        match _TELLING[name]:
            case None:
                continue
            case b"authorization":
                clues.bearer = clues.bearer or value[:7].lower() == b"bearer "
            case b"x-goog-api-key":
                clues.goog_key = True
            case b"anthropic-version" | b"x-api-key":
                clues.anthropic = True
            case b"sec-websocket-protocol":
                clues.bearer = clues.bearer or WEBSOCKET_KEY in value
            case b"access-control-request-headers":
                _announced(clues, value)
    return clues


def _announced(clues: _Clues, value: bytes) -> None:
    """Read what a browser's preflight says of the call that is to follow, since it shows no token.

    It lists the names of that call's fields (Fetch standard, "CORS-preflight fetch").
    """
    names = {name.strip() for name in value.lower().split(b",")}
    clues.bearer = clues.bearer or b"authorization" in names
    clues.goog_key = clues.goog_key or b"x-goog-api-key" in names
    clues.anthropic = clues.anthropic or not names.isdisjoint({b"anthropic-version", b"x-api-key"})


def _foreign_token(tokens: list[bytes], upstream: Upstream) -> str | None:
    for token in tokens:
        # One C call settles the common case: a shape that is nobody's.
        if not token.startswith(_TOKEN_STARTS):
            continue
        for shape, dialect, host in _TOKEN_SHAPES:
            if token.startswith(shape) and not _belongs(upstream, dialect, host):
                return dialect
    return None


def _belongs(upstream: Upstream, dialect: str, host: str) -> bool:
    return (
        upstream.dialect == dialect
        or upstream.host == host
        or upstream.host.endswith(f".{host}")
        # The same keys, wherever it is served.
        or (dialect == "gemini" and upstream.dialect == "gemini-openai")
    )


def _authorization_tokens(value: bytes) -> list[bytes]:
    """Return every word of an Authorization value, whatever its scheme."""
    words = value.split()
    if len(words) == 2 and words[0].lower() == b"basic":
        try:
            return b64decode(words[1]).split(b":")
        except ValueError:
            return words
    return words


def _websocket_tokens(value: bytes) -> list[bytes]:
    return [word.strip().removeprefix(WEBSOCKET_KEY) for word in value.split(b",")]


_TOKEN_SOURCES: Final[dict[bytes, Callable[[bytes], list[bytes]]]] = {
    b"authorization": _authorization_tokens,
    b"proxy-authorization": _authorization_tokens,
    b"x-api-key": bytes.split,
    b"x-goog-api-key": bytes.split,
    b"api-key": bytes.split,
    b"sec-websocket-protocol": _websocket_tokens,
}

_CLUES: Final = frozenset(
    {
        *(b"authorization", b"x-goog-api-key", b"anthropic-version", b"x-api-key"),
        *(b"sec-websocket-protocol", b"access-control-request-headers"),
    }
)


class _TellingNames(dict[bytes, bytes | None]):
    """Field names as spelled: in lower case if they tell anything here, else nothing.

    Every name of every call is looked up here, so each is lowered and compared
    once only. The answer follows from the name alone and so is never outdated;
    what callers can make it hold is bounded.
    """

    MAX_NAMES: Final = 1024
    MAX_NAME_BYTES: Final = 64

    def __missing__(self, name: bytes) -> bytes | None:
        lowered = name.lower()
        telling = lowered if lowered in _TOKEN_SOURCES or lowered in _CLUES else None
        if len(name) <= self.MAX_NAME_BYTES:
            if len(self) >= self.MAX_NAMES:
                self.clear()
            self[name] = telling
        return telling


_TELLING: Final = _TellingNames()
