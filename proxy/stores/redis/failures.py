"""What can go wrong at Redis, in our terms: messages go to callers, hints to operators."""

from ssl import SSLCertVerificationError
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004 - any that breaks, as the library has it
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from proxy.core.errors import StoreCorruptError, StoreError, StoreUnavailableError

_NO_DATABASE: Final = ("DB index", "SELECT is not")

_NO_RIGHT: Final = ("executing the script can't", "ACL failure in script")
"""So it is told of what a script calls, before Redis 7.2 and since then."""


def translate(exc: BaseException) -> StoreError:
    """Return what went wrong, in our terms and without contents."""
    if isinstance(exc, StoreError):
        return exc
    if isinstance(exc, AuthenticationError):
        return _no_rights()
    # The library says only that it could not connect, and what it met before that.
    if isinstance(exc.__context__, SSLCertVerificationError):
        return StoreUnavailableError(
            "the certificate of Redis is not trusted",
            hint="name the file of its authority by ?ca= in the store's URL",
        )
    if isinstance(exc, ResponseError):
        return _known(exc) or _unknown(exc)
    # What the library says of a connection is of hosts and reasons, and never of contents.
    hint = str(exc) if isinstance(exc, ConnectionError) else None
    return StoreUnavailableError(f"Redis does not answer: {type(exc).__name__}", hint=hint)


def _known(exc: ResponseError) -> StoreError | None:
    """Return what a refusal means that somebody can do something about."""
    text = str(exc)
    if isinstance(exc, OutOfMemoryError):
        return StoreUnavailableError(
            "Redis is out of memory", hint="raise maxmemory, or shorten retention.results"
        )
    if isinstance(exc, NoPermissionError) or any(words in text for words in _NO_RIGHT):
        return _no_rights()
    if isinstance(exc, ReadOnlyError):
        return StoreUnavailableError(
            "Redis is a replica and takes no writes",
            hint="name the master in the store's URL, or the sentinels that know it",
        )
    if isinstance(exc, TryAgainError):
        return StoreUnavailableError("Redis moves what belongs to the job to another node")
    if text.startswith("MISCONF"):
        return StoreUnavailableError(
            "Redis takes no writes, since it cannot save them", hint="look at its log and its disk"
        )
    if text.startswith(_NO_DATABASE):
        return StoreUnavailableError(
            "Redis has no such database", hint="its number ends the path of the store's URL"
        )
    return None


def _unknown(exc: ResponseError) -> StoreError:
    # The first word of a refusal names it; what follows may quote arguments. Of those
    # that the library knows it has cut the word off.
    word = type(exc).__name__ if type(exc) is not ResponseError else str(exc).partition(" ")[0]
    # Where it happened is added to whatever a script is refused. What has a name of its own
    # in capitals (`MISCONF`, `NOREPLICAS`) says how the server is, and not what it holds.
    is_ours = "user_script" in str(exc) and not word.isupper()
    if word == "WRONGTYPE" or is_ours:
        return StoreCorruptError(f"Redis holds something else under our keys ({word})")
    return StoreUnavailableError(f"Redis refused a command: {word}")


def _no_rights() -> StoreError:
    return StoreUnavailableError(
        "Redis refused the credentials or their rights",
        hint="the user needs all commands on keys and channels that begin with offramp:",
    )
