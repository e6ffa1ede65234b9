"""What OpenAI checks in a batch's input file before any line runs.

The check stops at the first bad line, whose number (from 1) it reports; one bad line fails the
whole batch, and nothing is executed or billed.
"""

from array import array
from dataclasses import dataclass, field
from typing import IO, Any

import pydantic_core

from proxy.sandbox.answers import tokens_in
from proxy.sandbox.lines import Pause
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.execute import ENDPOINTS, find_model
from proxy.sandbox.openai.fields import text_of
from proxy.sandbox.openai.plain import embedding_inputs
from proxy.sandbox.settings import BATCH_LINES_MAX, SandboxSettings
from proxy.sandbox.wire import ApiError


class InvalidBatchError(Exception):
    """The input file is not acceptable; `line` counts from 1, None concerns the file."""

    def __init__(
        self, code: str, message: str, *, param: str | None = None, line: int | None = None
    ) -> None:
        super().__init__(message)
        self.entry = {"code": code, "message": message, "param": param, "line": line}


@dataclass(slots=True)
class CheckedInput:
    """What is known of an acceptable input file: where its lines are, and whose model."""

    model: str | None = None
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    """Byte offsets of the lines, eight bytes each: all that stays in memory."""
    prompt_tokens: int = 0
    inputs: int = 0
    """Embedding inputs over all lines, which have a limit of their own."""


async def check_input(
    file: IO[bytes], endpoint: str, settings: SandboxSettings, *, counts_tokens: bool
) -> CheckedInput:
    """Read the whole file once; raise `InvalidBatchError` at the first fault in it."""
    checked = CheckedInput()
    custom_ids: set[str] = set()
    pause = Pause()
    offset = 0
    for number, raw in enumerate(file, start=1):
        if number > settings.lines_max:
            raise InvalidBatchError(
                "too_many_tasks", f"The batch has more than {settings.lines_max} requests."
            )
        line = _Line(number, raw, endpoint)
        body = line.body(custom_ids)
        _check_model(checked, body, line, settings)
        _count(checked, body, line, counts_tokens=counts_tokens)
        checked.offsets.append(offset)
        offset += len(raw)
        await pause.breathe()
    if not checked.offsets:
        raise InvalidBatchError("empty_file", "The input file is empty.")
    return checked


class _Line:
    """One line under examination."""

    def __init__(self, number: int, raw: bytes, endpoint: str) -> None:
        self.number = number
        self._raw = raw
        self.endpoint = endpoint

    def body(self, custom_ids: set[str]) -> dict[str, Any]:
        """Return the request body, once the frame around it is found to be right."""
        try:
            # A byte order mark is no JSON either, so it fails the first line.
            line = pydantic_core.from_json(self._raw)
        except ValueError:
            raise self.wrong("invalid_json_line", "This line is not parseable as JSON.") from None
        if not isinstance(line, dict):
            raise self.wrong("invalid_json_line", "This line is not a JSON object.")
        for name in ("custom_id", "method", "url", "body"):
            if name not in line:
                raise self.wrong(
                    "missing_required_parameter", f"Missing required parameter: '{name}'.", name
                )
        self._check_custom_id(line["custom_id"], custom_ids)
        self._check_target(line)
        body = line["body"]
        if not isinstance(body, dict):
            raise self.wrong("invalid_request", "'body' must be an object.", "body")
        if body.get("stream"):
            raise self.wrong(
                "streaming_unsupported", "Streaming is not supported in batches.", "body.stream"
            )
        return body

    def wrong(self, code: str, message: str, param: str | None = None) -> InvalidBatchError:
        """Return the complaint about this line."""
        return InvalidBatchError(code, message, param=param, line=self.number)

    def _check_custom_id(self, custom_id: Any, custom_ids: set[str]) -> None:
        if not isinstance(custom_id, str):
            raise self.wrong("invalid_request", "'custom_id' must be a string.", "custom_id")
        if custom_id in custom_ids:
            raise self.wrong(
                "duplicate_custom_id",
                f"The custom_id '{custom_id}' is used by an earlier line.",
                "custom_id",
            )
        custom_ids.add(custom_id)

    def _check_target(self, line: dict[str, Any]) -> None:
        if line["method"] != "POST":
            raise self.wrong("invalid_method", "Only the method POST is supported.", "method")
        if line["url"] == self.endpoint:
            return
        if line["url"] not in ENDPOINTS:
            raise self.wrong("invalid_url", f"The url '{line['url']}' is not supported.", "url")
        raise self.wrong(
            "url_mismatch", f"The url must equal the batch's endpoint, {self.endpoint}.", "url"
        )


def _check_model(
    checked: CheckedInput, body: dict[str, Any], line: _Line, settings: SandboxSettings
) -> None:
    name = body.get("model")
    if checked.model is not None:
        if name != checked.model:
            raise line.wrong(
                "mismatched_model",
                f"Expected the model '{checked.model}' of the first line.",
                "body.model",
            )
        return
    if name is None:
        raise line.wrong("invalid_request", "Missing required parameter: 'model'.", "body.model")
    try:
        model = find_model(line.endpoint, body, settings)
    except ApiError as exc:
        raise line.wrong("model_not_found", str(exc), "body.model") from None
    if not model.batchable:
        raise line.wrong("model_not_found", errors.model_not_found(name).message, "body.model")
    checked.model = model.id


def _count(
    checked: CheckedInput, body: dict[str, Any], line: _Line, *, counts_tokens: bool
) -> None:
    if line.endpoint == "/v1/embeddings":
        checked.inputs += len(embedding_inputs(body.get("input")) or ())
        if checked.inputs > BATCH_LINES_MAX:
            raise InvalidBatchError(
                "too_many_tasks", f"The batch has more than {BATCH_LINES_MAX} embedding inputs."
            )
    if counts_tokens:
        asked = [body.get(name) for name in ("messages", "input", "instructions", "prompt")]
        checked.prompt_tokens += tokens_in(text_of(asked))
