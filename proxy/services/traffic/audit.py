"""Find in recorded traffic what nobody waits for, and the rules that would divert it.

Every rule that is proposed is tried on the record it comes from, in the very policy
that a service runs: it must decide the calls that it is meant for, and no other.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import chain, count
from typing import Final
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from policies.globs import exactly
from policies.headers import HeaderError, read_headers
from policies.load import load_policies
from policies.model import deciding_rule
from policies.policy import Policy
from proxy.core.audit import Arrival, at_night, opinion
from proxy.core.lanes import Lane
from proxy.core.ledger import processing_of
from proxy.core.prices import Cost, PriceOf, Processing, cost_of
from proxy.core.usage import tokens_of
from proxy.services.traffic.diversions import Diversion, rules_text
from proxy.services.traffic.facts import RecordedCall
from proxy.services.traffic.findings import (
    Audit,
    Call,
    Money,
    Proposal,
    Segment,
    SegmentKey,
    Shadow,
    total,
)

UNDECIDED: Final = frozenset({None, "default"})
"""What decided calls that neither their caller nor a rule did; the others need no proposal."""


class Auditor:
    """Audits the lines of a record. One instance may audit several."""

    def __init__(self, price: PriceOf, zone: ZoneInfo) -> None:
        """`zone` is where night is looked for, and what rules for the night name."""
        self._price = price
        self._zone = zone

    def audit(self, lines: Sequence[bytes]) -> Audit:
        """Return what the lines tell, of which each is a recorded call."""
        found = [(recorded, self._call(recorded)) for recorded in _readable(lines)]
        found.sort(key=lambda one: one[1].arrival.at)
        calls = [call for _, call in found]
        begun, ended = (calls[0].arrival.at, calls[-1].arrival.at) if calls else (None, None)
        span = ended - begun if begun is not None and ended is not None else timedelta()
        segments = self._segments([one for one in calls if one.undecided], span)
        proposals = self._proposals(segments, found)
        return Audit(
            calls=len(calls),
            unreadable=len(lines) - len(calls),
            begun=begun,
            ended=ended,
            segments=tuple(sorted(segments, key=lambda one: -one.money.list_nano)),
            proposals=tuple(proposals),
            shadows=self._shadows(calls, proposals),
        )

    def _call(self, recorded: RecordedCall) -> Call:
        headers = dict(recorded.headers)
        tokens = tokens_of(recorded.usage)
        retries = headers.get("x-stainless-retry-count") or "0"
        return Call(
            segment=SegmentKey(
                recorded.upstream,
                recorded.path,
                application_of(headers.get("user-agent")),
                recorded.credential,
                recorded.model or "",
            ),
            arrival=Arrival(
                datetime.fromisoformat(recorded.time),
                timedelta(seconds=recorded.duration_s),
                streams=bool(recorded.stream),
                has_tools=bool(recorded.has_tools),
                is_retry=retries != "0",
            ),
            can_defer=recorded.obstacle is None and recorded.readable,
            undecided=recorded.decided_by in UNDECIDED,
            shadow=_shadow_rule(recorded.shadow),
            tokens=tokens.input + tokens.output if tokens is not None else 0,
            cost=self._cost(recorded),
        )

    def _cost(self, recorded: RecordedCall) -> Cost | None:
        tokens = tokens_of(recorded.usage)
        price = self._price(recorded.upstream, recorded.model or "")
        if tokens is None or price is None:
            return None
        paid = processing_of(Lane.INTERACTIVE, recorded.tier)
        if paid is not Processing.STANDARD:
            # Asked for a reduced tier already, or for a dearer one: no batch compares.
            return None
        return cost_of(price, tokens, Processing.BATCH)

    def _segments(self, calls: Iterable[Call], span: timedelta) -> list[Segment]:
        by_key: dict[SegmentKey, list[Call]] = {}
        for call in calls:
            by_key.setdefault(call.segment, []).append(call)
        return [self._segment(key, calls, span) for key, calls in sorted(by_key.items())]

    def _segment(self, key: SegmentKey, calls: Sequence[Call], span: timedelta) -> Segment:
        whole = opinion([call.arrival for call in calls], span=span, zone=self._zone)
        if not whole.nobody_waits:
            # One program may serve people by day, and work by itself at night.
            nightly = [call for call in calls if at_night(call.arrival.at, self._zone)]
            alone = opinion([call.arrival for call in nightly], span=span, zone=self._zone)
            if alone.nobody_waits:
                return Segment(key, True, alone, _sum(filter(_is_movable, nightly)))
        return Segment(key, False, whole, _sum(filter(_is_movable, calls)))

    def _proposals(
        self, segments: Sequence[Segment], found: Sequence[tuple[RecordedCall, Call]]
    ) -> list[Proposal]:
        """Return a rule for all that nobody waits for, each as narrow as it has to be."""
        groups: dict[tuple[object, ...], list[Segment]] = {}
        for one in segments:
            if one.opinion.nobody_waits and one.money.calls:
                groups.setdefault((replace(one.key, model=""), one.nights_only), []).append(one)
        meant = list(groups.values())
        diversions = _named([self._diversion(group) for group in meant])
        wrong = self._wrong(diversions, meant, found)
        if any(wrong):
            # Others call alike: only whose credential it is tells them apart.
            diversions = [
                replace(one, credential=group[0].key.credential) if extra else one
                for one, group, extra in zip(diversions, meant, wrong, strict=True)
            ]
            wrong = self._wrong(diversions, meant, found)
        return [
            Proposal(one, tuple(group), total(part.money for part in group), extra)
            for one, group, extra in zip(diversions, meant, wrong, strict=True)
        ]

    def _diversion(self, group: Sequence[Segment]) -> Diversion:
        key = group[0].key
        return Diversion(
            name=key.application,
            upstream=key.upstream,
            path=key.path,
            models=tuple(one.key.model for one in group),
            user_agent=key.application,
            zone=self._zone.key if group[0].nights_only else None,
        )

    def _wrong(
        self,
        diversions: Sequence[Diversion],
        meant: Sequence[Sequence[Segment]],
        found: Iterable[tuple[RecordedCall, Call]],
    ) -> list[int]:
        """Return how many calls each rule takes unmeant, or leaves that it is meant for."""
        if not diversions:
            return []
        owns = {
            segment.key: one.name
            for one, group in zip(diversions, meant, strict=True)
            for segment in group
        }
        nightly = {part.key for group in meant for part in group if part.nights_only}
        text = rules_text(diversions, shadow=False)
        policy = Policy(load_policies(text, "the proposed rules").rules)
        wrong = Counter[str | None]()
        for recorded, call in found:
            expected = owns.get(call.segment) if self._is_meant(call, nightly) else None
            taken = _taken(policy, recorded) if call.undecided else None
            if taken != expected:
                wrong.update((taken, expected))
        return [wrong[one.name] for one in diversions]

    def _is_meant(self, call: Call, nightly: Collection[SegmentKey]) -> bool:
        """Return whether the rule of the call's segment is meant for the call."""
        return _is_movable(call) and (
            call.segment not in nightly or at_night(call.arrival.at, self._zone)
        )

    def _shadows(self, calls: Iterable[Call], proposals: Iterable[Proposal]) -> dict[str, Shadow]:
        parts = [part for one in proposals if not one.also_matches for part in one.segments]
        keys = {part.key for part in parts}
        nightly = {part.key for part in parts if part.nights_only}
        shadows: dict[str, Shadow] = {}
        for call in calls:
            if call.shadow is not None:
                shadow = shadows.setdefault(call.shadow, Shadow())
                shadow.money.add(call)
                shadow.proposed += call.segment in keys and self._is_meant(call, nightly)
        return shadows


