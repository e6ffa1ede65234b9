"""Exclusive work: one instance at a time, and nobody after its time is up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final, TypeVar

from proxy.core.errors import ProxyError, StoreError
from proxy.core.ids import InstanceId
from proxy.ports.batches import LeaseStore
from proxy.ports.clock import Clock
from proxy.ports.notes import Note, NoteStore

T = TypeVar("T")

INSTANCE_PREFIX: Final = "instance:"

TRIED: Final = "tried"
"""The note that is written to see whether anything can be."""


class LeaseLostError(ProxyError):
    """Work was cut off because another instance may do it from now on."""

    code = "lease_lost"


class HeldLease:
    """A lease that this instance took. `is_valid` asks no store, only the clock."""

    def __init__(
        self, name: str, *, store: LeaseStore, clock: Clock, holder: InstanceId, ttl: timedelta
    ) -> None:
        self.name = name
        self._store = store
        self._clock = clock
        self._holder = holder
        self._ttl = ttl
        self._expires_at = 0.0
        self._lapses = 0

    def is_valid(self) -> bool:
        """Return whether the lease is surely still ours, by the monotonic clock.

        A process that was stopped for longer than its lease sees here that it
        was, however its wall clock was set in the meantime.
        """
        return self._clock.monotonic() < self._expires_at

    def unbroken(self) -> Callable[[], bool]:
        """Return a function that tells, in any thread, whether the lease was ours ever since.

        A lease that lapsed and was taken again does not count: others may have acted meanwhile.
        """
        lapses = self._lapses
        return lambda: self.is_valid() and self._lapses == lapses

    async def renew(self) -> bool:
        """Take or extend the lease; false if another instance has it."""
        # Measured before the store is asked: a slow answer shortens our time,
        # it never extends it beyond what the store has noted.
        begun = self._clock.monotonic()
        if begun >= self._expires_at:
            self._lapses += 1
        now = self._clock.now()
        if not await self._store.acquire(self.name, self._holder, now=now, until=now + self._ttl):
            self._expires_at = 0.0
            return False
        self._expires_at = begun + self._ttl.total_seconds()
        return True

    async def during(self, work: Awaitable[T], *, or_cut: bool = False) -> T:
        """Return what `work` returns, renewing the lease while it takes.

        With `or_cut` the work is cancelled when the lease is lost.

        Raises:
            LeaseLostError: if the work was cut off.
        """
        failure: ProxyError | None = None
        async with asyncio.TaskGroup() as tasks:
            bound = asyncio.timeout(None)
            keeper = tasks.create_task(self._keep(bound if or_cut else None))
            try:
                async with bound:
                    result = await work
            except TimeoutError:
                if not bound.expired():
                    raise
                failure = LeaseLostError(f"the lease {self.name} was lost on the way")
            except ProxyError as exc:
                # Raised below: a task group would wrap it.
                failure = exc
            finally:
                keeper.cancel()
        if failure is not None:
            raise failure
        return result

    async def _keep(self, cut: asyncio.Timeout | None) -> None:
        while True:
            await self._clock.sleep(self._ttl.total_seconds() / 3)
            with suppress(StoreError):
                # One silence is no loss; `is_valid` tells when there were too many.
                await self.renew()
            if cut is not None and not self.is_valid():
                cut.reschedule(asyncio.get_running_loop().time())
                return

    async def release(self) -> None:
        """Give the lease back, so that nobody needs to wait for its end."""
        self._expires_at = 0.0
        await self._store.release(self.name, self._holder)


class Leases:
    """The leases of one instance."""

    def __init__(
        self,
        *,
        store: LeaseStore,
        clock: Clock,
        instance: InstanceId,
        ttl: timedelta,
        notes: NoteStore | None = None,
    ) -> None:
        """In `notes`, if given, it is tried whether the store takes what takes up room."""
        self._notes = notes
        self._taken_until = 0.0
        self._store = store
        self._clock = clock
        self.instance = instance
        self.ttl = ttl
        self._alive = self._lease(f"{INSTANCE_PREFIX}{instance}")

    def _lease(self, name: str) -> HeldLease:
        return HeldLease(
            name, store=self._store, clock=self._clock, holder=self.instance, ttl=self.ttl
        )

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[HeldLease | None]:
        """Hold the lease while the block runs; nothing if another instance has it."""
        lease = self._lease(name)
        if not await lease.renew():
            yield None
            return
        try:
            yield lease
        finally:
            await lease.release()

    async def run_once(self) -> int:
        """Say that this instance lives. Due well within `ttl`.

        Raises:
            StoreError: if the store does not take that, or nothing else.
        """
        begun = self._clock.monotonic()
        await self._alive.renew()
        if self._notes is not None:
            # A Redis whose memory is full takes leases all the same, or nobody could prune it.
            known = await self._notes.read(TRIED)
            # Of two instances that try at the same moment one is refused, and knows as much.
            await self._notes.write(TRIED, Note.after(known, ""))
        self._taken_until = begun + self.ttl.total_seconds()
        return 0

    def is_noted(self) -> bool:
        """Return whether the store took our word, within `ttl`, that this instance lives.

        And what takes up room, too.
        """
        return self._alive.is_valid() and self._clock.monotonic() < self._taken_until

    async def leave(self) -> None:
        """Say that this instance is gone, so that its work is taken over at once."""
        await self._alive.release()

    async def alive(self) -> frozenset[InstanceId]:
        """Return the instances that live, this one included."""
        return await self._store.holders(INSTANCE_PREFIX, now=self._clock.now())
