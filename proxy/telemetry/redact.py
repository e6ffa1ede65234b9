"""The second line of defence: what looks like a credential does not leave in a log line.

The first is that nobody logs one. Names are judged before values, since a token
of an unknown shape is recognised by its name alone.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

HIDDEN: Final = "***"

_DEPTH_MAX: Final = 4

_TEXT_CHARS: Final = 8_192
"""What is kept of a text: a long traceback. Names of models and others are the caller's to
choose, and none of them may fill the log."""

_LOOKED_THROUGH: Final = 4 * _TEXT_CHARS
"""How much of a longer text: each character costs a microsecond, and some senders send
megabytes."""

_WORD_CHARS: Final = 64
"""Up to this length what became of a text is remembered, which takes at most some MB."""

_SECRET_NAMES: Final = frozenset(
    {
        "api_key",
        "apikey",
        "authorization",
        "cookie",
        "passwd",
        "password",
        "secret",
        "secret_key",
        "set_cookie",
        "token",
        "x_api_key",
        "x_goog_api_key",
    }
)
_SECRET_ENDS: Final = ("_token", "_secret", "_password", "_api_key", "_authorization")

# Shapes that the vendors document, the schemes of RFC 9110 (section 11.6.2),
# user information in a URL, and the query parameters that carry keys. What may follow a
# beginning is taken as it comes and never given back: `eyJ-eyJ-…` would else be read to its
# end from each place in it where a token could begin.
_SECRET_TEXT: Final = re.compile(
    r"""
      \b(?:sk|gsk|xai|pplx|whsec|hf|r8)[-_][A-Za-z0-9_\-+/=]{8,}
    | \bAIza[0-9A-Za-z_\-]{16,}
    | \bya29\.[0-9A-Za-z_\-]+
    | \b(?-i:eyJ)[0-9A-Za-z_\-]{7,}+(?:\.[0-9A-Za-z_\-]*+)*+
    | \b(?:Bearer|Basic)\s+[^\s"',]{6,}
    | (?<=://)[^/\s@]+@
    | (?<=[?&])(?:key|api[-_]?key|access_token|token|sig)=[^&\s"']+
    """,
    re.VERBOSE | re.IGNORECASE,
)

_PLAIN: Final = frozenset({type(None), bool, int, float})
_JOB_ID: Final = re.compile(r"job_[0-9A-Z]{28}")


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Tell whether a fact of that name would be a credential."""
    plain = name.lower().replace("-", "_")
    return plain in _SECRET_NAMES or plain.endswith(_SECRET_ENDS)


def redacted(value: object, *, depth: int = 0) -> object:
    """Return `value` as it may be logged: plain data, with credentials as `***`.

    Bytes are never text that we made, so only their number is kept.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, str):
        return _word(value) if len(value) <= _WORD_CHARS else _text(value)
    if depth < _DEPTH_MAX:
        if isinstance(value, Mapping):
            return {str(name): _fact(str(name), below, depth + 1) for name, below in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [redacted(item, depth=depth + 1) for item in value]
    return _text(str(value))


def _text(text: str) -> str:
    # Looked through before it is cut: half a credential looks like none.
    safe = _SECRET_TEXT.sub(HIDDEN, text[:_LOOKED_THROUGH])
    if len(text) > _LOOKED_THROUGH and len(safe) < 2 * _TEXT_CHARS:
        # Nearly all was hidden, and what is left ends perhaps in such a half.
        return HIDDEN
    return safe if len(safe) <= _TEXT_CHARS else f"{safe[:_TEXT_CHARS]}…"


@lru_cache(maxsize=4096)
def _word(text: str) -> str:
    # Most facts are the same few words again and again, and looking through them was
    # a third of what a deferred call costs.
    return _SECRET_TEXT.sub(HIDDEN, text)


def redact_facts(facts: Mapping[str, object]) -> dict[str, object]:
    """Return all facts of a log line as they may be written."""
    safe: dict[str, object] = {}
    for name, value in facts.items():
        # Nearly all are numbers, and the same few words again and again.
        if type(value) in _PLAIN or (type(value) is str and _is_job_id(value)):
            safe[name] = value
        elif type(value) is str and len(value) <= _WORD_CHARS and not is_secret_name(name):
            safe[name] = _word(value)
        else:
            safe[name] = _fact(name, value, 0)
    return safe


def _is_job_id(text: str) -> bool:
    # Each is new, so that looking through them would be dear, and none is a secret.
    return text[:4] == "job_" and _JOB_ID.fullmatch(text) is not None


def _fact(name: str, value: object, depth: int) -> object:
    # A number or a flag is no credential, whatever it is called.
    if is_secret_name(name) and value is not None and not isinstance(value, bool | int | float):
        return HIDDEN
    return redacted(value, depth=depth)
