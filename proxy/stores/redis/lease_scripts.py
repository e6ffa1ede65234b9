"""What must happen at one moment to a lease, in Lua."""

from typing import Final

from proxy.stores.redis.commands import Script

ACQUIRE: Final = Script(
    """
local name, holder, now, until_ = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local over = redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)
if #over > 0 then
  redis.call('HDEL', KEYS[1], unpack(over))
  redis.call('ZREM', KEYS[2], unpack(over))
end
local ends = redis.call('ZSCORE', KEYS[2], name)
if ends and tonumber(ends) > tonumber(now) and redis.call('HGET', KEYS[1], name) ~= holder then
  return 0
end
redis.call('HSET', KEYS[1], name, holder)
redis.call('ZADD', KEYS[2], until_, name)
return 1
"""
)

RELEASE: Final = Script(
    """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
"""
)
