"""Embeddings, completions and moderations: the answers to their bodies.

Source of shapes: OpenAI API description, `CreateEmbeddingResponse`, `CreateCompletionResponse`
and `CreateModerationResponse` (openapi.yaml, 2026-08-21).
"""

import base64
import struct
from collections.abc import Iterator
from typing import Any, Final

from proxy.sandbox.answers import answer_text, body_hash, clip, tokens_in, unit_vector
from proxy.sandbox.engine import Execution, new_id
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.chat import pieces
from proxy.sandbox.openai.fields import integer, text_of
from proxy.sandbox.settings import ModelSpec

INPUTS_MAX: Final = 2_048
"""OpenAI, Embeddings: length of the `input` array."""

_CATEGORIES: Final = (
    "hate",
    "hate/threatening",
    "harassment",
    "harassment/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


def embed(body: dict[str, Any], model: ModelSpec, *, now: float, tier: str) -> Execution:  # noqa: ARG001
    """Answer an embeddings body."""
    inputs = embedding_inputs(body.get("input"))
    if inputs is None:
        raise errors.missing("input")
    if not inputs or len(inputs) > INPUTS_MAX or any(item in ("", []) for item in inputs):
        raise errors.invalid("input", "'$.input' is invalid: 1 to 2048 non-empty inputs.")
    dimensions = integer(body, "dimensions", 1, 3_072, default=model.dimensions)
    encoding = body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise errors.invalid("encoding_format", "Invalid 'encoding_format': float or base64.")
    input_tokens = sum(map(_input_tokens, inputs))
    digest = body_hash(body)
    data = []
    for index, item in enumerate(inputs):
        # Per input, not per body: the vector of a text does not depend on its neighbours.
        text_hash = body_hash({"model": model.id, "input": item})
        vector = unit_vector(text_hash, dimensions or model.dimensions)
        encoded = vector if encoding == "float" else _base64(vector)
        data.append({"object": "embedding", "index": index, "embedding": encoded})
    answer = {
        "object": "list",
        "data": data,
        "model": model.id,
        "usage": {"prompt_tokens": input_tokens, "total_tokens": input_tokens},
    }
    return Execution(answer, model, digest, input_tokens, 0)


def embedding_inputs(value: Any) -> list[Any] | None:
    """Return the inputs of an embeddings body as a list; None if there are none."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return [value]
    return value if isinstance(value, list) else None


def complete_text(body: dict[str, Any], model: ModelSpec, *, now: float, tier: str) -> Execution:  # noqa: ARG001
    """Answer a body of the older completions endpoint."""
    prompts = embedding_inputs(body.get("prompt", "<|endoftext|>")) or [""]
    copies = integer(body, "n", 1, 128, default=1) or 1
    limit = integer(body, "max_tokens", 0, 10**9)
    digest = body_hash(body)
    choices: list[dict[str, Any]] = []
    for prompt in prompts:
        for _ in range(copies):
            text = answer_text(digest, text_of(prompt), choice=len(choices))
            text, was_cut = clip(text, limit)
            reason = "length" if was_cut else "stop"
            choices.append(
                {"text": text, "index": len(choices), "logprobs": None, "finish_reason": reason}
            )
    prompt_tokens = sum(map(_input_tokens, prompts))
    output_tokens = sum(tokens_in(choice["text"]) for choice in choices)
    answer = {
        "id": new_id("cmpl-"),
        "object": "text_completion",
        "created": int(now),
        "model": model.id,
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": prompt_tokens + output_tokens,
        },
    }
    return Execution(answer, model, digest, prompt_tokens, output_tokens)


def text_chunks(completion: dict[str, Any], *, include_usage: bool) -> Iterator[dict[str, Any]]:
    """Yield the stream that a finished text completion would have been."""
    head = {name: completion[name] for name in ("id", "object", "created", "model")}
    for choice in completion["choices"]:
        for piece in pieces(choice["text"]):
            yield {**head, "choices": [{**choice, "text": piece, "finish_reason": None}]}
        yield {**head, "choices": [{**choice, "text": ""}]}
    if include_usage:
        yield {**head, "choices": [], "usage": completion["usage"]}


def moderate(body: dict[str, Any], model: ModelSpec, *, now: float, tier: str) -> Execution:  # noqa: ARG001
    """Answer a moderations body: nothing is ever flagged."""
    if "input" not in body:
        raise errors.missing("input")
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    result = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.0001),
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }
    is_mixed = any(isinstance(item, dict) for item in inputs)
    answer = {
        "id": new_id("modr-"),
        "model": model.id,
        "results": [result] * (1 if is_mixed else len(inputs)),
    }
    return Execution(answer, model, body_hash(body), tokens_in(text_of(inputs)), 0)


def _input_tokens(item: Any) -> int:
    # A list is text that the caller has already cut into tokens.
    return len(item) if isinstance(item, list) else tokens_in(text_of(item))


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
