"""Conditions compiled to tests of facts, cheap ones first.

A matcher knows what it wants and what it found, so that `explain` can say why a
rule did not match; it is the same matcher that decides.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from policies.conditions import Divert, Rule, Sample, Values, When
from policies.globs import Patterns
from policies.model import Answer, CallFacts

_INDEX: Final = re.compile(r"[0-9]{1,6}")
_SCALE: Final = 2**64


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition of one rule."""

    key: str
    """As it is written, e.g. `headers.user-agent`."""

    wanted: str
    test: Callable[[CallFacts], bool]
    actual: Callable[[CallFacts], object]
    """What the test looks at; for people to read, so it may be shortened."""


def head_matchers(when: When) -> list[Matcher]:
    """Return the conditions that need no body."""
    found = []
    if when.upstream is not None:
        found.append(_text("upstream", when.upstream, lambda facts: facts.upstream))
    if when.method is not None:
        found.append(_text("method", when.method, lambda facts: facts.method))
    if when.path is not None:
        found.append(_text("path", when.path, lambda facts: facts.path))
    found += [_header(name, patterns) for name, patterns in when.headers]
    found += [_tag(name, patterns) for name, patterns in when.tags]
    if when.time:
        found.append(_time(when))
    if when.owner is not None:
        found.append(_names("owner", when.owner, lambda facts: facts.identity().owner))
    if when.credential is not None:
        names = _names("credential", when.credential, lambda facts: facts.identity().credential)
        found.append(names)
    return found


def content_matchers(when: When) -> list[Matcher]:
    """Return the conditions that need the body, or its size."""
    found = []
    if (size := when.body_bytes) is not None:
        found.append(_number("body_bytes", str(size), size.contains, lambda f: f.body_bytes))
    if when.model is not None:
        found.append(_text("model", when.model, CallFacts.model))
    if when.stream:
        found.append(_boolean("stream", when.stream, CallFacts.streams))
    if when.has_tools:
        found.append(_boolean("has_tools", when.has_tools, has_tools))
    if (tokens := when.tokens) is not None:
        found.append(_number("tokens", str(tokens), tokens.contains, lambda f: f.tokens()))
    found += [_field(path, values) for path, values in when.body]
    return found


def readable() -> Matcher:
    """Return what every condition on the body asks first.

    The body of a call that cannot run later counts as unreadable: it may be an
    upload of any size, or an upgrade that has none, and nobody may wait for it.
    """
    return Matcher(
        "body",
        "that of a call that can run later",
        lambda facts: facts.obstacle is None,
        lambda facts: facts.obstacle,
    )


def guards(rule: Rule) -> list[Matcher]:
    """Return what a rule that diverts asks of a call without anybody writing it."""
    if not isinstance(rule.then, Divert):
        return []
    found = [Matcher("can run later", "yes", lambda f: f.bar() is None, CallFacts.bar)]
    if not rule.when.says_stream:
        wanted = "false (a rule diverts a stream only if it says `stream: true`)"
        found.append(Matcher("stream", wanted, lambda f: f.streams() is False, CallFacts.streams))
    if rule.then.answer is Answer.BACKGROUND:
        found.append(
            Matcher(
                "path",
                "/v1/responses (nothing else can be answered with `background`)",
                CallFacts.is_for_responses,
                lambda f: f.path,
            )
        )
    return found


def sampler(rule_name: str, sample: Sample) -> Matcher:
    """Return the test whether a call falls into the sample.

    The rule's name is part of the draw, so that two rules with a quarter each do
    not draw the same quarter. A larger share keeps all that a smaller one took.
    """
    bound = int(sample.share * _SCALE)
    salt = rule_name.encode() + b"\0"

    def drawn(facts: CallFacts) -> bool:
        key = _sample_key(sample, facts)
        return key is not None and int.from_bytes(sha256(salt + key).digest()[:8]) < bound

    source = f"by {sample.by}" if sample.by else "by call"
    return Matcher("sample", f"{sample.share * 100:g}% {source}", drawn, lambda f: _drawn(drawn(f)))


def _drawn(inside: bool) -> str:
    return "drawn" if inside else "not drawn"


def _sample_key(sample: Sample, facts: CallFacts) -> bytes | None:
    if sample.by is None:
        return facts.digest()
    values = facts.header(sample.by.encode())
    return values[0] if values else None


def has_tools(facts: CallFacts) -> bool | None:
    """Return whether the call offers tools to the model; nothing if the body is unreadable."""
    body = facts.body()
    if body is None:
        return None
    # `functions` is the older name for the same (OpenAI API, chat completions).
    return any(isinstance(tools := body.get(key), list) and tools for key in ("tools", "functions"))


def field_at(body: Mapping[str, object] | None, path: Sequence[str]) -> object:
    """Return the value at a path, or nothing where the path leads nowhere."""
    value: object = body
    for step in path:
        match value:
            case Mapping():
                value = value.get(step)
            case list() if _INDEX.fullmatch(step) and int(step) < len(value):
                value = value[int(step)]
            case _:
                return None
    return value


def _text(key: str, patterns: Patterns, get: Callable[[CallFacts], str | None]) -> Matcher:
    return Matcher(key, _wanted(patterns), lambda facts: patterns.matches(get(facts)), get)


def _names(key: str, patterns: Patterns, get: Callable[[CallFacts], frozenset[str]]) -> Matcher:
    return Matcher(
        key,
        _wanted(patterns),
        lambda facts: patterns.match_any(get(facts)),
        lambda facts: ", ".join(sorted(get(facts))) or None,
    )


def _header(name: str, patterns: Patterns) -> Matcher:
    raw = name.encode()

    def values(facts: CallFacts) -> list[str]:
        return [value.decode("latin-1") for value in facts.header(raw)]

    return Matcher(
        f"headers.{name}",
        _wanted(patterns),
        lambda facts: patterns.match_any(values(facts)),
        lambda facts: ", ".join(values(facts)) if facts.header(raw) else None,
    )


def _tag(name: str, patterns: Patterns) -> Matcher:
    def value(facts: CallFacts) -> str | None:
        return facts.tags.get(name) if facts.tags else None

    return _text(f"tags.{name}", patterns, value)


def _time(when: When) -> Matcher:
    return Matcher(
        "time",
        " or ".join(map(str, when.time)),
        lambda facts: any(window.contains(facts.now) for window in when.time),
        lambda facts: facts.now.astimezone(when.time[0].zone).strftime("%a %H:%M %Z"),
    )


def _number(
    key: str,
    wanted: str,
    test: Callable[[float], bool],
    get: Callable[[CallFacts], int | None],
) -> Matcher:
    return Matcher(
        key, wanted, lambda facts: (number := get(facts)) is not None and test(number), get
    )


def _boolean(key: str, wanted: frozenset[bool], get: Callable[[CallFacts], bool | None]) -> Matcher:
    text = " or ".join(str(value).lower() for value in sorted(wanted))
    return Matcher(key, text, lambda facts: get(facts) in wanted, get)


def _field(path: str, values: Values) -> Matcher:
    steps = path.split(".")
    return Matcher(
        f"body.{path}",
        str(values),
        lambda facts: values.match(field_at(facts.body(), steps)),
        lambda facts: field_at(facts.body(), steps),
    )


def _wanted(patterns: Patterns) -> str:
    return " or ".join(patterns.texts)
