"""The language of rule files: every key, what it takes, and what is made of it."""

import re
from collections.abc import Mapping
from datetime import UTC, timedelta
from typing import Any, Final

from policies.conditions import (
    INTERACTIVE,
    SECRET_HEADERS,
    Divert,
    Outcome,
    Range,
    Refuse,
    Rule,
    Sample,
    Values,
    When,
)
from policies.durations import ALLOWED as DURATION
from policies.durations import format_duration, parse_duration
from policies.fields import LONGEST_DEADLINE, read_tag_name, read_tag_value
from policies.globs import MAX_PATTERN, Patterns, check_pattern
from policies.kinds import Kind, Record, dict_of, list_of, one_or_many, scalar, text, word
from policies.model import Answer, Lane
from policies.tree import BadNodeError, Complaint, Node, Scalar, Sequence, bad
from policies.tree import Mapping as MappingNode
from policies.windows import DAYS, WHOLE_DAY, Window, parse_days, parse_span, parse_zone

MAX_RULES: Final = 1_000
MAX_NUMBER: Final = 10**15
"""The largest whole numbers that JSON parsers agree on have 15 digits."""

_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_BODY_PATH: Final = re.compile(r"[^.]{1,128}(?:\.[^.]{1,128}){0,15}")
_RULE_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,62}[A-Za-z0-9._-])?")
_PERCENT: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,4})?) ?%")


def _checked_pattern(pattern: str) -> str:
    check_pattern(pattern)
    return pattern


def _path_pattern(pattern: str) -> str:
    if pattern.removeprefix("!")[0] not in "/*?\\":
        raise ValueError("a path begins with '/': nothing would match")
    return pattern


def read_header_name(name: str) -> str:
    if _HEADER.fullmatch(name) is None:
        raise ValueError("a header's name has letters, digits and '-'")
    return name.lower()


def _body_path(path: str) -> str:
    if _BODY_PATH.fullmatch(path) is None:
        raise ValueError("write names with dots between them, such as metadata.job")
    return path


def _no_secrets(headers: Mapping[str, Patterns]) -> tuple[tuple[str, Patterns], ...]:
    for name, patterns in headers.items():
        if name in SECRET_HEADERS and not patterns.takes_any:
            raise ValueError(
                f"{name} carries a credential: only '*' is allowed;"
                " say whose it is with owner or credential, by name or hash"
            )
    return tuple(headers.items())


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    if not -MAX_NUMBER <= value <= MAX_NUMBER:
        raise ValueError("it has more than 15 digits")
    return value


def _count(value: float) -> float:
    if value < 0:
        raise ValueError("it must not be negative")
    return value


def _range(values: Mapping[str, Any], node: Node) -> Range:
    range_ = Range(**values)
    if range_.min is not None and range_.max is not None and range_.min > range_.max:
        raise BadNodeError([Complaint(node.mark, "min is larger than max: nothing would match")])
    return range_


PATTERN: Final = text(
    "a pattern (a text; quote numbers, true, false, and what begins with '*' or '!')",
    longest=MAX_PATTERN + 1,
).then(_checked_pattern)
PATTERNS: Final = one_or_many(PATTERN).then(Patterns)
PATHS: Final = one_or_many(PATTERN.then(_path_pattern)).then(Patterns)
NAMED_PATTERNS: Final = dict_of(
    read_tag_name, PATTERNS, allowed="a mapping of tags to patterns"
).then(lambda tags: tuple(tags.items()))
HEADERS: Final = dict_of(
    read_header_name, PATTERNS, allowed="a mapping of header names to patterns"
).then(_no_secrets)
BOOLEAN: Final = scalar("true or false", bool, {"type": "boolean"})
BOOLEANS: Final = one_or_many(BOOLEAN).then(frozenset)
NUMBER: Final = scalar("a number", (int, float), {"type": "number"}).then(_number)
COUNT: Final = (
    scalar("a whole number", int, {"type": "integer", "minimum": 0}).then(_number).then(_count)
)
NUMBERS: Final = Record({"min": NUMBER, "max": NUMBER}, _range, least=1).kind()
COUNTS: Final = Record({"min": COUNT, "max": COUNT}, _range, least=1).kind()


