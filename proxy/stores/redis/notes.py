"""Small shared records."""

from typing import Final

from proxy.ports.notes import Note
from proxy.stores.redis import keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import Script, read
from proxy.stores.redis.wire import as_int, as_text

_WRITE: Final = Script(
    """
-- Write a note, `<version> <text>`, over the one before it.
local known = redis.call('HGET', KEYS[1], ARGV[1])
local version = known and string.match(known, '^%d+') or '0'
if tonumber(version) ~= tonumber(ARGV[2]) - 1 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
return 1
"""
)


class RedisNoteStore:
    """Notes of the fleet."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def read(self, name: str) -> Note | None:
        reply = await self._client.call(read("HGET", keys.NOTES, name))
        if reply is None:
            return None
        version, _, text = as_text(reply).partition(" ")
        return Note(text, as_int(version))

    async def write(self, name: str, note: Note) -> bool:
        reply = await self._client.call(_WRITE.call([keys.NOTES], name, note.version, note.text))
        return reply == 1
