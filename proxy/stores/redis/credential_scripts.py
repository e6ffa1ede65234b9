"""What must happen at one moment to a credential, in Lua."""

from typing import Final

from proxy.stores.redis.commands import Script
from proxy.stores.redis.lua import EACH

TOUCH: Final = Script(
    EACH
    + """
return each(1, function(m)
  if redis.call('EXISTS', KEYS[m + 1]) == 0 then return 'unknown' end
  redis.call('HDEL', KEYS[m + 1], 'unused')
  return false
end)
""",
    serves_many=True,
)

ADD: Final = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'upstream', ARGV[3], 'headers', ARGV[4])
  if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'succeeded', ARGV[5]) end
  redis.call('SADD', KEYS[2], ARGV[1])
  redis.call('SADD', KEYS[3], ARGV[1])
end
redis.call('HDEL', KEYS[1], 'unused')
return 1
"""
)

RENEW: Final = Script(
    """
-- Put what says the same in place of a field, unless it was changed or forgotten meanwhile.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
)

ACCEPTED: Final = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'succeeded', ARGV[2])
redis.call('HDEL', KEYS[1], 'paused', 'status', 'body')
redis.call('SREM', KEYS[2], ARGV[1])
return 1
"""
)

PAUSE: Final = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSETNX', KEYS[1], 'paused', ARGV[2])
redis.call('HDEL', KEYS[1], 'status', 'body')
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'status', ARGV[3]) end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'body', ARGV[4]) end
redis.call('SADD', KEYS[2], ARGV[1])
return 1
"""
)

MARK: Final = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'unused', 1) end
return 1
"""
)

FORGET: Final = Script(
    """
if redis.call('HGET', KEYS[1], 'unused') ~= '1' then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[1])
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('SREM', KEYS[4], ARGV[1])
return 1
"""
)
