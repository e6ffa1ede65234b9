"""What is recorded of each call: one line in the log, and a few numbers.

No body, no header and no query is part of it.
"""

import re
from contextvars import ContextVar
from functools import lru_cache
from typing import Final, NamedTuple

import structlog

from policies.model import UNDECIDED, Decision, Defer, Forward, deciding_rule
from proxy.core.errors import ProxyError
from proxy.core.job import AnswerMode, Job
from proxy.core.routing import Route
from proxy.ports.clock import Clock
from proxy.ports.upstream import UpstreamResponse
from proxy.services.traffic.facts import Recorder, Seen, Sighting
from proxy.services.traffic.kept import Kept, Room
from proxy.telemetry import Metrics
from proxy.telemetry.logs import Line
from proxy.web.forwarding.relay import Forwarded, OnDone
from proxy.web.forwarding.tap import tapped

log = structlog.get_logger()

_PARAMETERS: Final = re.compile("[?;#]|%3[bf]|%23", re.IGNORECASE)
"""What ends the part of a target that is logged. A key may stand behind any of them, by mistake: a
`;` or an escape makes it a part of the path for one server and not for the next."""

_PATH_MAX: Final = 200
"""Characters of a path that are logged: the caller decides how long it is."""


class CallRecord:
    """One call, from its arrival to its one line in the log."""

    __slots__ = (
        "body_bytes",
        "decided_by",
        "generation",
        "kept",
        "method",
        "path",
        "reason",
        "route",
        "seen",
        "shadow",
        "started",
    )

    def __init__(self, method: str, target: str, started: float) -> None:
        self.method = method
        self.path = _PARAMETERS.split(target, maxsplit=1)[0][:_PATH_MAX]
        self.started = started
        self.route: Route | None = None
        self.body_bytes: int | None = None
        self.decided_by: str | None = None
        self.generation = 0
        self.reason: str | None = None
        self.shadow: str | None = None
        self.seen: Seen | None = None
        """What is recorded of the call at its end, if it belongs to the sample."""

        self.kept: Kept | None = None
        """Parts of its answer, if it belongs to the sample."""

    def decide(self, decision: Decision, *, generation: int = 0) -> None:
        """Note what was decided, by whom, why, and under which generation of the rules."""
        self.decided_by = decision.decided_by
        self.generation = generation
        self.reason = getattr(decision, "reason", None)
        shadow = decision.shadow
        if shadow is not None:
            self.shadow = f"{_kind(shadow)} by {shadow.decided_by}"

    def repeat(self, job: Job, *, generation: int) -> None:
        """Note that nothing was decided: the call repeats one that had been."""
        self.decided_by = job.decided_by
        self.generation = generation
        self.reason = "it repeats the call that made the job"


class ShortcutReport(NamedTuple):
    """What is told of calls that take the shortcut."""

    on_done: OnDone
    annotation: bytes
    """The line of an answer's head that says how its call was decided."""


_CURRENT: Final[ContextVar[CallRecord | None]] = ContextVar("offramp_call", default=None)


