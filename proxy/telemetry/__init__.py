"""What the service tells its operators: log events and metrics, each a closed list.

No body, no credential and no prompt ever gets in here. Metrics are named after
the events: `batch.submitted` is counted as `offramp_batch_submitted_total`.
"""

from proxy.telemetry.events import EVENTS, UnlistedEventError
from proxy.telemetry.logs import Line, set_up_logging
from proxy.telemetry.metric_list import METRICS
from proxy.telemetry.metrics import Metrics, Snapshot
from proxy.telemetry.prometheus import render

__all__ = [
    "EVENTS",
    "METRICS",
    "Line",
    "Metrics",
    "Snapshot",
    "UnlistedEventError",
    "render",
    "set_up_logging",
]
