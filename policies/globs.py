r"""Text patterns: `*` is any run of characters, `?` any one, `!` in front excludes.

A backslash takes a special character literally (`\*`). There are no character
classes, and matching never takes longer than pattern times text: both may come
from people who mean no good.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

MAX_PATTERN: Final = 256
MAX_TEXT: Final = 16_384
"""Longer texts match nothing but a lone `*`: rules are not meant to search prompts."""

PRESENT: Final = "*"
"""The pattern that only asks whether there is a value."""

_PIECE: Final = re.compile(r"\\(.)|(\*+)|(\?)|([^\\*?]+)", re.DOTALL)


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that cannot be compiled; a leading `!` is part of it.

    Raises:
        ValueError: saying what is wrong with it.
    """
    glob = pattern.removeprefix("!")
    if not glob:
        raise ValueError("a pattern must not be empty")
    if len(glob) > MAX_PATTERN:
        raise ValueError(f"a pattern has at most {MAX_PATTERN} characters")
    if len(glob) != sum(len(piece.group()) for piece in _PIECE.finditer(glob)):
        raise ValueError(r"a pattern must not end in a single backslash (write \\ for one)")


def exactly(text: str) -> str:
    """Return a pattern that only the text itself fits."""
    return re.sub(r"([\\*?!])", r"\\\1", text)


def compile_glob(glob: str) -> Callable[[str], bool]:
    """Return the test of one checked pattern without a leading `!`."""
    runs = _runs(glob)
    if any(isinstance(part, _AnyOne) for run in runs for part in run):
        return _compile_regex(runs)
    match ["".join(str(part) for part in run) for run in runs]:
        case [text]:
            return lambda value: value == text
        case [start, ""]:
            return lambda value: value.startswith(start)
        case ["", end]:
            return lambda value: value.endswith(end)
        case ["", middle, ""]:
            return lambda value: middle in value
    return _compile_regex(runs)


@dataclass(frozen=True, slots=True)
class _AnyOne:
    """A `?`."""


_Run = list[str | _AnyOne]


def _runs(glob: str) -> list[_Run]:
    """Return what stands between the stars."""
    runs: list[_Run] = [[]]
    for piece in _PIECE.finditer(glob):
        escaped, star, one, literal = piece.groups()
        if star:
            runs.append([])
        else:
            runs[-1].append(_AnyOne() if one else literal or escaped)
    return runs


def _compile_regex(runs: list[_Run]) -> Callable[[str], bool]:
    first, *middle, last = [
        "".join("." if isinstance(part, _AnyOne) else re.escape(part) for part in run)
        for run in runs
    ] + ([] if len(runs) > 1 else [""])
    if len(runs) == 1:
        expression = first
    else:
        # The first place where a run fits is as good as any later one, so each is
        # taken for good (an atomic group): there is nothing to go back to.
        expression = first + "".join(f"(?>.*?{run})" for run in middle) + f".*{last}"
    search = re.compile(expression, re.DOTALL).fullmatch
    return lambda value: search(value) is not None


@dataclass(frozen=True, slots=True)
class Patterns:
    """A list of patterns: one that is wanted must match, none that is excluded may.

    With nothing but exclusions everything else is wanted. What is missing never
    matches, not through an exclusion either.
    """

    texts: tuple[str, ...]
    _wanted: tuple[Callable[[str], bool], ...] = field(init=False, repr=False, compare=False)
    _excluded: tuple[Callable[[str], bool], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        wanted = [text for text in self.texts if not text.startswith("!")] or [PRESENT]
        excluded = [text[1:] for text in self.texts if text.startswith("!")]
        object.__setattr__(self, "_wanted", tuple(map(compile_glob, wanted)))
        object.__setattr__(self, "_excluded", tuple(map(compile_glob, excluded)))

    @property
    def takes_any(self) -> bool:
        """Whether presence alone is enough."""
        return PRESENT in self.texts and len(self._excluded) == 0

    def matches(self, text: str | None) -> bool:
        """Return whether there is a text, and it is wanted and not excluded."""
        if text is None:
            return False
        # The common case, told here because it is asked for every rule and call.
        if len(self._wanted) == 1 and not self._excluded and len(text) <= MAX_TEXT:
            return self._wanted[0](text)
        return self.match_any((text,))

    def match_any(self, texts: Iterable[str]) -> bool:
        """Return whether one of several values is wanted, and none of them excluded."""
        found = False
        for text in texts:
            if len(text) > MAX_TEXT:
                return self.takes_any
            if self._excluded and any(test(text) for test in self._excluded):
                return False
            found = found or any(test(text) for test in self._wanted)
        return found