def application_of(user_agent: str | None) -> str:
    """Return a pattern of what calls itself so, whatever its version."""
    if not user_agent:
        return ""
    versioned = _VERSION.match(user_agent)
    name = versioned[1] if versioned is not None else user_agent
    return f"{exactly(name)}*" if versioned is not None else exactly(name)


_VERSION: Final = re.compile(r"(.*?[/ ]v?)\d")


def _readable(lines: Iterable[bytes]) -> Iterator[RecordedCall]:
    for line in lines:
        try:
            recorded = RecordedCall.model_validate_json(line)
            recorded.facts()
        except (ValidationError, ValueError):
            continue
        yield recorded


def _is_movable(call: Call) -> bool:
    """Return whether a rule may take the call at all."""
    arrival = call.arrival
    return call.undecided and call.can_defer and not arrival.streams and not arrival.has_tools


def _taken(policy: Policy, recorded: RecordedCall) -> str | None:
    facts = recorded.facts()
    try:
        asked = read_headers(facts.headers, now=facts.now)
    except HeaderError:
        return None
    return deciding_rule(policy.decide(asked, facts).decided_by)


def _named(diversions: Sequence[Diversion]) -> list[Diversion]:
    """Give each rule a name of its own, made of what it is about."""
    taken: set[str] = set()
    named = []
    for one in diversions:
        words = re.sub(r"[^a-z0-9]+", "-", f"{one.name} {one.path}".lower()).strip("-")
        base = f"{words}-at-night" if one.zone is not None else words
        names = chain([base], (f"{base}-{number}" for number in count(2)))
        name = next(text for text in names if text not in taken)
        taken.add(name)
        named.append(replace(one, name=name))
    return named


def _shadow_rule(shadow: str | None) -> str | None:
    """Return the rule that would have deferred the call, of what is recorded of shadows."""
    kind, _, rule = (shadow or "").partition(" by rule:")
    return rule if kind == "defer" and rule else None


def _sum(calls: Iterable[Call]) -> Money:
    money = Money()
    for call in calls:
        money.add(call)
    return money
