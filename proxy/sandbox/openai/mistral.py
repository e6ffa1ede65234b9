"""What Mistral answers beside OpenAI's API: scanned documents, gaps in code, classes of texts.

Source of shapes: Mistral API description, `OCRResponse`, `FIMCompletionResponse`,
`ClassificationResponse` (openapi.yaml, 2026-08).
"""

from typing import Any, Final

from proxy.sandbox.answers import answer_text, body_hash, clip, tokens_in
from proxy.sandbox.engine import Execution, new_id
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.fields import integer, prompt_of, text_of
from proxy.sandbox.settings import ModelSpec

_TOKENS_OF_PAGE: Final = 1_000
"""As which a page is billed: Mistral sells pages by the thousand."""

_PAGE: Final = {"dpi": 200, "height": 2_200, "width": 1_700}


def read_document(body: dict[str, Any], model: ModelSpec, *, now: float, tier: str) -> Execution:  # noqa: ARG001
    """Answer a body that asks for the text of a document: of two pages, or those it names."""
    document = body.get("document")
    if not isinstance(document, dict):
        raise errors.missing("document")
    asked = body.get("pages")
    indexes = asked if isinstance(asked, list) and asked else [0, 1]
    digest = body_hash(body)
    name = next((str(document[key]) for key in _NAMES if key in document), "a document")
    pages: list[dict[str, Any]] = [
        {
            "index": index,
            "markdown": answer_text(digest, name, choice=index),
            "images": [],
            "dimensions": _PAGE,
        }
        for index in indexes
    ]
    usage = {"pages_processed": len(pages), "doc_size_bytes": None}
    answer = {"pages": pages, "model": model.id, "document_annotation": None, "usage_info": usage}
    return Execution(answer, model, digest, len(pages) * _TOKENS_OF_PAGE, 0)


_NAMES: Final = ("document_name", "document_url", "image_url", "file_id")


def fill_in(body: dict[str, Any], model: ModelSpec, *, now: float, tier: str) -> Execution:  # noqa: ARG001
    """Answer a body that asks for what stands between a prompt and a suffix."""
    prompt = prompt_of(body)
    digest = body_hash(body)
    text, was_cut = clip(answer_text(digest, prompt), integer(body, "max_tokens", 0, 10**9))
    taken, given = tokens_in(prompt + (body.get("suffix") or "")), tokens_in(text)
    answer = {
        "id": new_id(""),
        "object": "chat.completion",
        "created": int(now),
        "model": model.id,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "tool_calls": None},
                "finish_reason": "length" if was_cut else "stop",
            }
        ],
        "usage": {
            "prompt_tokens": taken,
            "completion_tokens": given,
            "total_tokens": taken + given,
        },
    }
    return Execution(answer, model, digest, taken, given)


def classify(body: dict[str, Any], model: ModelSpec, *, now: float, tier: str) -> Execution:  # noqa: ARG001
    """Answer a body that asks for the classes of texts or conversations: all are the same."""
    given = body.get("input")
    if given is None:
        raise errors.missing("input")
    texts = given if isinstance(given, list) else [given]
    answer = {
        "id": new_id("mod-"),
        "model": model.id,
        "results": [{"subject": {"scores": {"this": 0.9, "that": 0.1}}} for _ in texts],
    }
    return Execution(answer, model, body_hash(body), tokens_in(text_of(texts)), 0)
