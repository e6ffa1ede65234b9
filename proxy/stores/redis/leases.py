"""Leases, and models that a provider refused in batches."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from proxy.core.errors import StoreCorruptError
from proxy.core.ids import CredentialId, InstanceId
from proxy.core.lanes import ModelAccess
from proxy.stores.codec import from_micros, to_micros
from proxy.stores.redis import keys, lease_scripts
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import Script, read, write
from proxy.stores.redis.replies import Reply, as_bytes, as_int, as_list, as_text
from proxy.stores.unread import Unread

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
        self._unread = Unread()

    async def note(
        self, credential_id: CredentialId, endpoint: str, model: str, *, until: datetime
    ) -> None:
        # The credential first, so that its notes can be told when it is forgotten.
        field = f"{credential_id} {json.dumps([endpoint, model])}"
        await self._client.call(write("HSET", keys.UNBATCHABLE, field, to_micros(until)))

    async def known(self, *, now: datetime) -> Mapping[ModelAccess, datetime]:
        reply = await self._client.call(read("HGETALL", keys.UNBATCHABLE))
        flat = as_list(reply)
        # By one name all of them: what stands there in place of a field may be anything.
        stored = ((keys.UNBATCHABLE, note) for note in zip(flat[::2], flat[1::2], strict=True))
        found: dict[ModelAccess, datetime] = {}
        over: dict[str, bytes] = {}
        for field, value, place, until in self._unread.readable(stored, _parse):
            if now < until:
                found[place] = until
            else:
                over[field] = value
        if over:
            await self._forget(over)
        return found

    async def _forget(self, over: Mapping[str, bytes]) -> None:
        """Forget notes that were found to be over, each with its time."""
        each = [part for note in over.items() for part in note]
        await self._client.call(_FORGET.call([keys.UNBATCHABLE], *each))


def _parse(note: tuple[Reply, Reply]) -> tuple[str, bytes, ModelAccess, datetime]:
    """Return a note as it is stored, and what it says."""
    field = as_text(note[0])
    credential_id, _, refused = field.partition(" ")
    try:
        endpoint, model = map(str, json.loads(refused))
    except (TypeError, ValueError):
        raise StoreCorruptError("a note about a model cannot be read") from None
    place = (CredentialId(credential_id), endpoint, model)
    return field, as_bytes(note[1]), place, from_micros(as_int(note[1]))
