"""What each page shows, made of what was read, and put into its template.

Slow at first (the template library is imported) and some milliseconds later: for a
thread. Everything that a template gets is escaped unless `charts` drew it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from policies.conditions import Divert, Interactive, Outcome, Refuse
from proxy.core import batch as batches
from proxy.core import job as jobs
from proxy.core.batch import Batch
from proxy.core.job import Job
from proxy.core.plural import plural
from proxy.services.insight import Money, Overview, RuleView, Turnaround
from proxy.web.dashboard import charts, words
from proxy.web.dashboard.about import About
from proxy.web.dashboard.charts import Bar, Moment, Part, Span
from proxy.web.dashboard.concerns import concerns, is_failing

NAV: Final = (
    ("", "Overview"),
    ("jobs", "Jobs"),
    ("batches", "Batches"),
    ("rules", "Rules"),
    ("providers", "Providers"),
    ("webhooks", "Webhooks"),
)

_SECTIONS: Final = {"overview": "", "job": "jobs", "batch": "batches"}
"""Which entry of the navigation a page belongs to, where it is not called the same."""

_IN_WORDS: Final = ("ago", "clock", "count", "duration", "money", "share", "short", "size", "words")
_FILTERS: Final[Mapping[str, Callable[..., object]]] = {
    "plural": plural,
    **{name: getattr(words, name) for name in _IN_WORDS},
}


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("proxy.web.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    environment.globals["nav"] = NAV
    environment.globals["place_of"] = _place_of
    return environment


@lru_cache
def _place_of(name: str) -> str:
    """Return where a file of ours is, by what it holds.

    A browser keeps files for a while, and must not show a new page with an old one.
    """
    content = resources.files("proxy.web.dashboard").joinpath("static", name).read_bytes()
    return f"/dashboard/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"


def render(name: str, **shown: Any) -> str:
    """Return a page."""
    make = _MORE.get(name)
    more = make(**shown) if make is not None else {}
    section = _SECTIONS.get(name, name)
    return _environment().get_template(f"{name}.html").render(section=section, **shown, **more)


# The overview.


def _overview(*, seen: Overview, now: datetime, about: About, **_: Any) -> Mapping[str, Any]:
    return {
        "concerns": concerns(seen, now, about),
        "savings": savings_chart(seen.money),
        "lanes": lanes_chart(seen.money),
        "waiting": sum(head.count for head in seen.heads),
        "in_batches": sum(batch.count for batch in seen.live),
        "oldest_at": min((head.oldest_at for head in seen.heads), default=None),
        "heads": sorted(seen.heads, key=lambda head: (head.key.lane, -head.count)),
        "paused": {one.id for one in seen.paused},
    }


def savings_chart(money: Money) -> Markup:
    """Return what was spent and what was saved, day by day."""
    spent_of = {day: sums.paid_nano + sums.useless_nano for day, sums in money.days.items()}
    # On a day of many answers in vain more was spent than ordinary calls cost.
    top = max([*spent_of.values(), *(sums.list_nano for sums in money.days.values())], default=0)
    made_of = []
    for place, (day, sums) in enumerate(money.days.items()):
        shown = date.fromisoformat(day).strftime("%-d %b")
        spent = spent_of[day]
        parts = [Part(spent, "paid"), Part(max(0, sums.saved_nano), "saved")]
        said = (
            f"{shown}: {plural(sums.jobs, 'job')}, spent {words.money(spent)}"
            f" instead of {words.money(sums.list_nano)}, saved {words.money(sums.saved_nano)}"
        )
        is_labelled = place in {0, len(money.days) // 2, len(money.days) - 1}
        made_of.append(Bar(shown if is_labelled else "", said, parts))
    title = f"Spent and saved a day, {words.money(money.total.saved_nano)} saved in all"
    return charts.bars(title, made_of, scale=charts.scale_to(top, lambda n: words.money(round(n))))


def lanes_chart(money: Money) -> Markup | None:
    """Return which share of the jobs each lane answered; nothing of no jobs."""
    parts = [
        (Part(sums.jobs, f"lane-{lane}"), f"{lane}: {plural(sums.jobs, 'job')}")
        for lane, sums in sorted(money.lanes.items(), key=lambda one: -one[1].jobs)
        if sums.jobs
    ]
    return charts.strip("Jobs by lane", parts) if parts else None


# Jobs.


def _job(*, job: Job, batch: Batch | None, now: datetime, **_: Any) -> Mapping[str, Any]:
    return {
        "life": job_life(job, batch, now),
        "history": job_history(job, batch),
        "diagram": charts.state_diagram("The life of a job", jobs.TRANSITIONS, current=job.state),
        "ways": charts.transitions(jobs.TRANSITIONS),
    }


def job_life(job: Job, batch: Batch | None, now: datetime) -> Markup:
    """Return a job's life as a line: waiting, at the provider, ended."""
    end = job.finalized_at or now
    sent = batch.submitted_at if batch is not None else None
    spans = [Span(job.accepted_at, min(sent or end, end), "waiting", "waiting")]
    if sent is not None and sent < end:
        spans.append(Span(sent, end, "working", "at the provider"))
    is_over = job.finalized_at is not None
    return charts.life_line(
        f"From its acceptance to its {'end' if is_over else 'deadline'}",
        spans,
        deadline=job.deadline,
        now=None if is_over else now,
    )


