"""Telling other instances that a job has changed, so that its waiters look at once.

An optimisation only: a message may be lost, and whoever waits looks from time to time
all the same.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from proxy.core.ids import JobId


class Wakeups(Protocol):
    """A channel between the instances of a fleet."""

    async def publish(self, job_ids: Sequence[JobId]) -> None:
        """Tell every instance, this one included, that these jobs have changed.

        Never raises for a store that is away: then nobody is told.
        """
        ...

    def subscribe(self, on_change: Callable[[Sequence[JobId]], None]) -> None:
        """Call `on_change` with the jobs that any instance publishes from now on.

        It must return at once. To be called once.
        """
        ...