class Calls:
    """Writes the line of each call. `forwarded` is what a `Forwarder` reports to."""

    def __init__(self, *, metrics: Metrics, clock: Clock, facts: Recorder | None = None) -> None:
        """`facts` records the calls of the sample, if the operator wants that."""
        self._metrics = metrics
        self._clock = clock
        self._facts = facts
        self._room = Room()

    def tap(self, response: UpstreamResponse) -> UpstreamResponse:
        """Return an answer as it is to be relayed: parts of it are kept, if it is recorded."""
        record = _CURRENT.get()
        if record is None or record.seen is None:
            return response
        response, record.kept = tapped(response, self._room)
        return response

    def annotation(self) -> bytes:
        """Return the line of a head that says how the call of this task was decided."""
        record = _CURRENT.get()
        return b"" if record is None else _annotation(record)

    def samples(self) -> bool:
        """Return whether this call is to be recorded; to be asked once for each."""
        return self._facts is not None and self._facts.draws()

    def begin(self, method: str, target: str) -> CallRecord:
        """Return the record of the call that this task serves from now on."""
        record = self.record(method, target)
        _CURRENT.set(record)
        return record

    def record(self, method: str, target: str) -> CallRecord:
        """Return the record of a call that begins now, and is not forwarded by this task."""
        return CallRecord(method, target, self._clock.monotonic())

    def decided(self, record: CallRecord, decision: Decision, *, generation: int) -> None:
        """Note a decision that is carried out now, and count the rules that had a part in it."""
        record.decide(decision, generation=generation)
        for mode, made in (("live", decision), ("shadow", decision.shadow)):
            if made is not None and (rule := deciding_rule(made.decided_by)) is not None:
                self._metrics.count("rule_matched", rule=rule, mode=mode, decision=_kind(made))

    def not_deferred(self, record: CallRecord, decision: Defer, error: ProxyError) -> None:
        """Note that a call is forwarded although a rule diverted it."""
        record.reason = f"it could not be deferred ({error.code})"
        rule = deciding_rule(decision.decided_by) or decision.decided_by
        self._metrics.count("rule_forwarded", rule=rule, reason=error.code)

    def alone(self) -> None:
        """Count a call that is made directly because it would be alone in its batch."""
        self._metrics.count("calls_alone")

    def forwarded(self, done: Forwarded) -> None:
        """Tell of a forwarded call; called by the forwarder in the task of the call."""
        self._count(done)
        facts: dict[str, object] = {"method": done.method, "upstream": done.upstream}
        record = _CURRENT.get()
        if record is not None:
            facts |= _decision(record)
            self._record(record, status=done.status, duration_s=done.duration_s)
        log.info("call.forwarded", **facts, **_came_to(done))

    def of_shortcut(
        self, route: Route, method: str, target: str, *, generation: int
    ) -> ShortcutReport:
        """Return how to report calls with one head that nothing applied to."""
        record = self.record(method, target)
        record.decide(UNDECIDED, generation=generation)
        facts = {"method": method, "upstream": route.upstream.name} | _decision(record)
        line = Line("call.forwarded", _came_to, **facts)

        def tell(done: Forwarded) -> None:
            self._count(done)
            line.info(done)

        return ShortcutReport(tell, _annotation(record))

    def _count(self, done: Forwarded) -> None:
        self._metrics.forwarded(
            upstream=done.upstream,
            outcome=done.outcome.value,
            bytes_up=done.bytes_up,
            bytes_down=done.bytes_down,
            first_byte_s=done.first_byte_s,
            duration_s=done.duration_s,
        )

    def deferred(
        self,
        record: CallRecord,
        job: Job,
        *,
        mode: AnswerMode,
        how: str,
        status: int | None,
    ) -> None:
        """Tell of a call that a job stands for.

        `how` is `created`, `known` (by its idempotency key), `claimed`, or `unclear` where
        the caller left while the job was being made; `status` what the caller was answered,
        nothing if it left before.
        """
        outcome = "caller_left" if status is None else "answered"
        duration_s = self._clock.monotonic() - record.started
        self._record(record, status=status, duration_s=duration_s)
        lane, answer = job.lane.value, mode.value
        new = lane if how == "created" else None
        self._metrics.deferred(outcome=outcome, lane=new, mode=answer)
        line = _line_of_deferrals(
            method=record.method,
            upstream=job.key.upstream,
            how=how,
            answer=answer,
            outcome=outcome,
            status=status,
            lane=lane,
            lane_reason=job.lane_reason,
            owner=job.owner,
            **_decision(record),
        )
        line.info(_Deferral(job, record.body_bytes, duration_s))

    def refused(self, record: CallRecord, error: ProxyError) -> None:
        """Tell of a call that got an error of ours and reached nobody."""
        self._metrics.count("calls", decision="refuse", outcome=error.code)
        upstream = record.route.upstream.name if record.route is not None else None
        duration_s = self._clock.monotonic() - record.started
        self._record(record, status=error.http_status, duration_s=duration_s)
        log.info(
            "call.refused",
            method=record.method,
            upstream=upstream,
            status=error.http_status,
            code=error.code,
            bytes_up=record.body_bytes,
            duration_s=_rounded(duration_s),
            **_decision(record),
        )

    def _record(self, record: CallRecord, *, status: int | None, duration_s: float) -> None:
        seen, record.seen = record.seen, None
        if record.kept is not None:
            record.kept.give_back()
        if seen is not None and self._facts is not None:
            self._facts.record(
                Sighting(
                    seen=seen,
                    decided_by=record.decided_by,
                    shadow=record.shadow,
                    status=status,
                    duration_s=duration_s,
                    kept=record.kept,
                )
            )


def _annotation(record: CallRecord) -> bytes:
    if record.decided_by is None:
        return b""
    told = f"forward; by={record.decided_by}"
    if record.shadow is not None:
        told += f"; shadow={record.shadow}"
    # Names of rules are the operator's: of any letters, and perhaps of several lines.
    safe = "".join(letter if " " <= letter <= "~" else "?" for letter in told)
    return b"X-Deferrable-Decision: %b\r\n" % safe.encode()


class _Deferral(NamedTuple):
    """What became of a call that a job stands for."""

    job: Job
    body_bytes: int | None
    duration_s: float

    def facts(self) -> dict[str, object]:
        """Return what its line says besides what many of them have in common."""
        return {
            "job_id": self.job.id,
            "model": self.job.key.model,
            "tokens": self.job.tokens,
            "bytes_up": self.body_bytes,
            "duration_s": _rounded(self.duration_s),
        }


@lru_cache(maxsize=256)
def _line_of_deferrals(**common: object) -> Line[_Deferral]:
    """Return the line of deferred calls that have these facts in common."""
    return Line("call.deferred", _Deferral.facts, **common)


def _came_to(done: Forwarded) -> dict[str, object]:
    facts: dict[str, object] = {
        "outcome": done.outcome.value,
        "status": done.status,
        "bytes_up": done.bytes_up,
        "bytes_down": done.bytes_down,
        "first_byte_s": _rounded(done.first_byte_s),
        "duration_s": _rounded(done.duration_s),
    }
    if done.error is not None:
        facts |= {"code": done.error.code, "error": done.error.detail}
    return facts


def _decision(record: CallRecord) -> dict[str, object]:
    facts: dict[str, object] = {"path": record.path}
    if record.decided_by is not None:
        facts |= {
            "decided_by": record.decided_by,
            "reason": record.reason,
            "policies": record.generation,
        }
    if record.shadow is not None:
        facts["shadow"] = record.shadow
    return facts


def _kind(decision: Decision) -> str:
    return "forward" if isinstance(decision, Forward) else type(decision).__name__.lower()


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