def _read_value(node: Node) -> Values:
    if isinstance(node, MappingNode):
        return Values(ranges=(NUMBERS.read(node),))
    if not isinstance(node, Scalar) or node.value is None:
        raise bad(node, "a pattern, a number, true, false, or a mapping with min and max")
    if isinstance(node.value, bool):
        return Values(booleans=frozenset({node.value}))
    if isinstance(node.value, str):
        return Values(patterns=Patterns((PATTERN.read(node),)))
    number = NUMBER.read(node)
    return Values(ranges=(Range(number, number),))


def _any_of(values: tuple[Values, ...]) -> Values:
    texts = tuple(text for value in values if value.patterns for text in value.patterns.texts)
    return Values(
        patterns=Patterns(texts) if texts else None,
        ranges=tuple(range_ for value in values for range_ in value.ranges),
        booleans=frozenset[bool]().union(*(value.booleans for value in values)),
    )


VALUE: Final = Kind(
    _read_value,
    {"anyOf": [PATTERN.schema, NUMBER.schema, BOOLEAN.schema, NUMBERS.schema]},
)
BODY: Final = dict_of(
    _body_path, one_or_many(VALUE).then(_any_of), allowed="a mapping of body fields to values"
).then(lambda fields: tuple(fields.items()))


def _window(values: Mapping[str, Any], _: Node) -> Window:
    days = values.get("days", (frozenset(range(7)),))
    span, zone = values.get("between", WHOLE_DAY), values.get("zone", UTC)
    return Window(span, frozenset[int]().union(*days), zone)


WINDOW: Final = Record(
    {
        "between": text("a span of the day such as '20:00-06:00'")
        .then(parse_span)
        .noted("Past midnight it belongs to the day on which it begins."),
        "days": one_or_many(text("a day or a range of days").then(parse_days)).noted(
            f"{', '.join(DAYS)}, or a range such as mon-fri."
        ),
        "zone": text("a time zone").then(parse_zone).noted("Of the IANA database; default UTC."),
    },
    _window,
    least=1,
).kind()

WHEN: Final = Record(
    {
        "upstream": PATTERNS.noted("Name of the upstream."),
        "method": one_or_many(PATTERN.then(str.upper)).then(Patterns),
        "path": PATHS.noted("Raw path at the upstream, without the query."),
        "headers": HEADERS.noted("By name; '*' asks whether there is one."),
        "tags": NAMED_PATTERNS.noted("From X-Deferrable-Tags."),
        "owner": PATTERNS.noted("Configured name or hash of the owner."),
        "credential": PATTERNS.noted("Configured name or hash of the credential."),
        "time": one_or_many(WINDOW).noted("When the call arrives."),
        "body_bytes": COUNTS.noted("Size of the body."),
        "model": PATTERNS,
        "stream": BOOLEANS.noted("A rule that defers takes streams only if it says so here."),
        "has_tools": BOOLEANS.noted("Whether the call offers tools to the model."),
        "tokens": COUNTS.noted("Estimated tokens of the prompt."),
        "body": BODY.noted("Fields of the body by dotted path; '*' asks whether there is one."),
    },
    lambda values, _: When(**values),
).kind()


def _deadline(written: str) -> timedelta:
    found = parse_duration(written)
    if not timedelta() < found <= LONGEST_DEADLINE:
        longest = format_duration(LONGEST_DEADLINE)
        raise ValueError(f"a deadline is longer than 0s and at most {longest}")
    return found


DEADLINE: Final = text(f"a duration: {DURATION}").then(_deadline)


ANSWER: Final = word(*Answer).then(Answer)
LANE: Final = word(*Lane).then(Lane)
TAGS: Final = dict_of(
    read_tag_name,
    text("the value of a tag (a text; quote numbers, true and false)").then(read_tag_value),
    allowed="a mapping of tags to values",
)

DEFER: Final = Record(
    {
        "answer": ANSWER.noted("How the caller is answered; default wait."),
        "deadline": DEADLINE.noted("Latest useful time of the result."),
        "tags": TAGS.then(lambda tags: tuple(tags.items())).noted("Added to the caller's."),
        "lane": LANE.noted("Preferred; the planner has the last word."),
    },
    lambda values, _: Divert(**values),
).kind()


def _status(number: float) -> int:
    if not 400 <= number <= 499:
        raise ValueError("it must be 400 to 499")
    return int(number)


STATUS: Final = COUNT.then(_status)

