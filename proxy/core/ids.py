"""Identifiers, and the syntax by which a job ID is known to be ours.

A job ID is `job_`, two characters of shard, then 26 Crockford base-32
characters: ten of time (milliseconds), fifteen random, and one check character
over all before it. A path that contains one is never forwarded, so the check
matters: a provider's own ID must not be taken for ours by chance.

Nothing here draws randomness: the caller passes the bytes.
"""

import hashlib
import re
from datetime import datetime
from functools import lru_cache
from typing import Final, NewType

JobId = NewType("JobId", str)
BatchId = NewType("BatchId", str)
OwnerId = NewType("OwnerId", str)
"""Keyed hash of a credential's token value, or the name of configured owners."""

ANONYMOUS: Final = OwnerId("anonymous")
"""The owner of calls without a credential. A hash is longer, and no configured owner may have the
name. Stores hold it: it cannot be changed."""

CredentialId = NewType("CredentialId", str)
"""Keyed hash of everything that a provider bills by: token, organisation, project."""

InstanceId = NewType("InstanceId", str)

SHARDS: Final = 64
"""Fixed at creation and carried in the ID, so that a look-up needs no index."""

RANDOM_BYTES: Final = 15
"""How many random bytes an ID takes: one for each character, of which five bits are used."""

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CHARACTERS: Final = bytes(ord(_ALPHABET[byte & 31]) for byte in range(256))
"""The character for each random byte; all of them are equally likely."""

_VALUES: Final = {char: value for value, char in enumerate(_ALPHABET)}
_SINGLE: Final = bytes(_VALUES.get(chr(byte), 0) for byte in range(256))
_DOUBLED: Final = bytes(2 * value // 32 + 2 * value % 32 for value in _SINGLE)
"""What each character counts for in the check, by its code."""

_TIME_CHARS: Final = 10

JOB_ID_PATTERN: Final = re.compile(r"job_[01][0-9A-HJKMNP-TV-Z]{27}(?![0-9A-Za-z_-])")
"""Finds candidates; `is_job_id` decides by the check character."""


def mint_job_id(now: datetime, *, shard: int, random: bytes) -> JobId:
    """Return a new ID, which sorts by time within its shard.

    `random` is `RANDOM_BYTES` bytes from a cryptographic source: an ID is no
    authorisation, but a guessable one would tell how much others defer.
    """
    assert 0 <= shard < SHARDS
    assert len(random) == RANDOM_BYTES
    millis = int(now.timestamp() * 1000)
    body = _encode(shard, 2) + _encode(millis, _TIME_CHARS) + _random_part(random)
    return JobId(f"job_{body}{_check(body)}")


def mint_batch_id(now: datetime, *, random: bytes) -> BatchId:
    """Return a new batch ID, which sorts by time."""
    assert len(random) == RANDOM_BYTES
    millis = int(now.timestamp() * 1000)
    return BatchId(f"offramp_batch_{_encode(millis, _TIME_CHARS)}{_random_part(random)}")


def is_job_id(text: str) -> bool:
    """Return whether `text` is one of our job IDs, by its syntax alone."""
    return bool(JOB_ID_PATTERN.fullmatch(text)) and _check(text[4:-1]) == text[-1]


def find_job_id(text: str) -> JobId | None:
    """Return the first job ID inside `text`, e.g. a request target."""
    if "job_" not in text:
        return None
    for match in JOB_ID_PATTERN.finditer(text):
        if is_job_id(match.group()):
            return JobId(match.group())
    return None


@lru_cache(maxsize=256)
def shard_for(place: str) -> int:
    """Return the shard for a call, by its idempotency key or else its fingerprint.

    It is always the same: a store looks for what is known of a call in that shard alone. Asked for
    when a job's ID is minted, and again when a store takes the job.
    """
    return int.from_bytes(hashlib.sha256(place.encode()).digest()[:8]) % SHARDS


def shard_of(job_id: JobId) -> int:
    """Return the shard that the ID was made in."""
    return _VALUES[job_id[4]] * 32 + _VALUES[job_id[5]]


def custom_id(job_id: JobId, attempt: int) -> str:
    """Return the line's name at the provider: at most 64 of `[A-Za-z0-9_-]`.

    That is the narrowest rule among the providers (Anthropic, Message Batches,
    `custom_id`). The attempt tells late news of an old batch from the new one's.
    """
    return f"{job_id}-{attempt}"


def parse_custom_id(text: str) -> tuple[JobId, int] | None:
    """Return job and attempt, or nothing if we cannot have issued `text`."""
    job_id, dash, attempt = text.rpartition("-")
    if not dash or not attempt.isascii() or not attempt.isdecimal() or not is_job_id(job_id):
        return None
    return JobId(job_id), int(attempt)


@lru_cache(maxsize=256)
def _encode(value: int, length: int) -> str:
    # The shards are few, and many jobs come within a millisecond.
    return "".join([_ALPHABET[value >> 5 * at & 31] for at in reversed(range(length))])


def _random_part(random: bytes) -> str:
    # Not by encoding fewer bytes: base 32 is Python code, and cost as much as two hashes.
    return random.translate(_CHARACTERS).decode()


def _check(body: str) -> str:
    # Luhn's scheme modulo 32: finds every single wrong character and nearly
    # every swapped pair, within the alphabet that custom IDs allow (Crockford's
    # own modulo-37 scheme needs characters that they do not).
    chars = body.encode("ascii")
    total = sum(chars[::-2].translate(_DOUBLED)) + sum(chars[-2::-2].translate(_SINGLE))
    return _ALPHABET[-total % 32]
