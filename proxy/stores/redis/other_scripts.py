"""What must happen at one moment to a delivery, a credential or a lease, in Lua."""

from typing import Final

from proxy.stores.redis.commands import Script
from proxy.stores.redis.lua import DELIVERY

CLAIM_CALL: Final = Script(
    DELIVERY
    + """
-- Find the job that a repeat may claim here (`proxy.core.repeats.claim_rank`). The mode
-- says what then: `home` claims unless other shards must be asked, `peek` only tells.
local k = {deliveries = KEYS[1], open = KEYS[2], flushed = KEYS[3], waiting_of = KEYS[4],
  waiting = KEYS[5]}
local mode, owner, call, retry = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local now, window, lease, most = ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
if mode == 'home' then
  local others = redis.call('SMEMBERS', KEYS[6])
  if #others > 0 then return {2, table.concat(others, ' ')} end
end

-- The job whose ID is least is the oldest of its shard. Of those that are cared for,
-- the one that has seen the fewest tries comes first, and of these the flushed one.
local job, tries, held
local function oldest(rows, cared_for, is_held)
  for i = 1, #rows do
    local found, seen, claimed = string.match(rows[i], '^(%S+) (%S+) (%S+)$')
    seen, claimed = tonumber(seen), tonumber(claimed)
    if not cared_for or (retry > seen and claimed >= window) then
      local rank = cared_for and 1 + seen or 0
      local is_alike = job and rank == tries and is_held == held
      if not job or rank < tries or (is_alike and found < job) then
        job, tries, held = found, rank, is_held
      end
    end
  end
end

oldest(redis.call('ZRANGE', k.open, '-inf', now, 'BYSCORE', 'LIMIT', 0, most), false, 0)
if not job and retry > 0 then
  oldest(redis.call('ZRANGE', k.flushed, window, '+inf', 'BYSCORE', 'LIMIT', 0, most), true, 0)
  oldest(redis.call('ZRANGE', k.open, 0, most - 1), true, 1)
end
if not job then return {0, ''} end
if mode ~= 'peek' then
  local state, old_lease, count = parse(redis.call('HGET', k.deliveries, job))
  deliver(k, owner, job, table.concat(
    {'waiting', lease, math.max(count, retry), now, call, owner}, ' '))
end
return {1, tries .. ' ' .. held .. ' ' .. job}
"""
)

FINISH: Final = Script(
    DELIVERY
    + """
local k = {deliveries = KEYS[1], open = KEYS[2], flushed = KEYS[3], waiting_of = KEYS[4],
  waiting = KEYS[5]}
local job, owner, call, state, retry = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local old = redis.call('HGET', k.deliveries, job)
if not old then return 0 end
local _, lease, count, claimed = string.match(old, '^(%S+) (%S+) (%S+) (%S+)')
if tonumber(count) > retry then return 0 end
-- The lease of a broken connection ended long ago.
if state == 'broken' then lease = '0' end
deliver(k, owner, job, table.concat({state, lease, count, claimed, call, owner}, ' '))
return 1
"""
)

RENEW: Final = Script(
    DELIVERY
    + """
local k = {deliveries = KEYS[1], open = KEYS[2], flushed = KEYS[3], waiting_of = KEYS[4],
  waiting = KEYS[5]}
local job, owner, call, lease = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local old = redis.call('HGET', k.deliveries, job)
if not old then return 0 end
local state, _, count, claimed = string.match(old, '^(%S+) (%S+) (%S+) (%S+)')
if state ~= 'waiting' then return 0 end
deliver(k, owner, job, table.concat({state, lease, count, claimed, call, owner}, ' '))
return 1
"""
)

TOUCH_CREDENTIAL: Final = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HDEL', KEYS[1], 'unused')
return 1
"""
)

ADD_CREDENTIAL: Final = Script(
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

ACCEPTED_CREDENTIAL: Final = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'succeeded', ARGV[2])
redis.call('HDEL', KEYS[1], 'paused', 'status', 'body')
redis.call('SREM', KEYS[2], ARGV[1])
return 1
"""
)

PAUSE_CREDENTIAL: Final = Script(
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

MARK_CREDENTIAL: Final = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'unused', 1) end
return 1
"""
)

FORGET_CREDENTIAL: Final = Script(
    """
if redis.call('HGET', KEYS[1], 'unused') ~= '1' then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[1])
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('SREM', KEYS[4], ARGV[1])
return 1
"""
)

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