REJECT: Final = Record(
    {
        "message": text("a text for the caller", longest=500),
        "status": STATUS.noted("400 to 499; default 403."),
    },
    lambda values, _: Refuse(**values),
    required=("message",),
).kind()

_SHORT: Final = word("interactive", "defer")
_LONG: Final = Record(
    {"defer": DEFER, "reject": REJECT}, lambda values, _: tuple(values.values()), least=1
).kind()


def _read_outcome(node: Node) -> Outcome:
    if isinstance(node, Scalar) and node.value == "reject":
        # The one word of the three that cannot stand alone: what would its caller be told?
        need = "'reject' needs a message for the caller: reject: {message: \"...\"}"
        raise BadNodeError([Complaint(node.mark, need)])
    if not isinstance(node, MappingNode):
        return INTERACTIVE if _SHORT.read(node) == "interactive" else Divert()
    first, *others = _LONG.read(node)
    if others:
        raise BadNodeError([Complaint(node.mark, "only one of defer and reject is allowed here")])
    assert isinstance(first, Divert | Refuse)
    return first


OUTCOME: Final = Kind(
    _read_outcome, {"anyOf": [_SHORT.schema, {**_LONG.schema, "maxProperties": 1}]}
)


def _share(percent: str) -> float:
    match = _PERCENT.fullmatch(percent)
    if match is None or float(match[1]) > 100:
        raise ValueError("a share is a percentage such as 25%, of at most 100%")
    return float(match[1]) / 100


SHARE: Final = text("a percentage such as 25%", pattern=_PERCENT.pattern).then(_share)
_SAMPLE: Final = Record(
    {
        "share": SHARE,
        "by": text("a header's name")
        .then(read_header_name)
        .noted("Calls with equal values of this header are drawn alike; default: equal calls."),
    },
    lambda values, _: Sample(**values),
    required=("share",),
).kind()


def _read_sample(node: Node) -> Sample:
    return _SAMPLE.read(node) if isinstance(node, MappingNode) else Sample(SHARE.read(node))


SAMPLE: Final = Kind(_read_sample, {"anyOf": [SHARE.schema, _SAMPLE.schema]})


def _rule_name(name: str) -> str:
    if _RULE_NAME.fullmatch(name) is None:
        raise ValueError("names have up to 64 letters, digits, spaces, '.', '_' and '-'")
    return name


RULE_NAME: Final = text("the name of a rule (quote a number)", pattern=_RULE_NAME.pattern).then(
    _rule_name
)


def _rule(values: Mapping[str, Any], node: Node) -> Rule:
    when, then = values.get("when", When()), values["then"]
    if isinstance(then, Divert) and when.says_stream and then.answer is not Answer.WAIT:
        message = f"a stream cannot be answered with {then.answer}, only with wait"
        raise BadNodeError([Complaint(node.mark, message)])
    return Rule(
        name=values["name"],
        when=when,
        then=then,
        sample=values.get("sample"),
        shadow=values.get("mode") == "shadow",
        line=node.mark.line,
    )


RULE: Final = Record(
    {
        "name": RULE_NAME.noted("Stands on jobs, in logs and metrics; each once."),
        "when": WHEN.noted("All of these must hold; in a list, one is enough."),
        "then": OUTCOME,
        "sample": SAMPLE.noted("Take only this stable share of the calls."),
        "mode": word("live", "shadow").noted("shadow: decide and count, but change nothing."),
    },
    _rule,
    required=("name", "then"),
).kind()

_RULES: Final = list_of(RULE)


def _read_rules(node: Node) -> tuple[Rule, ...]:
    if isinstance(node, Sequence) and len(node.items) > MAX_RULES:
        raise BadNodeError([Complaint(node.mark, f"there are more than {MAX_RULES} rules")])
    rules = _RULES.read(node)
    assert isinstance(node, Sequence)
    first: dict[str, Rule] = {}
    again = [
        Complaint(item.mark, f"the name {rule.name!r} is taken by the rule in line {known.line}")
        for item, rule in zip(node.items, rules, strict=True)
        if (known := first.setdefault(rule.name, rule)) is not rule
    ]
    if again:
        raise BadNodeError(again)
    return rules


RULES: Final = Kind(_read_rules, {**_RULES.schema, "maxItems": MAX_RULES})
