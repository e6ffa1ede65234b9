"""Small shared records."""

import re
from typing import Final

from proxy.ports.notes import Note
from proxy.stores.redis import keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import Script, read
from proxy.stores.redis.replies import as_bytes

_STORED: Final = re.compile(rb"([0-9]{0,15}+)[^ ]*+ ?+(.*)", re.DOTALL)
"""A note, `<version> <text>`. Of one that is damaged the version is what `_WRITE` takes for it."""

_WRITE: Final = Script(
    """
-- Write a note, `<version> <text>`, over the one before it.
local known = redis.call('HGET', KEYS[1], ARGV[1])
local version = known and string.match(string.sub(known, 1, 15), '^%d+') or '0'
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
        found = _STORED.fullmatch(as_bytes(reply))
        assert found, "it matches any bytes"
        # Whoever reads a note takes a damaged one for none, and writes it anew.
        return Note(found[2].decode(errors="replace"), int(found[1] or 0))

    async def write(self, name: str, note: Note) -> bool:
        reply = await self._client.call(_WRITE.call([keys.NOTES], name, note.version, note.text))
        return reply == 1
