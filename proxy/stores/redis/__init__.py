"""The fleet's store: Redis, alone, behind Sentinel, or as a Cluster.

Jobs are spread over 64 shards by what made their ID, and all that belongs to a job
lies in its shard: what must happen at one moment is one script in one slot. Sums and
orders over all jobs are made of the shards' own.

    the ports    jobs, queue (with claim and claim_plan), batches (with items), credentials,
                 deliveries, leases, ledger (with ledger_rows), notes, notices, runs, wakeups
    of jobs      records, job_calls, job_reads, listing, erase; merge (one order over many shards)
    scripts      lua (what they share) and …_scripts, each by what it is about
    asking       client, commands, packing, replies, failures, keys (the names of everything)
    connecting   address, topology, node, sentinels, shared_connection, opening (what must hold)
"""

from datetime import datetime, timedelta
from typing import Final, Self

from proxy.ports.stores import Durability
from proxy.ports.tasks import TaskOwner
from proxy.stores.redis.address import RedisAddress
from proxy.stores.redis.batches import RedisBatchStore
from proxy.stores.redis.client import Client
from proxy.stores.redis.credentials import RedisCredentialStore
from proxy.stores.redis.deliveries import RedisDeliveryStore
from proxy.stores.redis.jobs import RedisJobStore
from proxy.stores.redis.leases import RedisLeaseStore, RedisUnbatchableStore
from proxy.stores.redis.ledger import RedisLedgerStore
from proxy.stores.redis.notes import RedisNoteStore
from proxy.stores.redis.notices import RedisNoticeStore
from proxy.stores.redis.opening import check_authorities, clock_ahead, durability, mark, prepare
from proxy.stores.redis.queue import RedisQueueStore
from proxy.stores.redis.runs import RedisRunStore
from proxy.stores.redis.wakeups import RedisWakeups
from proxy.stores.vault import Vault

KEEP: Final = timedelta(days=90)
"""When call and result of a job that ended vanish even if nobody prunes it: far beyond any
retention. Its record, which holds neither, waits for the pruner with all that names it."""


class RedisStores:
    """All stores over one Redis."""

    setback: Final = timedelta(minutes=6)
    """More than a replica can be behind by that takes over. One that follows is by less than a
    second; but one that lost its master before that died is taken, too, if that was no longer ago
    than ten times `down-after-milliseconds` (Sentinel: five minutes by default) or
    `cluster-node-timeout` (two and a half). Also more than an append-only file that the system
    writes when it likes (half a minute, `appendfsync no`). Snapshots may lose more: whoever keeps
    jobs by them alone is warned."""

    def __init__(
        self,
        client: Client,
        address: RedisAddress,
        vault: Vault,
        *,
        tasks: TaskOwner,
        keep: timedelta,
        results: timedelta,
        by_callers_clock: bool,
    ) -> None:
        self._client = client
        self._address = address
        self._vault = vault
        self.queue = RedisQueueStore(client)
        self.deliveries = RedisDeliveryStore(client)
        self.batches = RedisBatchStore(client, vault)
        self.credentials = RedisCredentialStore(client, vault, self.batches)
        self.jobs = RedisJobStore(
            client,
            vault,
            remember=self.credentials.remember,
            expect=self.deliveries.expect,
            keep=keep,
            results=results,
        )
        self.unbatchable = RedisUnbatchableStore(client)
        self.leases = RedisLeaseStore(client, by_callers_clock=by_callers_clock)
        self.runs = RedisRunStore(client)
        self.notes = RedisNoteStore(client)
        self.ledger = RedisLedgerStore(client)
        self.notices = RedisNoticeStore(client)
        self.wakeups = RedisWakeups(client, address, tasks)

    @classmethod
    async def open(
        cls,
        url: str,
        vault: Vault,
        tasks: TaskOwner,
        *,
        keep: timedelta = KEEP,
        results: timedelta = KEEP,
        by_callers_clock: bool = False,
    ) -> Self:
        """Connect. `tasks` owns the connections and must outlive the stores.

        Jobs that ended are pruned after `results`; if nobody does, what was said in them
        vanishes after `keep`.

        Leases end by the clock of Redis, unless all callers share one that is moved by hand.

        Raises:
            ConfigError: if the URL or the server's configuration cannot be used.
            StoreUnavailableError: if Redis does not answer.
            StoreCorruptError: if the store is another version's, was made with
                another key file, or needs a key that the file does not hold any more.
        """
        address = RedisAddress.parse(url)
        check_authorities(address)
        client = Client(address, tasks)
        try:
            await prepare(client, vault, place=address.shown)
            stores = cls(
                client,
                address,
                vault,
                tasks=tasks,
                keep=keep,
                results=results,
                by_callers_clock=by_callers_clock,
            )
            await stores.credentials.renew()
        except BaseException:
            client.close()
            raise
        return stores

    async def mark(self) -> bool:
        """Mark the store as ours if it was emptied, so that nobody comes with other keys.

        Return whether it was.

        Raises:
            StoreCorruptError: if others have marked it since.
            StoreUnavailableError: if Redis does not answer.
        """
        return await mark(self._client, self._vault, place=self._address.shown)

    async def durability(self) -> Durability:
        """Return what outlives a crash of Redis, as it is set now.

        Raises:
            StoreUnavailableError: if Redis does not answer.
        """
        return await durability(self._client, self._address)

    async def ahead_of(self, now: datetime) -> timedelta:
        """Return by how much the clock of Redis is ahead of `now`.

        Raises:
            StoreUnavailableError: if Redis does not answer.
        """
        return await clock_ahead(self._client, now)

    async def aclose(self) -> None:
        """Take no more calls; what was begun is finished by the tasks."""
        await self.wakeups.aclose()
        self._client.close()
