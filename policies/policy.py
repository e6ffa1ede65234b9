"""The whole decision about a call: the operator's refusals, the caller, the rules.

What an operator refuses is refused whatever the caller's headers say. Beyond
that the caller comes first, and rules fill only what the caller left open.
"""

from dataclasses import dataclass, field, replace

from policies.headers import Asked, header_opinion
from policies.model import (
    UNDECIDED,
    Answer,
    CallFacts,
    Decision,
    Defer,
    Forward,
    RawHeaders,
    Reject,
    beside,
)
from policies.rules import RuleSet


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that decides, until the next reload; replaced as a whole, never changed."""

    rules: RuleSet = field(default_factory=RuleSet)
    default_answer: Answer = Answer.JOB
    """What `X-Deferrable: true` stands for."""

    generation: int = 0
    """How many sets of rules have been in force, this one included; 0: there never were any."""

    def is_idle(self, asked: Asked, *, headers: RawHeaders, path: str, upstream: str) -> bool:
        """Return whether the call is forwarded whatever its other facts: nobody need gather them.

        `path` is the raw one at the upstream, without the query.
        """
        return not asked.defers and not self.rules.concerns(
            headers=headers, tags=asked.tags, path=path, upstream=upstream
        )

    def wants_body(self, asked: Asked, facts: CallFacts) -> bool:
        """Return whether the body must be read before `decide` is asked.

        False says that `decide` will not call `facts.body`, `tokens` or `digest`.
        """
        tagged = asked.defers and facts.obstacle is None
        return tagged or self.rules.wants_body(facts)

    def decide(self, asked: Asked, facts: CallFacts) -> Decision:
        """Return what happens to the call."""
        ruled = self.rules.opinion(facts)
        if isinstance(ruled, Reject):
            return ruled
        said = header_opinion(asked, facts, default_answer=self.default_answer)
        decision = said or ruled or UNDECIDED
        if isinstance(decision, Defer):
            if asked.idempotency_problem is not None:
                decision = _without_key(asked.idempotency_problem, decision, asked)
            else:
                decision = _filled(decision, asked, ruled)
        shadow = ruled.shadow if ruled is not None else None
        if said is not None and not isinstance(shadow, Reject):
            # Switched on, the rule would have decided nothing here, and saved nothing.
            shadow = None
        return beside(decision, shadow)


def _without_key(problem: str, decision: Defer, asked: Asked) -> Decision:
    """Return what becomes of a call that cannot be deferred under its idempotency key."""
    by = decision.decided_by
    if asked.defers:
        return Reject(status=400, message=problem, decided_by=by, header="Idempotency-Key")
    # Only a rule wanted it deferred, so its caller must not suffer for it.
    return Forward(decided_by=by, reason=f"it could not be deferred: {problem}")


def _filled(decision: Defer, asked: Asked, ruled: Forward | Defer | None) -> Defer:
    """Return `decision` with what the caller said first, and what a rule says beyond."""
    rule = ruled if isinstance(ruled, Defer) else None
    tags = {**dict(rule.tags if rule else ()), **asked.tags}
    return replace(
        decision,
        deadline=asked.deadline or (rule.deadline if rule else None),
        tags=tuple(tags.items()),
        lane=rule.lane if rule else None,
    )
