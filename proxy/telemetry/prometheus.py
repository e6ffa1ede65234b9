"""The `/metrics` page: a snapshot of the numbers in Prometheus' form.

Its library is imported at the first scrape: 75 ms and 8 MB that no start waits for.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from proxy.telemetry.metric_list import METRICS, PREFIX, Kind, Metric
from proxy.telemetry.metrics import Snapshot

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family


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
