"""Leases, and models that a provider refused in batches."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from proxy.core.ids import CredentialId, InstanceId
from proxy.core.lanes import ModelAccess
from proxy.stores.codec import from_micros, to_micros
from proxy.stores.redis import keys, lease_scripts
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import Script, read, write
from proxy.stores.redis.wire import as_list, as_map, as_text

_LEASES: Final = (keys.LEASES, keys.LEASES_UNTIL)

_FORGET: Final = Script(
    """
-- Only as they were read: one of them may have been noted anew since then.
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return 1
"""
)


class RedisLeaseStore:
    """Exclusive rights for a time, among all instances of the fleet."""

    def __init__(self, client: Client, *, by_callers_clock: bool) -> None:
        """By the callers' clock, where those tell the same time, or by that of Redis."""
        self._client = client
        self._by_callers_clock = int(by_callers_clock)

    async def acquire(
        self, name: str, holder: InstanceId, *, now: datetime, until: datetime
    ) -> bool:
        times = (to_micros(now), to_micros(until), self._by_callers_clock)
        reply = await self._client.call(lease_scripts.ACQUIRE.call(_LEASES, name, holder, *times))
        return reply == 1

    async def release(self, name: str, holder: InstanceId) -> None:
        await self._client.call(lease_scripts.RELEASE.call(_LEASES, name, holder))

    async def holders(self, prefix: str, *, now: datetime) -> frozenset[InstanceId]:
        times = (to_micros(now), self._by_callers_clock)
        reply = await self._client.call(lease_scripts.HOLDERS.call(_LEASES, prefix, *times))
        return frozenset(InstanceId(as_text(one)) for one in as_list(reply))


class RedisUnbatchableStore:
    """What a provider does not batch."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def note(
        self, credential_id: CredentialId, endpoint: str, model: str, *, until: datetime
    ) -> None:
        # The credential first, so that its notes can be told when it is forgotten.
        field = f"{credential_id} {json.dumps([endpoint, model])}"
        await self._client.call(write("HSET", keys.UNBATCHABLE, field, to_micros(until)))

    async def known(self, *, now: datetime) -> Mapping[ModelAccess, datetime]:
        reply = await self._client.call(read("HGETALL", keys.UNBATCHABLE))
        found: dict[ModelAccess, datetime] = {}
        over: dict[str, bytes] = {}
        for field, value in as_map(reply).items():
            until = from_micros(int(value))
            credential_id, _, refused = field.partition(" ")
            endpoint, model = json.loads(refused)
            if now < until:
                found[CredentialId(credential_id), endpoint, model] = until
            else:
                over[field] = value
        if over:
            await self._forget(over)
        return found

    async def _forget(self, over: Mapping[str, bytes]) -> None:
        """Forget notes that were found to be over, each with its time."""
        each = [part for note in over.items() for part in note]
        await self._client.call(_FORGET.call([keys.UNBATCHABLE], *each))
