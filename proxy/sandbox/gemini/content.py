"""Generated contents and embeddings: the answer to a request, and its stream.

Source of shapes: types of the google-genai SDK 3.6, `GenerateContentResponse` and
`EmbedContentResponse`. What is not of a wrong type is checked here, when it runs.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

from proxy.sandbox.answers import (
    answer_text,
    body_hash,
    clip,
    instance_of,
    tokens_in,
    unit_vector,
)
from proxy.sandbox.engine import Execution, new_id
from proxy.sandbox.gemini import errors
from proxy.sandbox.gemini.fields import camel, text_of
from proxy.sandbox.openai.chat import pieces
from proxy.sandbox.settings import ModelSpec, SandboxSettings

KINDS: Final = {"generateContent": "generate", "embedContent": "embed"}
"""Which kind of model serves a method."""


def identity(request: dict[str, Any], model: str) -> str:
    """Return the `body_hash` of a question: the model is part of it, wherever it stands."""
    return body_hash({**request, "model": model})


def find_model(name: str, method: str, settings: SandboxSettings) -> ModelSpec:
    """Return the model of a path that serves a method."""
    model = settings.model(name)
    if model is None or model.kind != KINDS[method]:
        raise errors.no_model(name, method)
    return model


def execute(method: str, request: dict[str, Any], model: ModelSpec) -> Execution:
    """Answer a request; raises `ApiError` where Gemini refuses it. Nothing is billed here."""
    return (generate if method == "generateContent" else embed)(request, model)


def generate(request: dict[str, Any], model: ModelSpec) -> Execution:
    """Answer a GenerateContentRequest whose fields are known ones."""
    contents = _contents(request)
    config = camel(request.get("generationConfig") or {})
    limit = config.get("maxOutputTokens")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise errors.invalid("max_output_tokens must be positive.")
    prompt_tokens = prompt_size(request)
    if prompt_tokens > model.context_tokens:
        raise errors.invalid(
            "The input token count exceeds the maximum number of tokens allowed "
            f"{model.context_tokens}."
        )
    digest = identity(request, model.id)
    copies = config.get("candidateCount") or 1
    candidates = [_candidate(request, contents, config, digest, at) for at in range(copies)]
    written = sum(_written(one, thoughts=False) for one in candidates)
    thought = sum(_written(one, thoughts=True) for one in candidates)
    usage = {
        "promptTokenCount": prompt_tokens,
        "candidatesTokenCount": written,
        "totalTokenCount": prompt_tokens + written + thought,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt_tokens}],
    }
    answer = {
        "candidates": candidates,
        "usageMetadata": usage | ({"thoughtsTokenCount": thought} if thought else {}),
        "modelVersion": model.id,
        "responseId": new_id(""),
    }
    return Execution(answer, model, digest, prompt_tokens, written + thought)


def embed(request: dict[str, Any], model: ModelSpec) -> Execution:
    """Answer an EmbedContentRequest whose fields are known ones."""
    content = request.get("content")
    if not isinstance(content, dict) or not text_of(content):
        raise errors.invalid("* EmbedContentRequest.content: content is empty")
    dimensions = request.get("outputDimensionality") or model.dimensions
    digest = identity(request, model.id)
    answer = {"embedding": {"values": unit_vector(digest, int(dimensions))}}
    return Execution(answer, model, digest, tokens_in(text_of(content)), 0)


def prompt_size(request: dict[str, Any]) -> int:
    """Return the input tokens of a request, as usage, `countTokens` and quotas count them."""
    asked = [request.get("systemInstruction"), request.get("content")]
    contents = request.get("contents")
    asked += contents if isinstance(contents, list) else [contents]
    tools = json.dumps(request["tools"]) if request.get("tools") else ""
    return tokens_in(tools) + sum(2 + tokens_in(text) for text in map(text_of, asked) if text)


def chunks(response: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the stream that a finished response would have been."""
    head = {name: value for name, value in response.items() if name != "candidates"}
    for candidate in response["candidates"]:
        *begun, last = _pieces(candidate["content"]["parts"])
        for part in begun:
            content = {**candidate["content"], "parts": [part]}
            yield {"candidates": [{"content": content, "index": candidate["index"]}], **head}
        content = {**candidate["content"], "parts": [last]}
        yield {"candidates": [{**candidate, "content": content}], **head}


