"""What the provider contract must know of each adapter's wire: where things are and how named."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from proxy.ports.jobs import Credential
from proxy.ports.provider import Provider
from proxy.providers.anthropic_batches import AnthropicBatches
from proxy.providers.gemini_batches import GeminiBatches
from proxy.providers.gemini_openai_batches import GeminiOpenAIBatches
from proxy.providers.mistral_jobs import MistralBatches
from proxy.providers.openrouter_batches import OpenRouterBatches
from proxy.providers.xai_batches import XaiBatches
from proxy.sandbox import SandboxSettings
from proxy.sandbox.openrouter_batches import REQUESTS_MAX
from tests.providers.kit import (
    CHAT,
    KEY,
    chat_body,
    make_credential,
    openai_at,
    opened,
)

MESSAGES = "/v1/messages"
GEMINI_MODEL = "gemini-2.5-flash"


@dataclass(frozen=True, kw_only=True)
class Wire:
    opened: Callable[[str], AbstractAsyncContextManager[Provider]]
    """An adapter at a base URL."""

    endpoint: str
    body: Callable[[str], bytes]
    credential: Callable[[str], Credential]
    batches: str
    """The path under which batches are."""

    results: str
    """The route that is asked for results."""

    delete: str
    uploads: bool
    """Whether the input is a file of its own, and not inline in the create."""

    upload: str = "/v1/files"
    """Where such a file goes."""

    files: str = "/v1/files"

    answer_begins: bytes
    words: dict[str, str]
    """The provider's own status words for `completed`, `expired` and `cancelled`."""

    input_limits: Callable[[SandboxSettings], tuple[int, int]]
    """The provider's bounds of requests and bytes."""

    refused: dict[int, tuple[int, str]]
    """What a line that is refused with a status is read as: status and code."""

    creates_at: tuple[str, str] | None = None
    """Path and route of a create, where it is not the path of the batches."""

    retrieves_at: str | None = None
    lists_at: str | None = None
    """The routes of these, where they are not those of the batches."""

    cancels_at: str | None = None
    """The route of a cancel, where it is not below its batch as usual."""

    results_at: str | None = None
    """The paths of what holds results, as a glob, where `results` only leads there."""

    results_nth: int = 1
    """Which of the exchanges there brings them."""

    upload_exchanges: int = 1
    some_name: str = "file-1"
    """What results and their deletion may be asked by."""

    list_name: str = "data"
    """Where a list has its entries."""

    windows: int = 1
    """How many days a batch has."""

    keeps_partial: bool = True
    """Whether what a stopped or expired batch had finished can be read."""

    model: str = "gpt-5.4-mini"
    """Of the batch; `body` may name another, or none."""

    cancels: bool = True
    """Whether a batch can be stopped."""

    pages: bool = True
    """Whether its lists come in pages."""

    is_known_by_its_file: bool = False
    """Whether all that marks a batch is its input file."""

    names_lines_at_fault: bool = True
    """Whether a batch that failed says by a code what was wrong with which line."""

    counts_alone: bool = False
    """Whether a batch tells how it stands by counts, with no word for it and no files."""

    def failure(self, code: str, line: int) -> tuple[str, int | None]:
        """What is told of a batch that failed for the sake of one line."""
        return (code, line) if self.names_lines_at_fault else ("batch_failed", None)

    @property
    def uploaded(self) -> str:
        return f"POST {self.upload}"

    @property
    def create_path(self) -> str:
        return self.creates_at[0] if self.creates_at else self.batches

    @property
    def create(self) -> str:
        return f"POST {self.creates_at[1] if self.creates_at else self.batches}"

    @property
    def retrieve(self) -> str:
        return self.retrieves_at or f"GET {self.batches}/{{id}}"

    @property
    def list(self) -> str:
        return self.lists_at or f"GET {self.batches}"

    @property
    def cancel(self) -> str:
        return self.cancels_at or f"POST {self.batches}/{{id}}/cancel"

    @property
    def results_path(self) -> str:
        return self.results_at or self.results.removeprefix("GET ").replace("{id}", "*")


@asynccontextmanager
async def opened_openai(base_url: str) -> AsyncIterator[Provider]:
    provider = openai_at(base_url)
    yield provider
    await provider.aclose()


def opened_anthropic(base_url: str) -> AbstractAsyncContextManager[AnthropicBatches]:
    return opened(AnthropicBatches, "anthropic", base_url)


