"""What a provider's error object says is at fault, in one word.

OpenAI and Anthropic have codes and types. Google's errors are a `google.rpc.Status`:
an HTTP status as a number, its name, and details of which one may give the reason.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from proxy.core.errors import CREDENTIAL_CODES, MONEY_CODES
from proxy.core.loose_json import loose_json

INSUFFICIENT_QUOTA: Final = "insufficient_quota"
"""The account's money is used up, as OpenAI words it."""

FILE_REFUSED: Final = "FILE_PERMISSION_DENIED"
"""A file that a call names is gone, or another's."""

INPUT_FLAGGED: Final = "input_flagged"
"""A moderation took offence at what a call says."""

MODEL_UNKNOWN: Final = "model_not_found"
"""A model does not exist, or is not open to the account: OpenAI says the latter with 403."""

OF_THE_CALL: Final = frozenset({FILE_REFUSED, INPUT_FLAGGED, MODEL_UNKNOWN})
"""What is the call's fault and no credential's, though its status may be that of a refused one."""

# Gemini API: with the status of a rate limit, and in no other field than the message.
_NO_CREDIT: Final = ("credits are depleted", "spending cap")

# Anthropic: with the status and the type of a call that is wrong or comes too soon, and no word
# elsewhere; but for the last one, for which some of its APIs have a word in the details
# (Anthropic API, "Rate limits", on spend limits).
_OF_A_CALL: Final = frozenset({"invalid_request_error", "rate_limit_error"})
_OF_THE_ACCOUNT: Final = {
    "your credit balance is too low": "billing_error",
    "this organization has been disabled": "permission_error",
    "you have reached your specified api usage limits": "billing_error",
    "you have reached your specified workspace api usage limits": "billing_error",
    "you have reached your api usage limits": "billing_error",
}

# xAI: its errors are text alone, beside a code that is only the name of the status. A wrong key is
# refused with 400; what moderation refuses, or an account without funds, with 403 or 429.
_TEXTS: Final = {
    re.compile("incorrect api key provided", re.IGNORECASE): "invalid_api_key",
    re.compile("content violates usage guidelines", re.IGNORECASE): INPUT_FLAGGED,
    re.compile("your team .{0,80}used all available credits", re.IGNORECASE): INSUFFICIENT_QUOTA,
}

# Gemini API: with the status and the name of a refused key.
_NO_FILE: Final = "access the file"


def error_code(error: object) -> str | None:
    """Return the code of an error object; its `type` if that says more.

    OpenAI API errors: `insufficient_quota` has been seen as either.
    """
    # It is parsed JSON, and asking for `dict` takes a fraction of asking for any `Mapping`.
    if not isinstance(error, dict):
        return _code_of_text(error) if isinstance(error, str) else None
    code, kind = error.get("code"), error.get("type")
    if isinstance(kind, str):
        if kind in CREDENTIAL_CODES:
            return kind
        if kind in _OF_A_CALL and code is None and (blamed := _blamed(error)):
            return blamed
    if isinstance(error.get("status"), str) and not isinstance(code, str):
        return _google_code(error)
    if isinstance(code, str) and code:
        return code
    if isinstance(code, int):
        return INPUT_FLAGGED if _is_flagged(error) else str(code)
    return kind if isinstance(kind, str) and kind else None


def _code_of_text(error: str) -> str | None:
    # From its beginning alone: further on it may quote what the call says.
    return next((code for words, code in _TEXTS.items() if words.match(error)), None)


def error_in(answer: object) -> object:
    """Return the `error` of a parsed answer, or nothing if there is none.

    Gemini's OpenAI API answers with a list of one envelope (continuedev/continue #8516).
    """
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    return answer.get("error") if isinstance(answer, dict) else None


def code_of(body: bytes | None) -> str | None:
    """Return the code of the error that the body of a refusal holds; nothing without one."""
    try:
        return error_code(error_in(loose_json(body or b"")))
    except ValueError:
        return None


def blames_money(body: bytes | None) -> bool:
    """Return whether the body of a refusal says that the account has no means left."""
    return code_of(body) in MONEY_CODES


def _blamed(error: Mapping[str, object]) -> str | None:
    """Return the code or type of an error that blames the account by a detail or its words."""
    details = error.get("details")
    detail = details.get("error_code") if isinstance(details, dict) else None
    if isinstance(detail, str) and detail in CREDENTIAL_CODES:
        return detail
    message = str(error.get("message") or "").lower()
    found = (kind for words, kind in _OF_THE_ACCOUNT.items() if message.startswith(words))
    return next(found, None)


def _is_flagged(error: Mapping[str, object]) -> bool:
    """Return whether a moderation refused the input (OpenRouter, "Errors": with 403)."""
    metadata = error.get("metadata")
    return isinstance(metadata, dict) and "flagged_input" in metadata


def _google_code(error: Mapping[str, object]) -> str:
    """Return the reason if it blames the account (`google.api.ErrorReason`), else the name."""
    status, message = str(error["status"]), str(error.get("message") or "").lower()
    for reason in _reasons(error):
        if reason in CREDENTIAL_CODES:
            return reason
    if status == "RESOURCE_EXHAUSTED" and any(words in message for words in _NO_CREDIT):
        return INSUFFICIENT_QUOTA
    if status == "PERMISSION_DENIED" and _NO_FILE in message:
        return FILE_REFUSED
    return status


def _reasons(error: Mapping[str, object]) -> Iterator[str]:
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        reason = detail.get("reason") if isinstance(detail, Mapping) else None
        if isinstance(reason, str):
            yield reason
