"""Messages between instances in one memory."""

from collections.abc import Callable, Sequence

from proxy.core.ids import JobId


class MemoryWakeups:
    def __init__(self) -> None:
        self._subscribers: list[Callable[[Sequence[JobId]], None]] = []

    def publish(self, job_ids: Sequence[JobId]) -> None:
        for on_change in self._subscribers:
            on_change(job_ids)

    def subscribe(self, on_change: Callable[[Sequence[JobId]], None]) -> None:
        self._subscribers.append(on_change)