def job_history(job: Job, batch: Batch | None) -> Sequence[Moment]:
    """Return what is known to have happened to a job, in order."""
    moments = [Moment(job.accepted_at, f"accepted, decided by {job.decided_by}")]
    if batch is not None:
        size = plural(batch.count, "job")
        moments.append(
            Moment(batch.created_at, f"put into a batch ({words.words(batch.flush_reason)})")
        )
        if batch.submitted_at:
            moments.append(Moment(batch.submitted_at, f"bought in a batch of {size}"))
        if batch.ended_at:
            reason = words.words(batch.end_reason or "ended")
            moments.append(Moment(batch.ended_at, f"its batch ended: {reason}"))
    if job.last_reason and job.not_before:
        moments.append(Moment(job.not_before, f"free for another attempt after: {job.last_reason}"))
    if job.finalized_at:
        late = ", after its deadline" if job.deadline_missed else ""
        moments.append(Moment(job.finalized_at, f"{job.state.value}{late}"))
    return sorted(moments, key=lambda moment: moment.at)


# Batches.


def _batches(*, found: Sequence[Batch], now: datetime, **_: Any) -> Mapping[str, Any]:
    return {"lives": {batch.id: batch_life(batch, now) for batch in found}}


def _batch(*, batch: Batch, now: datetime, **_: Any) -> Mapping[str, Any]:
    return {
        "life": batch_life(batch, now),
        "history": batch_history(batch),
        "diagram": charts.state_diagram(
            "The life of a batch", batches.TRANSITIONS, current=batch.state
        ),
        "ways": charts.transitions(batches.TRANSITIONS),
    }


def batch_life(batch: Batch, now: datetime) -> Markup:
    """Return a batch's life as a line: filled and sent, at the provider, read."""
    steps = [
        (batch.created_at, "waiting", "filled and sent"),
        (batch.submitted_at, "working", "at the provider"),
        (batch.ended_at, "reading", "its results are read"),
    ]
    # Settled much later, where its files are kept, or twins are looked for.
    last = batch.harvested_at or batch.settled_at or now
    known = [(at, kind, said) for at, kind, said in steps if at is not None]
    ends = [at for at, _, _ in known[1:]] + [max(last, known[-1][0])]
    spans = [
        Span(at, until, kind, f"{said}: {words.duration(until - at)}")
        for (at, kind, said), until in zip(known, ends, strict=True)
    ]
    is_over = batch.ended_at is not None
    return charts.life_line(
        f"Batch of {plural(batch.count, 'job')}, {words.words(batch.state.value)}",
        spans,
        deadline=batch.nearest_deadline,
        now=None if is_over else now,
    )


def batch_history(batch: Batch) -> Sequence[Moment]:
    """Return what is known to have happened to a batch, in order."""
    steps = (
        (batch.created_at, f"begun: {words.words(batch.flush_reason) or 'due'}"),
        (batch.ambiguous_since, "its create got no clear answer"),
        (batch.submitted_at, f"taken by {batch.key.upstream}"),
        (batch.missing_since, "not found at the provider"),
        (batch.refused_since, "no credential is let in to ask for it"),
        (batch.ended_at, f"ended: {words.words(batch.end_reason or '')}"),
        (batch.harvested_at, "every result is read"),
        (batch.settled_at, "settled: files deleted, every job cared for"),
    )
    return sorted((Moment(at, said) for at, said in steps if at), key=lambda one: one.at)


# Rules, providers, webhooks.


def _rules(*, rules: Sequence[RuleView] | None, **_: Any) -> Mapping[str, Any]:
    most = max((max(rule.live, rule.shadow) for rule in rules or ()), default=0)
    return {
        "most": most,
        "does": {rule.rule.name: what_it_does(rule.rule.then) for rule in rules or ()},
        "pairs": {
            rule.rule.name: (_meter(rule.live, most, "live"), _meter(rule.shadow, most, "shadow"))
            for rule in rules or ()
        },
    }


def what_it_does(then: Outcome) -> str:
    """Return in words what a rule does with a call."""
    match then:
        case Interactive():
            return "forward"
        case Refuse():
            return f"refuse with {then.status}"
        case Divert():
            within = f", due within {words.duration(then.deadline)}" if then.deadline else ""
            lane = f", in lane {then.lane.value}" if then.lane else ""
            return f"defer ({then.answer.value}){within}{lane}"


def _meter(value: int, most: int, kind: str) -> Markup:
    rest = max(most - value, 0) if most else 1
    parts = [
        (Part(value, kind), f"{kind}: {plural(value, 'call')}"),
        (Part(rest, "none"), ""),
    ]
    return charts.strip(f"{plural(value, 'call')} {kind}", parts)


def _providers(*, turnarounds: Sequence[Turnaround], **_: Any) -> Mapping[str, Any]:
    return {
        "plots": [
            charts.dots(
                f"Turnaround of {one.model} at {one.upstream}",
                one.took,
                marks=[
                    (one.quantile(0.5), f"half within {words.duration(one.quantile(0.5))}"),
                    (one.quantile(0.9), f"nine of ten within {words.duration(one.quantile(0.9))}"),
                ],
            )
            for one in turnarounds
        ]
    }


def _webhooks(*, standings: Mapping[str, Any], **_: Any) -> Mapping[str, Any]:
    return {
        "failing": {
            name: is_failing(standing.delivered_at, standing.failed_at)
            for name, standing in standings.items()
        }
    }


_MORE: Final[Mapping[str, Callable[..., Mapping[str, Any]]]] = {
    "overview": _overview,
    "job": _job,
    "batches": _batches,
    "batch": _batch,
    "rules": _rules,
    "providers": _providers,
    "webhooks": _webhooks,
}