def opened_gemini(
    base_url: str, *, inline_requests_max: int
) -> AbstractAsyncContextManager[GeminiBatches]:
    kind = partial(
        GeminiBatches, inline_bytes_max=20_000_000, inline_requests_max=inline_requests_max
    )
    return opened(kind, "gemini", base_url)


def generate_body(text: str) -> bytes:
    return b'{"contents": [{"role": "user", "parts": [{"text": "%s"}]}]}' % text.encode()


def gemini_credential(key: str = KEY) -> Credential:
    return make_credential(key, headers=(("x-goog-api-key", key),), upstream="gemini")


def message_body(text: str, model: str = "claude-haiku-4-5") -> bytes:
    return (
        b'{"model": "%s", "max_tokens": 100, "messages": [{"role": "user", "content": "%s"}]}'
        % (model.encode(), text.encode())
    )


def anthropic_credential(key: str = KEY) -> Credential:
    return make_credential(key, headers=(("x-api-key", key),), upstream="anthropic")


def opener_of(name: str, path: str) -> Callable[[str], AbstractAsyncContextManager[Provider]]:
    """A member of the OpenAI family, at its place on the sandbox's port."""

    @asynccontextmanager
    async def open_at(base_url: str) -> AsyncIterator[Provider]:
        provider = openai_at(base_url + path, name)
        yield provider
        await provider.aclose()

    return open_at


def opened_mistral(base_url: str) -> AbstractAsyncContextManager[MistralBatches]:
    return opened(MistralBatches, "mistral", base_url + "/mistral")


def opened_openrouter(base_url: str) -> AbstractAsyncContextManager[OpenRouterBatches]:
    return opened(OpenRouterBatches, "openrouter", base_url + "/openrouter/api/v1")


def opened_gemini_openai(base_url: str) -> AbstractAsyncContextManager[GeminiOpenAIBatches]:
    return opened(GeminiOpenAIBatches, "gemini-openai", f"{base_url}/gemini-openai/v1beta/openai")


def opened_xai(base_url: str) -> AbstractAsyncContextManager[XaiBatches]:
    return opened(XaiBatches, "xai", base_url + "/xai")


OPENAI = Wire(
    opened=opened_openai,
    endpoint=CHAT,
    body=chat_body,
    credential=make_credential,
    batches="/v1/batches",
    results="GET /v1/files/{id}/content",
    delete="DELETE /v1/files/{id}",
    uploads=True,
    answer_begins=b'{"id":"chatcmpl-',
    words={name: name for name in ("completed", "expired", "cancelled")},
    input_limits=lambda settings: (settings.lines_max, settings.bytes_max),
    refused={status: (status, "why") for status in (400, 429, 503)},
)

ANTHROPIC = Wire(
    opened=opened_anthropic,
    endpoint=MESSAGES,
    body=message_body,
    credential=anthropic_credential,
    batches="/v1/messages/batches",
    results="GET /v1/messages/batches/{id}/results",
    delete="DELETE /v1/messages/batches/{id}",
    uploads=False,
    answer_begins=b'{"id":"msg_',
    words=dict.fromkeys(("completed", "expired", "cancelled"), "ended"),
    input_limits=lambda settings: (settings.inline_max, settings.inline_bytes_max),
    refused={
        400: (400, "invalid_request_error"),
        429: (429, "rate_limit_error"),
        503: (500, "api_error"),
    },
)

AZURE = replace(
    OPENAI,
    opened=opener_of("azure", "/azure/openai"),
    credential=lambda key: make_credential(key, headers=(("api-key", key),), upstream="azure"),
    batches="/azure/openai/v1/batches",
    results="GET /azure/openai/v1/files/{id}/content",
    delete="DELETE /azure/openai/v1/files/{id}",
    upload="/azure/openai/v1/files",
    files="/azure/openai/v1/files",
    input_limits=lambda settings: (100_000, settings.bytes_max),
)

GROQ = replace(
    OPENAI,
    opened=opener_of("groq", "/groq/openai"),
    batches="/groq/openai/v1/batches",
    results="GET /groq/openai/v1/files/{id}/content",
    delete="DELETE /groq/openai/v1/files/{id}",
    upload="/groq/openai/v1/files",
    files="/groq/openai/v1/files",
    pages=False,
)

TOGETHER = replace(
    OPENAI,
    opened=opener_of("together", "/together"),
    batches="/together/v1/batches",
    results="GET /together/v1/files/{id}/content",
    delete="DELETE /together/v1/files/{id}",
    upload="/together/v1/files/upload",
    files="/together/v1/files",
    pages=False,
    is_known_by_its_file=True,
    names_lines_at_fault=False,
    refused={
        400: (0, "batch_client_error"),
        429: (0, "batch_client_error"),
        503: (0, "batch_server_error"),
    },
)

