"""The `Prefer` header: whether the caller would take its answer later (RFC 7240).

A preference is a wish: what cannot be read or is not known is ignored and goes
upstream, it is never an error (RFC 7240, section 2).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

LONGEST_WAIT: Final = timedelta(minutes=10)
"""The longest that a connection is held on request; longer wishes are cut to it.

The default read timeout of the common SDKs.
"""

LONGEST_FIELD: Final = 512
"""A longer field is ignored whole, and so are those after as many characters: reading quotes
that never close is quadratic."""

# preference = token [ BWS "=" BWS word ] *( OWS ";" [ OWS parameter ] ), where
# word = token / quoted-string (RFC 7240, section 2; RFC 9110, section 5.6).
# Quoted strings come first, so that a comma inside of one separates nothing.
_PIECES: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[,;=]|[^\s,;="]+|\s+|"')
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SECONDS: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Preferences:
    """Those of the caller's preferences that mean something here."""

    respond_async: bool = False
    wait: timedelta | None = None
    """How long the caller would wait; at most `LONGEST_WAIT`."""

    @property
    def applied(self) -> str | None:
        """The value of `Preference-Applied`, if the call was deferred on this wish."""
        if not self.respond_async:
            return None
        if self.wait is None:
            return "respond-async"
        return f"respond-async, wait={int(self.wait.total_seconds())}"


NO_PREFERENCES: Final = Preferences()


def read_preferences(values: Iterable[str]) -> Preferences:
    """Return what the `Prefer` fields of one call ask for, in their order.

    If a preference is named twice, the first one counts (RFC 7240, section 2).
    """
    known: dict[str, str] = {}
    left = LONGEST_FIELD
    for value in values:
        if len(value) > left:
            continue
        left -= len(value)
        for name, word in _preferences(value):
            known.setdefault(name, word)
    seconds = known.get("wait", "")
    wait = timedelta(seconds=int(seconds)) if _SECONDS.fullmatch(seconds) else None
    return Preferences(
        # An empty value is as good as none; any other would be a wish unknown to us.
        respond_async=known.get("respond-async") == "",
        wait=None if wait is None else min(wait, LONGEST_WAIT),
    )


def _preferences(value: str) -> Iterable[tuple[str, str]]:
    """Yield name, in lower case, and value of each readable preference of one field."""
    pieces: list[str] = []
    for piece in [*_PIECES.findall(value), ","]:
        if piece != ",":
            pieces.append(piece)
            continue
        if (preference := _preference(pieces)) is not None:
            yield preference
        pieces = []


def _preference(pieces: list[str]) -> tuple[str, str] | None:
    # Parameters refine a preference; none is defined for those that we know.
    end = pieces.index(";") if ";" in pieces else len(pieces)
    words = [piece for piece in pieces[:end] if not piece.isspace()]
    match words:
        case [name] if _TOKEN.fullmatch(name):
            return name.lower(), ""
        case [name, "="] if _TOKEN.fullmatch(name):
            return name.lower(), ""
        case [name, "=", word] if _TOKEN.fullmatch(name):
            return name.lower(), _unquoted(word)
    return None


def _unquoted(word: str) -> str:
    if len(word) >= 2 and word[0] == word[-1] == '"':
        return re.sub(r"\\(.)", r"\1", word[1:-1])
    return word
