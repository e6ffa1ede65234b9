"""What all provider adapters share: the mapping of a provider's refusals to our errors.

Nothing here knows an HTTP library: adapters say what was answered, if anything was.
"""

import json
import re
from collections.abc import Iterable
from datetime import timedelta
from http import HTTPStatus
from typing import Final, TypeVar

from proxy.core.batch_ends import (
    INPUT_CHANGED,
    INPUT_MISSING,
    TOO_LARGE,
    TOO_MANY_TOKENS,
    UNBATCHABLE_CODES,
)
from proxy.core.errors import (
    CREDENTIAL_CODES,
    CREDENTIAL_STATUSES,
    CredentialRefusedError,
    ProviderBusyError,
    ProviderError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from proxy.core.loose_json import loose_json
from proxy.core.refusals import OF_THE_CALL, error_code, error_in
from proxy.ports.provider import Submission

__all__ = [
    "error_code",
    "error_member",
    "is_credential_code",
    "redacted",
    "refusal",
    "request_id",
    "secrets_of",
    "shown",
    "status",
    "unavailable",
]

_T = TypeVar("_T")

_BUSY_STATUSES: Final = frozenset({409, 423, 425, 429, 498, 529})
"""Explicit refusals that can pass. 409 is a batch in the wrong state for a cancel, or
a lock; 498 is Groq's `capacity_exceeded`, 529 Anthropic's `overloaded_error`."""

_OF_THE_BATCH: Final = OF_THE_CALL | {TOO_MANY_TOKENS}
"""Codes of what no waiting and no other key would cure, whatever their status."""

_UNCLEAR_STATUSES: Final = frozenset({408, 499})
"""A server that gave up waiting, or whose backend did, may have acted on what it had received."""

_FILE_FIELDS: Final = frozenset({"file_id", "input_file_id", "input_files"})
_NO_CURE: Final = ProviderRejectedError.code
_IN_PREPARATION: Final = re.compile(
    r"is in '(?:pending|running|processing|uploaded|not ?started)' state|completed file import",
    re.IGNORECASE,
)

_MESSAGE_CHARS: Final = 300
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_QUOTED: Final = re.compile(r"(\(TYPE_\w+\)),.*")
_STATUS: Final = re.compile("[1-5][0-9]{2}")
_REQUEST_ID: Final = re.compile(r"[!-~]{1,256}")


def refusal(
    what: str,
    *,
    status: int,
    body: bytes,
    retry_after: timedelta | None = None,
    secrets: tuple[str, ...] = (),
) -> ProviderError:
    """Return the error that stands for an answer other than success.

    `what` names the operation. Whatever is in `secrets` is cut out of message and
    body: providers echo credentials in their refusals.
    """
    error = error_member(body)
    code = TOO_MANY_TOKENS if is_token_limit(error) else error_code(error)
    reason = " ".join(part for part in (f"HTTP {status}", code, _message(error)) if part)
    kind = _error_class(status, code)
    return kind(
        redacted(f"{what}: {reason}", secrets),
        code=_cure(status, code) if kind is ProviderRejectedError else None,
        status_code=status,
        body=_cut_out(body, secrets),
        retry_after=retry_after,
    )


def create_refused(exc: ProviderRejectedError) -> ProviderError:
    """Return what a refused create means whose input was uploaded before.

    OpenAI's words for one that it does not find are "Cannot find file …", with 400 and the
    field at fault; seen right after uploads (bespokelabsai/curator #116). Azure looks through
    a file first, and says so until it has (openai/openai-dotnet #312).
    """
    error = error_member(exc.body or b"")
    if _IN_PREPARATION.search(str(error.get("message")) if isinstance(error, dict) else ""):
        return ProviderBusyError(exc.message, status_code=exc.status_code, body=exc.body)
    param = error.get("param") if isinstance(error, dict) else None
    is_missing = param in _FILE_FIELDS or (exc.status_code, exc.code) == (404, _NO_CURE)
    if not is_missing:
        return exc
    return ProviderRejectedError(
        exc.message, code=INPUT_MISSING, status_code=exc.status_code, body=exc.body
    )


def unavailable(what: str, reason: str, *, sent: bool = True) -> ProviderUnavailableError:
    """Return the error that stands for no answer."""
    return ProviderUnavailableError(f"{what}: {reason}", sent=sent)


def input_changed(what: str, reason: str) -> ProviderUnavailableError:
    """Return the error for an input that broke off, since it is no more what was announced."""
    message = f"{what}: the input has another length: {reason}"
    return ProviderUnavailableError(message, code=INPUT_CHANGED, sent=False)


def expected(found: _T | None, what: str, noun: str) -> _T:
    """Return what a successful answer has to hold, e.g. `a batch`.

    Raises:
        ProviderUnavailableError: if it does not: such an answer promises nothing.
    """
    if found is None:
        raise unavailable(what, f"HTTP 200 without {noun}")
    return found


def check_may_send(what: str, submission: Submission) -> None:
    """Raise if whoever wants this create may not send it any more."""
    if not submission.may_send():
        raise unavailable(what, "its time to send was over", sent=False)


def json_value(raw: bytes) -> object:
    """Return the JSON of an answer, or nothing if it is none."""
    try:
        return loose_json(raw)
    except ValueError:
        return None


def id_segment(name: str) -> str:
    """Return an ID that goes into a target; it comes from the provider.

    Raises:
        ProviderRejectedError: as for one that is not known, if it has other characters
            than IDs have.
    """
    if not _ID.fullmatch(name):
        raise ProviderRejectedError("this is no ID of a provider", status_code=404)
    return name


def is_credential_code(code: str | None) -> bool:
    """Return whether a provider's error code blames the account."""
    return code in CREDENTIAL_CODES


def status(value: object) -> int | None:
    """Return an HTTP status that stands in a body, or nothing if it is none.

    It is what a caller is answered with in the end, and what no server could send, none could.
    One that is written as text or with a fraction of nothing is one: for that, no answer that
    is paid for is given up.
    """
    if isinstance(value, str) and _STATUS.fullmatch(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 100 <= value <= 599 and value == int(value) else None


def request_id(value: object) -> str | None:
    """Return a request's ID that stands in a body, if it can stand in a header as well."""
    return value if isinstance(value, str) and _REQUEST_ID.fullmatch(value) else None


def secrets_of(credential: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return what of a credential must appear nowhere: values, and tokens without their scheme."""
    values = [value for _, value in credential]
    return tuple({part for value in values for part in (value, value.split(" ")[-1]) if part})


def redacted(text: str, secrets: tuple[str, ...]) -> str:
    """Return `text` without the secrets."""
    for secret in secrets:
        text = text.replace(secret, "[credential]")
    return text


def _cut_out(body: bytes, secrets: tuple[str, ...]) -> bytes:
    for secret in secrets:
        body = body.replace(secret.encode(), b"[credential]")
    return body


def is_token_limit(error: object) -> bool:
    """Return whether a create is refused, or a batch failed, for what is enqueued.

    OpenAI's words at the batch are "Enqueued token limit reached for MODEL in organization …".
    """
    if not isinstance(error, dict):
        return False
    message = error.get("message")
    return error.get("code") == TOO_MANY_TOKENS or (
        isinstance(message, str) and "enqueued token" in message.lower()
    )


def _cure(status: int, code: str | None) -> str | None:
    """Return what must be done about a refusal, in the word that it has at a failed batch."""
    if code in UNBATCHABLE_CODES or code == TOO_MANY_TOKENS:
        return code
    return TOO_LARGE if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else None


def _error_class(status: int, code: str | None) -> type[ProviderError]:
    if code in _OF_THE_BATCH and 400 <= status < 500:
        return ProviderRejectedError
    if status in CREDENTIAL_STATUSES or is_credential_code(code):
        return CredentialRefusedError
    if status in _BUSY_STATUSES:
        return ProviderBusyError
    if 400 <= status < 500 and status not in _UNCLEAR_STATUSES:
        return ProviderRejectedError
    # 5xx, and whatever no API should answer: redirects, a 2xx that is no answer.
    return ProviderUnavailableError


def _message(error: object) -> str | None:
    message = error.get("message") if isinstance(error, dict) else error
    return shown(message) if isinstance(message, str) else None


def shown(message: str | None) -> str | None:
    """Return a provider's words as they may be kept and logged: less what they quote of a prompt.

    Google's repeat a value that they do not like behind its type, and a payload that they
    cannot read on lines of its own.
    """
    if message is None:
        return None
    first = message.strip().partition("\n")[0]
    return _QUOTED.sub(r"\1", first)[:_MESSAGE_CHARS]


def check_known(what: str, raw: bytes, batch: object) -> None:
    """Raise if an answer shows no `batch` but the error that it is not known, with status 200.

    Not to be asked of a create, of which such an answer does not say that nothing was made.

    Raises:
        ProviderError: the one that status 404 stands for.
    """
    if batch is None and error_member(raw) is not None:
        raise refusal(what, status=HTTPStatus.NOT_FOUND, body=raw)


def error_member(body: bytes) -> object:
    """Return the `error` of an error envelope, or nothing if there is none."""
    try:
        envelope = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return error_in(envelope) or None
