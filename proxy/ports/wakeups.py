"""Telling other instances that a job has changed, so that its waiters look at once.

An optimisation only: a message may be lost, and whoever waits looks from time to time
all the same.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from proxy.core.ids import JobId


class Wakeups(Protocol):
    """A channel between the instances that share a store."""

    def publish(self, job_ids: Sequence[JobId]) -> None:
        """Tell every other instance, and perhaps this one, that these jobs have changed.

        Returns at once and raises for nothing that happens on the way: then nobody
        is told.
        """
        ...

    def subscribe(self, on_change: Callable[[Sequence[JobId]], None]) -> None:
        """Call `on_change` with the jobs that other instances publish from now on.

        It must return at once. To be called once.
        """
        ...