def _pieces(parts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for part in parts:
        if "text" in part:
            for text in pieces(part["text"]):
                yield {**part, "text": text}
        else:
            yield part


def _contents(request: dict[str, Any]) -> list[dict[str, Any]]:
    contents = request.get("contents")
    if isinstance(contents, dict):
        contents = [contents]
    if not isinstance(contents, list) or not contents:
        raise errors.invalid("* GenerateContentRequest.contents: contents is not specified")
    for place, content in enumerate(contents):
        if not isinstance(content, dict) or not content.get("parts"):
            raise errors.invalid(
                f"* GenerateContentRequest.contents[{place}].parts: contents.parts must not be "
                "empty."
            )
        if content.get("role", "user") not in ("user", "model", "function"):
            raise errors.invalid("Please use a valid role: user, model.")
    return contents


def _candidate(
    request: dict[str, Any],
    contents: list[dict[str, Any]],
    config: dict[str, Any],
    digest: str,
    index: int,
) -> dict[str, Any]:
    tool = _forced_tool(request)
    if tool is not None:
        schema = tool.get("parameters") or tool.get("parametersJsonSchema")
        call = {"name": tool.get("name", ""), "args": instance_of(_lower(schema), digest) or {}}
        return _finished([{"functionCall": call}], index, "STOP")
    asked = [one for one in contents if one.get("role", "user") == "user"] or contents
    text = _text(config, digest, text_of(asked[-1]), index)
    text, was_cut = clip(text, config.get("maxOutputTokens"))
    answer: dict[str, Any] = {"text": text}
    thinking = camel(config.get("thinkingConfig") or {})
    thoughts = []
    if thinking.get("includeThoughts"):
        thought = f"The question has the digest {digest}, and so it has one answer."
        thoughts = [{"text": thought, "thought": True}]
        signature = hashlib.sha256(digest.encode()).digest()
        answer["thoughtSignature"] = base64.b64encode(signature).decode()
    return _finished([*thoughts, answer], index, "MAX_TOKENS" if was_cut else "STOP")


def _finished(parts: list[dict[str, Any]], index: int, reason: str) -> dict[str, Any]:
    content = {"parts": parts, "role": "model"}
    return {"content": content, "finishReason": reason, "index": index}


def _text(config: dict[str, Any], digest: str, question: str, index: int) -> str:
    schema = config.get("responseSchema") or config.get("responseJsonSchema")
    if config.get("responseMimeType") == "application/json" and schema:
        return json.dumps(instance_of(_lower(schema), digest), ensure_ascii=False)
    return answer_text(digest, question, choice=index)


def _lower(schema: Any) -> Any:
    """Return a schema with the type names of JSON Schema: Gemini's own are capitals."""
    if isinstance(schema, list):
        return [_lower(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value.lower() if name == "type" and isinstance(value, str) else _lower(value)
        for name, value in schema.items()
    }


def _forced_tool(request: dict[str, Any]) -> dict[str, Any] | None:
    """Return the function that a request forces, or None if the model may answer in words."""
    calling = camel(camel(request.get("toolConfig") or {}).get("functionCallingConfig") or {})
    if calling.get("mode") != "ANY":
        return None
    allowed = calling.get("allowedFunctionNames")
    for tool in request.get("tools") or ():
        for declared in camel(tool).get("functionDeclarations") or ():
            if not allowed or declared.get("name") in allowed:
                return camel(declared)
    raise errors.invalid("Function calling mode is ANY, but no function is allowed.")


def _written(candidate: dict[str, Any], *, thoughts: bool) -> int:
    parts = [p for p in candidate["content"]["parts"] if bool(p.get("thought")) is thoughts]
    return sum(tokens_in(p.get("text") or json.dumps(p.get("functionCall"))) for p in parts)
