"""What must happen at one moment to a lease, in Lua.

The clocks of instances differ, and one that is ahead would take the leases of all others
for over: it would do their work beside them, and buy again what they are calling. So the
server's clock says what time it is, and callers only for how long.
"""

from datetime import timedelta
from typing import Final

from proxy.core.leases import LEASE_MAX
from proxy.stores.redis.commands import Script

_NOW: Final = """
-- What time it is, if the caller's clock does not count.
local function now_instead_of(theirs, counts)
  if counts == '1' then return tonumber(theirs) end
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- One that would last longer was noted before the clock was set back.
local LONGEST = LONGEST_US

local function num(x) return string.format('%d', x) end

local function is_over(ends, now) return ends <= now or ends > now + LONGEST end
""".replace("LONGEST_US", str(int(LEASE_MAX / timedelta(microseconds=1))))

ACQUIRE: Final = Script(
    _NOW
    + """
local name, holder, theirs, until_ = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now = now_instead_of(theirs, ARGV[5])
local over = redis.call('ZRANGE', KEYS[2], '-inf', num(now), 'BYSCORE', 'LIMIT', 0, 100)
if #over > 0 then
  redis.call('HDEL', KEYS[1], unpack(over))
  redis.call('ZREM', KEYS[2], unpack(over))
end
local ends = redis.call('ZSCORE', KEYS[2], name)
local other = ends and redis.call('HGET', KEYS[1], name) ~= holder
if other and not is_over(tonumber(ends), now) then return 0 end
-- What prunes needs a lease, too, and most of all where the memory is full. Then a script may
-- write only if what it writes first takes something away.
redis.call('HDEL', KEYS[1], name)
redis.call('HSET', KEYS[1], name, holder)
redis.call('ZADD', KEYS[2], num(now + until_ - theirs), name)
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

HOLDERS: Final = Script(
    _NOW
    + """
local prefix, now = ARGV[1], now_instead_of(ARGV[2], ARGV[3])
local holders = {}
local last = num(now + LONGEST)
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], '(' .. num(now), last, 'BYSCORE')) do
  if string.sub(name, 1, #prefix) == prefix then
    holders[#holders + 1] = redis.call('HGET', KEYS[1], name)
  end
end
return holders
""",
    writes=False,
)
