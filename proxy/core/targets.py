"""Raw request targets: read as they stood in the request line, never decoded or normalised.

What one part of the service decides about a path is what the upstream will see.
"""

from typing import Final
from urllib.parse import unquote_plus

OPENAI_PATHS: Final = frozenset(
    {
        "assistants",
        "audio",
        "batches",
        "chat",
        "completions",
        "containers",
        "conversations",
        "embeddings",
        "evals",
        "files",
        "fine_tuning",
        "images",
        "models",
        "moderations",
        "organization",
        "realtime",
        "responses",
        "threads",
        "uploads",
        "vector_stores",
        "videos",
    }
)
"""First path segments below `/v1` (OpenAI API, openapi.yaml, `paths`)."""

_CREDENTIAL_PARAMETERS: Final = frozenset(
    {
        "access_token",
        "api-key",
        "api_key",
        "apikey",
        "key",
        "oauth_token",
        "sig",
        "subscription-key",
        "token",
        "x-api-key",
        "x-goog-api-key",
    }
)


def begins(target: str, path: str) -> bool:
    """Tell whether `target` is `path` or lies below it, on a segment's boundary."""
    return target.startswith(path) and (len(target) == len(path) or target[len(path)] in "/?")


def first_segment(target: str) -> str:
    """Return what stands between the slash that begins a target and the next, or its query."""
    return target[1:].partition("?")[0].partition("/")[0]


def without_credentials(target: str) -> str:
    """Return the target with every credential parameter cut out of its query.

    For storing, hashing and logging; what is left stays byte for byte, in
    order. Names are compared decoded and without case, as servers do, so that
    `?%6Bey=` does not slip through.
    """
    path, mark, query = target.partition("?")
    if not mark:
        return target
    kept = [pair for pair in query.split("&") if not _is_credential(pair)]
    if len(kept) == query.count("&") + 1:
        return target
    return f"{path}?{'&'.join(kept)}" if kept else path


def query_tokens(target: str) -> list[bytes]:
    """Return what the credential parameters of the query hold, decoded."""
    pairs = target.partition("?")[2].split("&")
    values = [pair.partition("=")[2] for pair in pairs if _is_credential(pair)]
    return [unquote_plus(value).encode("utf-8", "surrogateescape") for value in values]


def _is_credential(pair: str) -> bool:
    name = pair.partition("=")[0]
    return unquote_plus(name, errors="replace").strip().lower() in _CREDENTIAL_PARAMETERS
