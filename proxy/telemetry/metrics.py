"""Count and measure, in plain dictionaries; `prometheus` shows a snapshot of them.

Counting costs well below a microsecond and takes no lock, so it may happen on
the forward path; it belongs to the event loop's thread alone.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from proxy.core.batch import Batch
from proxy.core.ledger import Sums
from proxy.core.plan import Head
from proxy.core.prices import NANO
from proxy.telemetry.metric_list import METRICS, Kind

_SERIES_MAX: Final = 500
"""Per metric. Names of upstreams, lanes and codes are few; whatever else gets into a
label by mistake must not fill the memory of this process and of Prometheus."""

_OTHER: Final = "other"

_FRESH_MAX: Final = 256
"""Calls that are noted before they are counted, many at a time."""

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
