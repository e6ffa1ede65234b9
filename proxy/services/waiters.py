"""Wake those who hold a connection until a job is terminal."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from proxy.core.ids import JobId
from proxy.core.job import Job
from proxy.ports.clock import Clock
from proxy.ports.jobs import JobStore
from proxy.ports.wakeups import Wakeups

POLL_INTERVAL_S: Final = 5.0
"""Behind every wake-up: a result whose wake-up was lost is seen this late at most."""


class Waiters:
    """Who waits in this instance. A wake-up is an optimisation; polling is the truth."""

    def __init__(self, *, jobs: JobStore, clock: Clock, wakeups: Wakeups | None = None) -> None:
        """`wakeups` reaches the waiters of other instances, if there may be any."""
        self._jobs = jobs
        self._clock = clock
        self._wakeups = wakeups
        self._events: dict[JobId, list[asyncio.Event]] = {}
        if wakeups is not None:
            wakeups.subscribe(self._wake_here)

    @property
    def count(self) -> int:
        """How many connections are held now."""
        return sum(len(events) for events in self._events.values())

    def wake(self, job_ids: Iterable[JobId]) -> None:
        """Let whoever waits for these jobs look again, now, here and at other instances."""
        ids = list(job_ids)
        self._wake_here(ids)
        if self._wakeups is not None and ids:
            self._wakeups.publish(ids)

    def _wake_here(self, job_ids: Sequence[JobId]) -> None:
        for job_id in job_ids:
            for event in self._events.get(job_id, ()):
                event.set()

    async def until_terminal(self, job_id: JobId, *, timeout_s: float) -> Job:
        """Return the job once it is terminal, or as it is after `timeout_s`.

        Raises:
            JobNotFoundError: if it is erased in the meantime.
        """
        event = asyncio.Event()
        self._events.setdefault(job_id, []).append(event)
        give_up = self._clock.monotonic() + timeout_s
        try:
            while True:
                event.clear()
                job = await self._jobs.get(job_id)
                left = give_up - self._clock.monotonic()
                if job.state.is_terminal or left <= 0:
                    return job
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, POLL_INTERVAL_S)):
                        await event.wait()
        finally:
            self._forget(job_id, event)

    def _forget(self, job_id: JobId, event: asyncio.Event) -> None:
        events = self._events[job_id]
        events.remove(event)
        if not events:
            del self._events[job_id]
