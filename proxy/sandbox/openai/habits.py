"""What members of the OpenAI family do their own way, as their callers see it.

A member is a row here: where its paths are on the sandbox's port, what it takes, and how
it shows what the others show as OpenAI does. Sources: Azure OpenAI batch guide; Groq's
batch guide; types of the SDKs of Groq 1.7 and Together 3.1; DeepInfra and Doubleword
document OpenAI's shapes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from proxy.sandbox.engine import new_id
from proxy.sandbox.openai.errors import error_reply
from proxy.sandbox.openai.execute import ENDPOINTS, OPENAI_ENDPOINTS
from proxy.sandbox.wire import ApiError, Reply, json_reply

Json = dict[str, Any]


def _same(shown: Any) -> Any:
    return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """One member. Its defaults are OpenAI's."""

    prefix: str = ""
    """What parts it from the others on one port."""

    root: str = "/v1"
    """Where the provider's own paths begin."""

    key_header: str = "Authorization"
    agent: str = ""
    """With what the `User-Agent` of a request must begin."""

    shares_prefix: bool = False
    """Whether another API is below the prefix as well; then the root belongs to what parts it."""

    serves_files: bool = True
    upload: str = "/v1/files"
    purpose: str = "batch"
    asks_purpose: bool = True
    """Whether an upload says what it is for; if not, it may say its life in seconds alone."""

    takes_expiry: bool = True
    takes_metadata: bool = True
    windows: Mapping[str, float] = field(default_factory=lambda: {"24h": 1.0})
    """Which it sells, each as a share of the sandbox's window."""

    calls: frozenset[str] = frozenset(OPENAI_ENDPOINTS)
    """Which paths it answers at once."""

    endpoints: frozenset[str] = frozenset(OPENAI_ENDPOINTS)
    """Which its batches may name."""

    lines_max: int | None = None
    """Nothing: the sandbox's own."""

    names_empty_error_file: bool = False
    """Whether a batch without errors has an error file all the same, without lines."""

    cursor: str = "after"
    """By which parameter the next page of batches is asked for."""

    answer: Callable[[Json], Json] = _same
    """How it shows the answer to a call, or to a line."""

    batch: Callable[[Json], Json] = _same
    created: Callable[[Json], Any] = _same
    listed: Callable[[Json], Any] = _same
    refusal: Callable[[ApiError], Reply] = error_reply
    refused_line: Callable[[Json], Json] = _same

    @property
    def own(self) -> str:
        """What the paths of its requests begin with."""
        return self.prefix + self.root * self.shares_prefix

    def path(self, path: str) -> str:
        """Return where one of OpenAI's paths is."""
        return self.prefix + self.root + path.removeprefix("/v1")


def _time(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _azure_batch(shown: Json) -> Json:
    times = {name: _time(value) for name, value in shown.items() if name.endswith("_at")}
    return {**shown, **times, "status": shown["status"].capitalize(), "request_counts": None}


def _together_batch(shown: Json) -> Json:
    done, total = shown["request_counts"]["completed"], shown["request_counts"]["total"]
    failures = (shown["errors"] or {}).get("data") or [{"message": None}]
    return {
        "id": shown["id"],
        "status": {"cancelling": "CANCELING"}.get(shown["status"], shown["status"].upper()),
        "input_file_id": shown["input_file_id"],
        "output_file_id": shown["output_file_id"],
        "error_file_id": shown["error_file_id"],
        "endpoint": shown["endpoint"],
        "model_id": shown["model"],
        "created_at": _time(shown["created_at"]),
        "completed_at": _time(shown["completed_at"]),
        "job_deadline": _time(shown["expires_at"]),
        "progress": 100.0 * done / total if total else 0.0,
        "error": failures[0]["message"],
    }


def _together_refusal(line: Json) -> Json:
    if line["error"] is not None:
        return line
    code = "batch_client_error" if line["response"]["status_code"] < 500 else "batch_server_error"
    message = line["response"]["body"]["error"]["message"]
    error = {"code": code, "message": message}
    return {"id": line["id"], "custom_id": line["custom_id"], "error": error}


def _groq_page(page: Json) -> Json:
    following = page["last_id"] if page["has_more"] else None
    return {"object": "list", "data": page["data"], "paging": {"next_cursor": following}}


def _xai_refusal(exc: ApiError) -> Reply:
    """Return an error as text, beside a code that is the name of its status."""
    status, message = exc.status, exc.message
    if exc.code == "invalid_api_key":
        status = 400
    elif exc.code == "insufficient_quota":
        status = 403
        message = (
            "Your team 1db9 has either used all available credits or reached its monthly "
            "spending limit."
        )
    return json_reply({"code": _XAI_CODES.get(status, "internal"), "error": message}, status=status)


_XAI_CODES: Final = {
    400: "invalid-argument",
    401: "unauthenticated",
    403: "permission-denied",
    404: "not-found",
    409: "failed-precondition",
    429: "resource-exhausted",
}

OPENAI: Final = Habits()
OPENROUTER: Final = Habits(prefix="/openrouter", root="/api/v1", takes_expiry=False)
"""Calls are OpenAI's; batches hold their requests and their results."""

MISTRAL: Final = Habits(
    prefix="/mistral",
    calls=frozenset(ENDPOINTS),
    takes_expiry=False,
    # Every answer has an ID, even one of vectors (Mistral API description, `EmbeddingResponse`).
    answer=lambda shown: {"id": new_id(""), **shown},
)
"""Files are OpenAI's, and most calls; batches are jobs of its own."""

XAI: Final = Habits(prefix="/xai", asks_purpose=False, refusal=_xai_refusal)
"""Calls and files are OpenAI's, but for purposes and errors; batches are counts and pages."""

CLONES: Final = (
    Habits(
        prefix="/azure",
        root="/openai/v1",
        key_header="api-key",
        lines_max=100_000,
        endpoints=frozenset({"/v1/chat/completions", "/v1/responses"}),
        names_empty_error_file=True,
        batch=_azure_batch,
    ),
    Habits(
        prefix="/groq",
        root="/openai/v1",
        takes_expiry=False,
        windows={"24h": 1.0, "7d": 7.0},
        endpoints=frozenset({"/v1/chat/completions"}),
        cursor="cursor",
        listed=_groq_page,
    ),
    Habits(
        prefix="/together",
        agent="OpenAI/",
        upload="/v1/files/upload",
        purpose="batch-api",
        takes_expiry=False,
        takes_metadata=False,
        endpoints=frozenset({"/v1/chat/completions"}),
        batch=_together_batch,
        created=lambda shown: {"job": shown, "warning": None},
        listed=lambda page: page["data"],
        refused_line=_together_refusal,
    ),
    Habits(
        prefix="/deepinfra",
        root="/v1/openai",
        endpoints=frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings"}),
    ),
    Habits(
        prefix="/doubleword",
        windows={"1h": 1 / 24, "24h": 1.0},
        endpoints=frozenset({"/v1/chat/completions", "/v1/embeddings"}),
    ),
)
