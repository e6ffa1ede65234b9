"""Count and measure, in plain dictionaries; put into Prometheus' form when asked.

Counting costs well below a microsecond and takes no lock, so it may happen on
the forward path; it belongs to the event loop's thread alone. The Prometheus
library is imported at the first scrape: 75 ms and 8 MB that no start waits for.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from proxy.core.batch import Batch
from proxy.core.ledger import Sums
from proxy.core.plan import Head
from proxy.core.prices import NANO

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

PREFIX: Final = "offramp_"

_SERIES_MAX: Final = 500
"""Per metric. Names of upstreams, lanes and codes are few; whatever else gets into a
label by mistake must not fill the memory of this process and of Prometheus."""

_OTHER: Final = "other"

_FRESH_MAX: Final = 256

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
    "credential_paused": _counter("Refusals that paused a credential's lane.", "code"),
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

Labels = tuple[str, ...]


@dataclass(slots=True)
class _Histogram:
    """Observations by bucket; the last one is for everything above."""

    buckets: tuple[float, ...]
    counts: list[int]
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All numbers at one moment, safe to be read in another thread."""

    values: Mapping[str, Mapping[Labels, float]]
    histograms: Mapping[str, Mapping[Labels, tuple[tuple[int, ...], float]]]


@dataclass(slots=True)
class Metrics:
    """The numbers of one instance. Methods never block; unless `strict`, none fails."""

    strict: bool = False
    """Whether an unknown name or label raises, as in tests."""

    _fresh: list[tuple[str, str, int, int, float | None, float]] = field(default_factory=list)
    """Forwarded calls that are not counted yet."""

    _deferred: list[tuple[str, str | None, str]] = field(default_factory=list)
    """Deferred calls that are not counted yet."""

    _values: dict[str, dict[Labels, float]] = field(default_factory=dict)
    _histograms: dict[str, dict[Labels, _Histogram]] = field(default_factory=dict)

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add `amount` to the counter `name`."""
        values = self._labels(name, Kind.COUNTER, labels)
        if values is None:
            name, values = "unlisted", ()
        self._add(name, values, amount)

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set the gauge `name`."""
        values = self._labels(name, Kind.GAUGE, labels)
        if values is not None:
            self._values.setdefault(name, {})[values] = value

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add one observation to the histogram `name`."""
        values = self._labels(name, Kind.HISTOGRAM, labels)
        if values is not None:
            self._note(name, values, value)

    def forwarded(
        self,
        *,
        upstream: str,
        outcome: str,
        bytes_up: int,
        bytes_down: int,
        first_byte_s: float | None,
        duration_s: float,
    ) -> None:
        """Record one forwarded call."""
        # One after the other, many at a time, they cost a third of what each costs alone.
        self._fresh.append((upstream, outcome, bytes_up, bytes_down, first_byte_s, duration_s))
        if len(self._fresh) >= _FRESH_MAX:
            self._count_fresh()

    def deferred(self, *, outcome: str, lane: str | None, mode: str) -> None:
        """Record one deferred call; `lane` is that of its job, if that is new."""
        self._deferred.append((outcome, lane, mode))
        if len(self._deferred) >= _FRESH_MAX:
            self._count_fresh()

    def _count_fresh(self) -> None:
        deferred, self._deferred = self._deferred, []
        for outcome, lane, mode in deferred:
            self._add("calls", ("defer", outcome), 1)
            if lane is not None:
                self._add("job_accepted", (lane, mode), 1)
        fresh, self._fresh = self._fresh, []
        for upstream, outcome, bytes_up, bytes_down, first_byte_s, duration_s in fresh:
            # Labels in the order of the list: looking them up by name took longer than counting.
            self._add("calls", ("forward", outcome), 1)
            self._add("forwarded_bytes", (upstream, "up"), bytes_up)
            self._add("forwarded_bytes", (upstream, "down"), bytes_down)
            self._note("forward_seconds", (upstream,), duration_s)
            if first_byte_s is not None:
                self._note("forward_first_byte_seconds", (upstream,), first_byte_s)

    def _add(self, name: str, values: Labels, amount: float) -> None:
        try:
            self._values[name][values] += amount
        except KeyError:
            series = self._values.setdefault(name, {})
            if len(series) >= _SERIES_MAX:
                values = (_OTHER,) * len(values)
            series[values] = series.get(values, 0) + amount

    def _note(self, name: str, values: Labels, value: float) -> None:
        try:
            histogram = self._histograms[name][values]
        except KeyError:
            series = self._histograms.setdefault(name, {})
            if len(series) >= _SERIES_MAX:
                values = (_OTHER,) * len(values)
            buckets = METRICS[name].buckets
            fresh = _Histogram(buckets, [0] * (len(buckets) + 1))
            histogram = series.setdefault(values, fresh)
        histogram.counts[bisect_left(histogram.buckets, value)] += 1
        histogram.total += value

    def show_queue(self, heads: Iterable[Head]) -> None:
        """Set the gauges of the queue to what `heads` hold; what is gone, goes."""
        jobs: dict[Labels, float] = {}
        sizes: dict[Labels, float] = {}
        oldest: dict[Labels, float] = {}
        nearest: dict[Labels, float] = {}
        for head in heads:
            place = (head.key.upstream, head.key.lane.value)
            jobs[place] = jobs.get(place, 0) + head.count
            sizes[place] = sizes.get(place, 0) + head.body_bytes
            since, until = head.oldest_at.timestamp(), head.nearest_deadline.timestamp()
            oldest[place] = min(oldest.get(place, since), since)
            nearest[place] = min(nearest.get(place, until), until)
        self._values["queued_jobs"] = jobs
        self._values["queued_bytes"] = sizes
        self._values["queue_oldest_timestamp_seconds"] = oldest
        self._values["queue_nearest_deadline_timestamp_seconds"] = nearest

    def show_batches(self, live: Iterable[Batch]) -> None:
        """Set the gauges of batches to the ones that are not settled."""
        batches: dict[Labels, float] = {}
        jobs: dict[Labels, float] = {}
        for batch in live:
            place = (batch.key.upstream, batch.state.value)
            batches[place] = batches.get(place, 0) + 1
            jobs[place] = jobs.get(place, 0) + batch.count
        self._values["batches"] = batches
        self._values["batched_jobs"] = jobs

    def show_money(self, lanes: Mapping[str, Sums]) -> None:
        """Set the gauges of money to the sums of today."""
        self._values["today_usd"] = {
            (lane, amount): nano / NANO
            for lane, sums in lanes.items()
            for amount, nano in (
                ("list", sums.list_nano),
                ("paid", sums.paid_nano),
                ("useless", sums.useless_nano),
                ("possible", sums.possible_nano),
            )
        }
        self.gauge("today_unpriced", sum(sums.unpriced for sums in lanes.values()))
        doubtful = sum(sums.possible_unpriced for sums in lanes.values())
        self.gauge("today_possible_unpriced", doubtful)

    def value(self, name: str, /, **labels: str) -> float:
        """Return a counter or gauge as it stands; 0 if it never moved."""
        self._count_fresh()
        values = tuple(labels[label] for label in METRICS[name].labels)
        return self._values.get(name, {}).get(values, 0)

    def snapshot(self) -> Snapshot:
        """Return all numbers as they are now."""
        self._count_fresh()
        return Snapshot(
            {name: dict(series) for name, series in self._values.items()},
            {
                name: {at: (tuple(seen.counts), seen.total) for at, seen in series.items()}
                for name, series in self._histograms.items()
            },
        )

    def _labels(self, name: str, kind: Kind, labels: Mapping[str, str]) -> Labels | None:
        metric = METRICS.get(name)
        if metric is not None and metric.kind is kind and len(labels) == len(metric.labels):
            try:
                return tuple([labels[label] for label in metric.labels])
            except KeyError:
                pass
        if self.strict:
            raise AssertionError(f"no {kind.value} {name!r} with labels {sorted(labels)}")
        return None


def render(snapshot: Snapshot) -> tuple[bytes, str]:
    """Return the `/metrics` page and its content type.

    Slow (milliseconds, and the import the first time): call it in a thread.
    """
    from prometheus_client import (  # noqa: PLC0415 - see the docstring above
        CONTENT_TYPE_LATEST,
        CollectorRegistry,
        GCCollector,
        PlatformCollector,
        ProcessCollector,
        generate_latest,
    )

    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_Collector(snapshot))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Collector:
    """Puts a snapshot into the library's families."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator["Family"]:
        for name, metric in METRICS.items():
            if metric.kind is Kind.HISTOGRAM:
                yield self._histogram(name, metric)
            else:
                yield self._plain(name, metric)

    def _plain(self, name: str, metric: Metric) -> "Family":
        from prometheus_client.core import (  # noqa: PLC0415
            CounterMetricFamily,
            GaugeMetricFamily,
        )

        make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
        family = make(PREFIX + name, metric.help, labels=metric.labels)
        series = self._snapshot.values.get(name, {})
        if not metric.labels:
            # A number that never moved is shown as 0: its rate is then known.
            series = {(): 0.0} | dict(series)
        for values, value in sorted(series.items()):
            family.add_metric(values, value)
        return family

    def _histogram(self, name: str, metric: Metric) -> "Family":
        from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415

        family = HistogramMetricFamily(PREFIX + name, metric.help, labels=metric.labels)
        for values, (counts, total) in sorted(self._snapshot.histograms.get(name, {}).items()):
            buckets, seen = [], 0
            for bound, count in zip((*metric.buckets, "+Inf"), counts, strict=True):
                seen += count
                buckets.append((str(bound), float(seen)))
            family.add_metric(values, buckets, total)
        return family
