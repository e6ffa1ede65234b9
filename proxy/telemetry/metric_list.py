"""Every metric of the service: a closed list, like the events beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

PREFIX: Final = "offramp_"

_CALL_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_PASS_SECONDS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60)


class Kind(Enum):
    """How a metric moves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: what it says and by what it is told apart."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(text: str, *labels: str) -> Metric:
    return Metric(Kind.COUNTER, text, labels)


def _gauge(text: str, *labels: str) -> Metric:
    return Metric(Kind.GAUGE, text, labels)


METRICS: Final[Mapping[str, Metric]] = {
    # Calls.
    "calls": _counter("Calls by what was decided and how they ended.", "decision", "outcome"),
    "calls_alone": _counter("Held calls of runs that make one call at a time."),
    "forwarded_bytes": _counter("Body bytes of forwarded calls.", "upstream", "direction"),
    "forward_seconds": Metric(
        Kind.HISTOGRAM,
        "Duration of forwarded calls, their streams included.",
        ("upstream",),
        _CALL_SECONDS,
    ),
    "forward_first_byte_seconds": Metric(
        Kind.HISTOGRAM, "Until the upstream's final head was there.", ("upstream",), _CALL_SECONDS
    ),
    "connections_refused": _counter("Connections of callers that were one too many."),
    "held_connections": _gauge("Connections that are held for a result."),
    # Jobs.
    "job_accepted": _counter("Jobs accepted.", "lane", "mode"),
    "job_ended": _counter("Jobs that reached a terminal state.", "state", "lane"),
    "job_claimed": _counter("Repeats that were given the job of an earlier call."),
    "deadline_missed": _counter("Jobs that ended after their deadline.", "cause"),
    "possible_double": _counter("Calls of which nobody can tell whether they were paid.", "lane"),
    "late_result": _counter("Results of jobs that had ended already.", "state"),
    "line_ignored": _counter("Result lines that no job of ours asked for.", "upstream"),
    "claims": _counter(
        "Repeats that asked for an earlier job.",
    ),
    "claims_failed": _counter("Repeats that were forwarded without an answer.", "reason"),
    # The queue and batches.
    "queued_jobs": _gauge("Jobs that wait.", "upstream", "lane"),
    "queued_bytes": _gauge("Body bytes of jobs that wait.", "upstream", "lane"),
    "queue_oldest_timestamp_seconds": _gauge("Since when the oldest waits.", "upstream", "lane"),
    "queue_nearest_deadline_timestamp_seconds": _gauge(
        "The nearest deadline of a job that waits.", "upstream", "lane"
    ),
    "batches": _gauge("Batches that are not settled.", "upstream", "state"),
    "batched_jobs": _gauge("Jobs in batches that are not settled.", "upstream", "state"),
    "batch_submitted": _counter("Batches that a provider took.", "upstream"),
    "batch_adopted": _counter("Batches found at a provider after an unclear create.", "upstream"),
    "batch_twin": _counter("Second provider batches of one of ours.", "upstream"),
    "batch_cancelled": _counter("Batches cancelled so that the rest is in time.", "upstream"),
    "batch_lost": _counter("Batches that their provider does not know any more.", "upstream"),
    "create_unclear": _counter("Creates without a clear answer.", "upstream"),
    "create_unnamed": _counter(
        "Unclear creates where batches have no names, by what the search came to.",
        "upstream",
        "outcome",
    ),
    "flex_full": _counter("Refusals of the discount tier for want of room.", "upstream"),
    "credential_paused": _counter(
        "Refusals that paused a credential's lane, by the provider's code, or its status.", "code"
    ),
    "credentials_paused": _gauge("Credentials whose lane is paused."),
    # Money, of this day in UTC: gauges out of the ledger, which counts once what a counter
    # would forget or count twice over a crash.
    "today_usd": _gauge(
        "Dollars: `list` price of answers, `paid` for them, `useless` ones, `possible` doubles.",
        "lane",
        "amount",
    ),
    "today_unpriced": _gauge("Answers of today whose price is not known."),
    "today_possible_unpriced": _gauge("Possible doubles of today whose price is not known."),
    # Webhooks.
    "webhook_delivered": _counter("Ends of jobs that a webhook was told of.", "webhook"),
    "webhook_failed": _counter(
        "Attempts to tell a webhook that failed, by what they came to.", "webhook", "outcome"
    ),
    "webhook_given_up": _counter(
        "Ends of jobs that a webhook could not be told of in three days.", "webhook"
    ),
    "webhook_pending": _gauge("Ends of jobs that a webhook is still to be told of.", "webhook"),
    "webhook_undelivered": _gauge(
        "Ends of jobs, not pruned yet, that a webhook will not be told of.", "webhook"
    ),
    # Rules.
    "policies_generation": _gauge("How often rules came into force; 0: there are none."),
    "policies_refused": _gauge("1 while the rule file cannot be used and older rules hold."),
    "policies_loaded": _counter("Changed rule files that came into force."),
    "policies_kept": _counter("Changed rule files that could not be used."),
    "rule_matched": _counter(
        "Calls that a rule decided or, in shadow mode, would have decided.",
        "rule",
        "mode",
        "decision",
    ),
    "rule_forwarded": _counter(
        "Calls that a rule diverted, forwarded because no job could be made.", "rule", "reason"
    ),
    # Recorded facts.
    "facts_recorded": _counter("Calls whose facts were recorded."),
    "facts_dropped": _counter("Calls whose facts were to be recorded, and were not.", "reason"),
    # The service itself.
    "pass_seconds": Metric(
        Kind.HISTOGRAM, "Duration of background passes.", ("name",), _PASS_SECONDS
    ),
    "tasks": _gauge("Tasks of the event loop: calls, passes, held connections."),
    "pass_failed": _counter("Background passes that failed.", "name", "code"),
    "unlisted": _counter("Counts under a name or label that this list does not know."),
}
"""Every metric, without the prefix. Names and labels are public: dashboards use them."""
