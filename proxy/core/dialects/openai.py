"""Rows of the OpenAI family: OpenAI, the providers that copied its API, servers of one's own.

Sources: OpenAI API description (openapi.yaml, 2026-08-21) and Batch guide; Azure OpenAI
batch guide and v1 REST reference; types of the SDKs of Groq 1.7, Mistral 3.7 and
Together 3.1, Mistral API description; documentation of DeepInfra, Doubleword, OpenRouter, xAI;
Gemini API, "OpenAI compatibility".
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Final

from proxy.core.dialects.batches import DAY, BatchApi, BatchWire, FilesWay, Mark
from proxy.core.dialects.gemini import BATCH as GEMINI_BATCH
from proxy.core.dialects.records import Dialect, Endpoint, Family, Shape

IMAGES_MAX: Final = 500
"""Calls for images in one batch. Each is answered by megabytes of base64, all in one file, which is
read in one go."""

_CHAT: Final = Endpoint(
    path="/v1/chat/completions", shape=Shape.CHAT, required=("model", "messages")
)
_RESPONSES: Final = Endpoint(path="/v1/responses", shape=Shape.RESPONSES, required=("model",))
_COMPLETIONS: Final = Endpoint(
    path="/v1/completions", shape=Shape.COMPLETIONS, required=("model", "prompt")
)
_EMBEDDINGS: Final = Endpoint(
    path="/v1/embeddings", shape=Shape.EMBEDDINGS, required=("model", "input")
)
_MODERATIONS: Final = Endpoint(path="/v1/moderations", shape=Shape.MODERATIONS, required=("input",))
# With `response_format` an older model answers by URLs, which hold for an hour ("Create image"): a
# batch may have ended long before anybody asks.
_IMAGES, _IMAGE_EDITS = (
    Endpoint(
        path=path,
        shape=shape,
        required=required,
        unbatched_fields=("response_format",),
        own_fields=frozenset({"background"}),
        max_requests=IMAGES_MAX,
    )
    for path, shape, required in (
        ("/v1/images/generations", Shape.IMAGES, ("prompt",)),
        ("/v1/images/edits", Shape.IMAGE_EDITS, ("prompt", "images")),
    )
)
_FLEX_CHAT, _FLEX_RESPONSES = (
    replace(endpoint, flex_field="service_tier") for endpoint in (_CHAT, _RESPONSES)
)
_ALL: Final = (_CHAT, _RESPONSES, _COMPLETIONS, _EMBEDDINGS, _MODERATIONS)


def _endpoints(*batched: Endpoint, others: tuple[Endpoint, ...] = ()) -> Mapping[str, Endpoint]:
    """Return the deferrable paths: those that are batched, and those for other lanes."""
    unbatched = (replace(endpoint, batched=False) for endpoint in others)
    return {endpoint.path: endpoint for endpoint in (*batched, *unbatched)}


_WEEK: Final = 7 * DAY

# 200 MB by OpenAI's guide, 209,715,200 bytes by an observed error: the smaller reading.
_FILE_BYTES: Final = 200_000_000

# Where nothing documents a bound, OpenAI's.
_REQUESTS: Final = 50_000

OPENAI: Final = Dialect(
    name="openai",
    family=Family.OPENAI,
    title="OpenAI",
    public_url="https://api.openai.com",
    endpoints=_endpoints(
        *(_FLEX_CHAT, _FLEX_RESPONSES, _COMPLETIONS, _EMBEDDINGS, _MODERATIONS),
        *(_IMAGES, _IMAGE_EDITS),
    ),
    billing_headers=("openai-organization", "openai-project"),
    batch=BatchApi(
        wire=BatchWire.FILES,
        max_requests=_REQUESTS,
        max_bytes=_FILE_BYTES,
        # Batch guide: "a maximum of 50,000 embedding inputs across all requests in the batch".
        max_inputs=50_000,
    ),
)

AZURE: Final = Dialect(
    name="azure",
    family=Family.OPENAI,
    title="Azure OpenAI (v1 API)",
    root="/openai",
    endpoints=_endpoints(_FLEX_CHAT, _FLEX_RESPONSES, others=(_COMPLETIONS, _EMBEDDINGS)),
    credential_headers=("api-key", "authorization"),
    batch=BatchApi(
        wire=BatchWire.FILES,
        max_requests=100_000,
        max_bytes=_FILE_BYTES,
        maps_models=True,
        poll_floor=timedelta(seconds=60),
    ),
)

GROQ: Final = Dialect(
    name="groq",
    family=Family.OPENAI,
    title="Groq",
    public_url="https://api.groq.com",
    root="/openai",
    endpoints=_endpoints(_CHAT, others=(_RESPONSES,)),
    batch=BatchApi(
        wire=BatchWire.FILES,
        max_requests=50_000,
        # 200 MB by its documentation, 100 MB by its SDK: the smaller.
        max_bytes=100_000_000,
        windows=(DAY, _WEEK),
        files=FilesWay(file_life=None, pages=False),
    ),
)

MISTRAL: Final = Dialect(
    name="mistral",
    family=Family.MISTRAL,
    title="Mistral",
    public_url="https://api.mistral.ai",
    endpoints=_endpoints(
        *(_CHAT, _EMBEDDINGS, _MODERATIONS),
        # Answered, and streamed, as a chat.
        Endpoint(path="/v1/fim/completions", shape=Shape.CHAT, required=("model", "prompt")),
        Endpoint(
            path="/v1/ocr",
            shape=Shape.OCR,
            required=("model", "document"),
            # An answer has all pages of its document and, if asked for, all pictures on them.
            max_requests=5_000,
        ),
        *(
            # Conversations are given as objects.
            Endpoint(
                path=path,
                shape=shape,
                required=("model", "input"),
                own_fields=frozenset({"input"}),
            )
            for path, shape in (
                ("/v1/chat/moderations", Shape.MODERATIONS),
                ("/v1/classifications", Shape.CLASSIFICATIONS),
                ("/v1/chat/classifications", Shape.CLASSIFICATIONS),
            )
        ),
    ),
    batch=BatchApi(
        wire=BatchWire.JOBS,
        # A million may be pending in a workspace; more at once would make one batch of
        # hours, of which nothing can be read before its end.
        max_requests=100_000,
        max_bytes=_FILE_BYTES,
        # `timeout_hours`: 24 unless asked for more, and below seven days.
        windows=(DAY, _WEEK - timedelta(hours=1)),
    ),
)

TOGETHER: Final = Dialect(
    name="together",
    family=Family.OPENAI,
    title="Together",
    public_url="https://api.together.xyz",
    endpoints=_endpoints(_CHAT, others=(_COMPLETIONS, _EMBEDDINGS)),
    batch=BatchApi(
        wire=BatchWire.FILES,
        max_requests=50_000,
        max_bytes=100_000_000,
        max_line_bytes=10_000_000,
        mark=Mark.INPUT_FILE,
        poll_floor=timedelta(seconds=30),
        files=FilesWay(
            upload_path="/files/upload",
            purpose="batch-api",
            names_uploads=True,
            file_life=None,
            pages=False,
            bare_lists=True,
        ),
    ),
    # What stands before its API refuses names that it does not know, with a 403. By this
    # package its batches are made.
    user_agent="OpenAI/Python",
)

DEEPINFRA: Final = Dialect(
    name="deepinfra",
    family=Family.OPENAI,
    title="DeepInfra",
    public_url="https://api.deepinfra.com",
    root="/v1/openai",
    # Its models are listed to anybody.
    models_path="/v1/batches?limit=1",
    endpoints=_endpoints(_CHAT, _COMPLETIONS, _EMBEDDINGS),
    batch=BatchApi(wire=BatchWire.FILES, max_requests=_REQUESTS, max_bytes=_FILE_BYTES),
)

DOUBLEWORD: Final = Dialect(
    name="doubleword",
    family=Family.OPENAI,
    title="Doubleword",
    public_url="https://api.doubleword.ai",
    endpoints=_endpoints(_FLEX_CHAT, _EMBEDDINGS, others=(_FLEX_RESPONSES,)),
    batch=BatchApi(
        wire=BatchWire.FILES,
        max_requests=_REQUESTS,
        max_bytes=_FILE_BYTES,
        windows=(timedelta(hours=1), DAY),
        is_promise=True,
    ),
)

OPENROUTER: Final = Dialect(
    name="openrouter",
    family=Family.OPENAI,
    title="OpenRouter",
    public_url="https://openrouter.ai",
    root="/api",
    # Its models are listed to anybody; this is about the key that asks.
    models_path="/v1/key",
    endpoints=_endpoints(
        # "Batch API Quickstart", "Limitations": one such call fails its whole batch.
        replace(
            _CHAT,
            batches_attachments=False,
            unbatched_fields=("modalities", "audio", "image_config"),
        ),
        replace(_RESPONSES, batches_attachments=False),
        _EMBEDDINGS,
        others=(_COMPLETIONS,),
    ),
    batch=BatchApi(
        wire=BatchWire.INLINE,
        max_requests=5_000,
        max_bytes=_FILE_BYTES,
        mark=Mark.NOTHING,
        can_cancel=False,
    ),
)

XAI: Final = Dialect(
    name="xai",
    family=Family.OPENAI,
    title="xAI",
    public_url="https://api.x.ai",
    endpoints=_endpoints(
        # With `deferred` a call is answered by the ID of another answer.
        replace(_CHAT, unbatched_fields=("deferred",)),
        # In a batch it comes back in the shape of a chat completion.
        others=(_RESPONSES,),
    ),
    batch=BatchApi(
        wire=BatchWire.COUNTED,
        max_requests=50_000,
        # 200 MB by its batch guide, but of any file 50 or 48 MB by other pages: the least.
        max_bytes=48_000_000,
        max_line_bytes=25_000_000,
        # Most end within a day, which is no promise; after this they expire.
        windows=(30 * DAY,),
    ),
)

GEMINI: Final = Dialect(
    name="gemini-openai",
    family=Family.OPENAI,
    title="Gemini, by its OpenAI API",
    public_url="https://generativelanguage.googleapis.com",
    root="/v1beta/openai",
    endpoints=_endpoints(_CHAT, _EMBEDDINGS),
    billing_headers=("x-goog-user-project",),
    batch=replace(GEMINI_BATCH, wire=BatchWire.OPERATIONS_OF_FILES, mark=Mark.INPUT_FILE),
)

COMPATIBLE: Final = Dialect(
    name="openai-compatible",
    family=Family.OPENAI,
    title="Any other OpenAI-shaped server (vLLM, llama.cpp, TGI …)",
    endpoints=_endpoints(others=_ALL),
    credential_headers=("authorization", "x-api-key", "api-key"),
)

ROWS: Final = (
    *(OPENAI, AZURE, GROQ, MISTRAL, TOGETHER, DEEPINFRA, DOUBLEWORD, OPENROUTER, XAI, GEMINI),
    COMPATIBLE,
)
