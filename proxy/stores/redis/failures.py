"""What can go wrong at Redis, in our terms: messages go to callers, hints to operators."""

from collections.abc import Mapping
from ssl import SSLCertVerificationError
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - any that breaks, as the library has it
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from proxy.core.errors import StoreCorruptError, StoreError, StoreUnavailableError

ALL_RIGHTS: Final = "it needs all commands on keys and channels that begin with offramp:"

GRANT: Final = "ACL SETUSER its-name ~offramp:* &offramp:* +@all"

_NO_RIGHT: Final = ("executing the script can't", "ACL failure in script")
"""So it is told of what a script calls, before Redis 7.2 and since then."""


_BY_KIND: Final[Mapping[type[ResponseError], tuple[str, str | None]]] = {
    OutOfMemoryError: ("Redis is out of memory", "raise maxmemory, or shorten retention.results"),
    ReadOnlyError: (
        "Redis is a replica and takes no writes",
        "name the master in the store's URL, or the sentinels that know it",
    ),
    # Before the next one, of whose kind it is.
    MasterDownError: (
        "Redis is a replica without its master",
        "start the master, or name the sentinels that know it in the store's URL",
    ),
    ClusterDownError: (
        "the cluster of Redis is down",
        "look at CLUSTER INFO: each slot needs a master, and the masters a majority",
    ),
    TryAgainError: ("Redis moves what belongs to the job to another node", None),
}
"""Message and hint."""

_NO_DATABASE: Final = ("Redis has no such database", "its number ends the path of the store's URL")

_BY_BEGINNING: Final[Mapping[str, tuple[str, str]]] = {
    "MISCONF": (
        "Redis takes no writes, since it cannot save them",
        "look at its log and its disk",
    ),
    "NOREPLICAS": (
        "Redis takes no writes, since too few replicas follow it",
        "start its replicas, or look at its setting min-replicas-to-write",
    ),
    "BUSY ": (
        "Redis is held by a script of somebody's",
        "SCRIPT KILL ends one that has not written yet",
    ),
    "DB index": _NO_DATABASE,
    "SELECT is not": _NO_DATABASE,
}
"""The same, by how a refusal begins."""


def translate(exc: BaseException) -> StoreError:
    """Return what went wrong, in our terms and without contents."""
    if isinstance(exc, StoreError):
        return exc
    if isinstance(exc, AuthenticationError):
        return StoreUnavailableError(
            "Redis refused the credentials",
            hint="they stand in the store's URL, as redis://USER:PASSWORD@HOST (or :PASSWORD@,"
            " without a user); what is neither a letter nor a digit is percent-encoded",
        )
    if isinstance(exc, BusyLoadingError):
        return StoreUnavailableError(
            "Redis still reads its files", hint="it was started just now: wait until it has"
        )
    # The library says only that it could not connect, and what it met before that.
    if isinstance(exc.__context__, SSLCertVerificationError):
        return StoreUnavailableError(
            "the certificate of Redis is not trusted",
            hint="name the file of its authority by ?ca= in the store's URL",
        )
    if isinstance(exc, ResponseError):
        return _known(exc) or _unknown(exc)
    if isinstance(exc, (RedisTimeoutError, TimeoutError)):
        return StoreUnavailableError("Redis does not answer in time")
    # What the library says of a connection is of hosts and reasons, and never of contents.
    hint = str(exc) if isinstance(exc, ConnectionError) else type(exc).__name__
    return StoreUnavailableError("Redis does not answer", hint=hint)


def _known(exc: ResponseError) -> StoreError | None:
    """Return what a refusal means that somebody can do something about."""
    text = str(exc)
    if isinstance(exc, NoPermissionError) or any(words in text for words in _NO_RIGHT):
        return StoreUnavailableError(
            "Redis refused a command: its user lacks rights", hint=f"{ALL_RIGHTS} ({GRANT})"
        )
    for kind, (message, hint) in _BY_KIND.items():
        if isinstance(exc, kind):
            return StoreUnavailableError(message, hint=hint)
    for beginning, (message, hint) in _BY_BEGINNING.items():
        if text.startswith(beginning):
            return StoreUnavailableError(message, hint=hint)
    return None


def _unknown(exc: ResponseError) -> StoreError:
    # The first word of a refusal names it; what follows may quote arguments. Where the library
    # knows the word, it has cut it off.
    word = type(exc).__name__ if type(exc) is not ResponseError else str(exc).partition(" ")[0]
    # A refusal of a script also says where it happened. One with a name in capitals (`MISCONF`,
    # `NOREPLICAS`) is about the state of the server, and not about what it holds.
    is_ours = "user_script" in str(exc) and not word.isupper()
    if word == "WRONGTYPE" or is_ours:
        return StoreCorruptError(f"Redis holds something else under our keys ({word})")
    return StoreUnavailableError(f"Redis refused a command: {word}")
