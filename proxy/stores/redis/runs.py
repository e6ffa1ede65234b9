"""How often calls came within their runs."""

from datetime import datetime
from typing import Final

from proxy.core.ids import shard_for
from proxy.stores.redis import keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import Script
from proxy.stores.redis.replies import as_int

_COUNT: Final = Script(
    """
local count = redis.call('INCR', KEYS[1])
redis.call('EXPIRE', KEYS[1], ARGV[1])
return count
"""
)


class RedisRunStore:
    """Counters of the fleet, each a key that vanishes with its time."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def count(self, place: str, *, now: datetime, until: datetime) -> int:
        seconds = max(1, int((until - now).total_seconds()))
        name = keys.run(shard_for(place), place)
        return as_int(await self._client.call(_COUNT.call([name], seconds)))