MISTRAL = replace(
    OPENAI,
    opened=opened_mistral,
    batches="/mistral/v1/batch/jobs",
    results="GET /mistral/v1/files/{id}/content",
    delete="DELETE /mistral/v1/files/{id}",
    uploads=False,
    upload="/mistral/v1/files",
    files="/mistral/v1/files",
    words={"completed": "success", "expired": "timeout_exceeded", "cancelled": "cancelled"},
    input_limits=lambda settings: (1_000_000, settings.bytes_max),
)

_CREATE = "/v1beta/models/%s:batchGenerateContent"

GEMINI = Wire(
    opened=lambda base_url: opened_gemini(base_url, inline_requests_max=0),
    endpoint=":generateContent",
    body=generate_body,
    credential=gemini_credential,
    batches="/v1beta/batches",
    creates_at=(_CREATE % GEMINI_MODEL, _CREATE % "{model}"),
    cancels_at="POST /v1beta/batches/{id}:cancel",
    results="GET /v1beta/batches/{id}",
    results_at="/download/v1beta/files/*",
    delete="DELETE /v1beta/batches/{id}",
    uploads=True,
    upload="/upload/v1beta/files",
    upload_exchanges=2,
    files="/v1beta/files",
    some_name="batches/1",
    answer_begins=b'{"candidates":[',
    words={
        "completed": "succeeded",
        "expired": "expired",
        "cancelled": "cancelled",
    },
    input_limits=lambda _: (10**9, 2 * 1024**3),
    refused={
        400: (400, "INVALID_ARGUMENT"),
        429: (429, "RESOURCE_EXHAUSTED"),
        503: (503, "UNAVAILABLE"),
    },
    list_name="operations",
    windows=2,
    keeps_partial=False,
    model=GEMINI_MODEL,
)

GEMINI_INLINE = replace(
    GEMINI,
    opened=lambda base_url: opened_gemini(base_url, inline_requests_max=5_000),
    results_at="/v1beta/batches/*",
    results_nth=2,
    uploads=False,
)

GEMINI_OPENAI = replace(
    OPENAI,
    opened=opened_gemini_openai,
    batches="/gemini-openai/v1beta/openai/batches",
    retrieves_at="GET /gemini-openai/v1beta/openai/batches/batches/{id}",
    lists_at="GET /gemini-openai/v1beta/batches",
    cancels_at="POST /gemini-openai/v1beta/batches/{id}:cancel",
    results="GET /gemini-openai/download/v1beta/files/{id}:download",
    delete="DELETE /gemini-openai/v1beta/files/{id}",
    upload="/gemini-openai/upload/v1beta/files",
    upload_exchanges=2,
    files="/gemini-openai/v1beta/files",
    some_name="files/1",
    windows=2,
    keeps_partial=False,
    pages=False,
    is_known_by_its_file=True,
    input_limits=lambda _: (10**9, 2 * 1024**3),
)

OPENROUTER = replace(
    MISTRAL,
    opened=opened_openrouter,
    batches="/openrouter/api/v1/batches",
    results="GET /openrouter/api/v1/batches/{id}",
    delete="DELETE /openrouter/api/v1/batches/{id}",
    words={name: name for name in ("completed", "expired", "cancelled")},
    cancels=False,
    input_limits=lambda settings: (REQUESTS_MAX, settings.bytes_max),
)

XAI = replace(
    OPENAI,
    opened=opened_xai,
    batches="/xai/v1/batches",
    cancels_at="POST /xai/v1/batches/{id}:cancel",
    results="GET /xai/v1/batches/{id}/results",
    delete="DELETE /xai/v1/files/{id}",
    upload="/xai/v1/files",
    files="/xai/v1/files",
    list_name="batches",
    windows=30,
    pages=False,
    names_lines_at_fault=False,
    counts_alone=True,
    refused={
        400: (0, "batch_client_error"),
        429: (0, "batch_server_error"),
        503: (0, "batch_server_error"),
    },
)

WIRES = {
    "openai": OPENAI,
    "anthropic": ANTHROPIC,
    "azure": AZURE,
    "groq": GROQ,
    "together": TOGETHER,
    "mistral": MISTRAL,
    "gemini": GEMINI,
    "gemini-inline": GEMINI_INLINE,
    "gemini-openai": GEMINI_OPENAI,
    "openrouter": OPENROUTER,
    "xai": XAI,
}
