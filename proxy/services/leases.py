"""Exclusive work: one instance at a time, and nobody after its time is up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Final, TypeVar

from proxy.core.errors import ProxyError, StoreError
from proxy.core.ids import InstanceId
from proxy.ports.batches import LeaseStore
from proxy.ports.clock import Clock
from proxy.ports.notes import Note, NoteStore
from proxy.services.clock_steps import wall_ahead_s

T = TypeVar("T")

INSTANCE_PREFIX: Final = "instance:"

DOUBT_AT_MOST: Final = 4
"""For how many lengths of a lease in a row nothing is taken from others; for one length after
that, it is. A clock that is set again and again must not stop all work for ever."""

TRIED: Final = "tried"
"""The note that is written to find out whether the store takes any."""


class LeaseLostError(ProxyError):
    """Work was cut off because another instance may do it from now on."""

    code = "lease_lost"


class Doubt:
    """Whether leases of others may look as if they were over although they are not.

    They do for a moment after the clock on the wall was set, or the machine slept: all of them
    were noted by the time as it was before.
    """

    def __init__(self, clock: Clock, ttl: timedelta) -> None:
        self._clock = clock
        self._ttl_s = ttl.total_seconds()
        # A lease is renewed each third of its length. What moves the time by less between two
        # renewals leaves another third, and is no reason to stop: clocks are kept in step by
        # steps, too, and some of them every few seconds.
        self._step_s = self._ttl_s / 3
        self._ahead_s: float | None = None
        self._read_at = 0.0
        self._doubted_from = self._doubted_until = -self._ttl_s

    def holds(self) -> bool:
        """Return whether the clock was set lately, by so much that a lease can look over.

        Lately is within the length of a lease, in which whoever lives renews it. However often
        the clock is set, this does not hold without end.
        """
        ahead_s, monotonic = wall_ahead_s(self._clock), self._clock.monotonic()
        is_set = self._ahead_s is not None and abs(ahead_s - self._ahead_s) > self._step_s
        if is_set:
            self.begin()
        if is_set or self._ahead_s is None or monotonic >= self._read_at + self._step_s:
            self._ahead_s, self._read_at = ahead_s, monotonic
        return monotonic < self._doubted_until

    def begin(self) -> None:
        """Begin to doubt, for a reason that the clocks here do not show."""
        monotonic = self._clock.monotonic()
        if monotonic >= self._doubted_until + self._ttl_s:
            self._doubted_from = monotonic
        longest = self._doubted_from + DOUBT_AT_MOST * self._ttl_s
        if monotonic < longest:
            self._doubted_until = min(monotonic + self._ttl_s, longest)


class HeldLease:
    """A lease that this instance took. `is_valid` asks no store, only the clock."""

    def __init__(
        self,
        name: str,
        *,
        store: LeaseStore,
        clock: Clock,
        holder: InstanceId,
        ttl: timedelta,
        doubt: Doubt | None = None,
    ) -> None:
        """With `doubt`, it is not taken from others as long as that holds."""
        self._doubt = doubt
        self.name = name
        self._store = store
        self._clock = clock
        self._holder = holder
        self._ttl = ttl
        self._expires_at = 0.0
        self._ends_at: datetime | None = None
        self._lapses = 0

    def is_valid(self) -> bool:
        """Return whether the lease is surely still ours, by either clock.

        A process that was stopped for longer than its lease sees by the monotonic one that
        it was, however its wall clock was set in the meantime. While the whole machine
        sleeps, that one stands still on Linux (clock_gettime(2)), and only the other tells.
        """
        if self._ends_at is None or self._clock.monotonic() >= self._expires_at:
            return False
        return self._clock.now() < self._ends_at

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
        now = self._clock.now()
        is_ours = begun < self._expires_at
        if not self.is_valid():
            self._lapses += 1
        if self._doubt is not None and self._doubt.holds() and not is_ours:
            return False
        if not await self._store.acquire(self.name, self._holder, now=now, until=now + self._ttl):
            self._expires_at = 0.0
            return False
        self._expires_at = begun + self._ttl.total_seconds()
        self._ends_at = now + self._ttl
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
        self._doubt = Doubt(clock, ttl)
        # No other instance ever takes this one: there is nothing to doubt.
        self._alive = self._lease(f"{INSTANCE_PREFIX}{instance}", doubt=None)

    def _lease(self, name: str, *, doubt: Doubt | None) -> HeldLease:
        return HeldLease(
            name,
            store=self._store,
            clock=self._clock,
            holder=self.instance,
            ttl=self.ttl,
            doubt=doubt,
        )

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[HeldLease | None]:
        """Hold the lease while the block runs; nothing if another instance has it, or may have.

        The clock may just have been set: until whoever lives has said so by the new time,
        their leases seem to be over.
        """
        lease = self._lease(name, doubt=self._doubt)
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
            StoreError: if the store does not take that, or takes nothing else.
        """
        begun = self._clock.monotonic()
        # Also where no lease is asked for, this pass watches the clock.
        self._doubt.holds()
        if self._alive.is_valid():
            # Before the renewal, which would hide that the store took us for dead.
            with suppress(StoreError):
                await self._known_alive()
        await self._alive.renew()
        if self._notes is not None:
            # A Redis whose memory is full takes leases all the same, or nobody could prune it.
            known = await self._notes.read(TRIED)
            # If two instances try at the same moment, one is refused, and that proves as much.
            await self._notes.write(TRIED, Note.after(known, ""))
        self._taken_until = begun + self.ttl.total_seconds()
        return 0

    def is_noted(self) -> bool:
        """Return whether the store has taken our word, within `ttl`, that this instance lives.

        And that it has taken a note: with its memory full, a Redis takes leases, but no notes.
        """
        return self._alive.is_valid() and self._clock.monotonic() < self._taken_until

    async def leave(self) -> None:
        """Say that this instance is gone, so that its work is taken over at once."""
        await self._alive.release()

    async def alive(self) -> frozenset[InstanceId]:
        """Return the instances that said within their leases that they live."""
        return await self._store.holders(INSTANCE_PREFIX, now=self._clock.now())

    async def dead(self, among: Collection[InstanceId]) -> frozenset[InstanceId]:
        """Return which of `among` surely live no more: never this one.

        Nobody while it is unclear, because the clock was just set.
        """
        others = frozenset(among) - {self.instance}
        if not others:
            return frozenset()
        alive = await self._known_alive()
        return frozenset() if self._doubt.holds() else others - alive

    async def _known_alive(self) -> frozenset[InstanceId]:
        """Return who lives, and doubt it if the store takes this one for dead before its time.

        Then the store's own clock was set, as that of a Redis, or it lost the leases of all.
        """
        alive = await self.alive()
        if self._alive.is_valid() and self.instance not in alive:
            self._doubt.begin()
        return alive
