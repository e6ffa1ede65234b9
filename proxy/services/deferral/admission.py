"""Whether a call can run later, and what must be known of it for that; or a clear refusal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from proxy.core.affinity import affinity
from proxy.core.body import ParsedBody, carries_data, check_size, estimate_tokens, line_body
from proxy.core.dialects import Endpoint, Place
from proxy.core.errors import CallerError
from proxy.core.ids import find_job_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A call that can run later, and what must be known of it."""

    line_body: bytes
    """The body as a line of JSONL holds it: no CR, no LF, no byte order mark."""

    model: str
    """Empty where the API has a default and the call names none."""

    tokens: int
    """Estimated prompt tokens: a quarter of the bytes, attachments at 1,000 each.

    Only for a provider's limit of enqueued tokens, whose own count decides.
    """

    affinity: str
    """Begins alike for calls whose prompts do: see `core.affinity`."""

    fits_a_batch: bool = True
    """Whether no field of it keeps it out of batches."""


def admit(parsed: ParsedBody, place: Place, *, max_line_bytes: int) -> Admitted:
    """Return what the job needs to know of the call.

    Raises:
        CallerError: if the provider would refuse it anyway, in the provider's
            terms, or if it can only run now.
    """
    fields, endpoint = parsed.fields, place.endpoint
    _check_fields(fields, endpoint)
    line = line_body(parsed, keep=endpoint.own_fields)
    check_size(len(line), max_bytes=max_line_bytes)
    return Admitted(
        line_body=line,
        model=place.model or str(fields.get("model") or ""),
        tokens=estimate_tokens(line),
        affinity=affinity(fields, endpoint.shape),
        fits_a_batch=_fits_a_batch(fields, line, endpoint),
    )


def _fits_a_batch(fields: Mapping[str, object], line: bytes, endpoint: Endpoint) -> bool:
    return not (
        any(fields.get(name) for name in endpoint.unbatched_fields)
        or any(fields.get(name) == 0 for name in endpoint.unbatched_at_zero)
        or (not endpoint.batches_attachments and carries_data(line))
    )


_EXPECTED: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "model": ((str,), "a string"),
    "messages": ((list,), "an array of objects"),
    "max_tokens": ((int,), "an integer"),
    "input": ((str, list), "a string or an array"),
    "prompt": ((str, list), "a string or an array"),
    "images": ((list,), "an array of objects"),
    "stream": ((bool,), "a boolean"),
    "background": ((bool,), "a boolean"),
}

_KINDS: Final[Mapping[type, str]] = {
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def _check_fields(fields: Mapping[str, object], endpoint: Endpoint) -> None:
    # Words and codes as OpenAI answers them, so that a caller's handling of such
    # errors fits whether the call was deferred or not.
    for name in endpoint.required:
        if fields.get(name) is None:
            raise CallerError(
                f"Missing required parameter: '{name}'.",
                param=name,
                code="missing_required_parameter",
            )
        if fields[name] in ("", []):
            raise CallerError(
                f"Invalid '{name}': it must not be empty.", param=name, code="invalid_value"
            )
    for name in _EXPECTED.keys() & fields.keys():
        if name in endpoint.own_fields or (name == "prompt" and name not in endpoint.required):
            continue  # On `/v1/responses` a prompt is a reference to a stored one, an object.
        types, expected = _EXPECTED[name]
        value = fields[name]
        if value is not None and not isinstance(value, types):
            raise _wrong_type(name, value, expected)
    for index, message in enumerate(_messages(fields)):
        if not isinstance(message, dict):
            raise _wrong_type(f"messages[{index}]", message, "an object")
    _check_previous(fields)


def _wrong_type(name: str, value: object, expected: str) -> CallerError:
    return CallerError(
        f"Invalid type for '{name}': expected {expected}, but got {_KINDS[type(value)]} instead.",
        param=name,
        code="invalid_type",
    )


def _check_previous(fields: Mapping[str, object]) -> None:
    previous = fields.get("previous_response_id")
    if isinstance(previous, str) and find_job_id(previous):
        raise CallerError(
            "'previous_response_id' names a job; a response can only follow one that exists at "
            "the provider: wait for the job and use the 'resp_…' ID of its result",
            param="previous_response_id",
            code="previous_response_pending",
        )


def _messages(fields: Mapping[str, object]) -> list[object]:
    messages = fields.get("messages")
    return messages if isinstance(messages, list) else []
