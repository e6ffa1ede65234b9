"""What must happen at one moment to a delivery, in Lua."""

from typing import Final

from proxy.stores.redis.commands import Script
from proxy.stores.redis.lua import DELIVERY

CLAIM_CALL: Final = Script(
    DELIVERY
    + """
-- Find the job that a repeat may claim here (`proxy.core.repeats.claim_rank`). The mode
-- says what then: `home` claims unless other shards must be asked, `peek` only tells.
local k = {deliveries = KEYS[1], open = KEYS[2], flushed = KEYS[3], waiting = KEYS[4]}
local mode, owner, retry = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now, window, lease, most = ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7]
if mode == 'home' then
  local others = redis.call('SMEMBERS', KEYS[5])
  if #others > 0 then return {2, table.concat(others, ' ')} end
end

-- The job whose ID is least is the oldest of its shard. Of those that are cared for,
-- the one that has seen the fewest tries comes first, and of these the flushed one.
local job, tries, held, row
local function oldest(rows, cared_for, is_held)
  for i = 1, #rows do
    local found, seen, claimed = string.match(rows[i], '^(%S+) (%S+) (%S+)$')
    seen, claimed = tonumber(seen), tonumber(claimed)
    if not cared_for or (retry > seen and claimed >= window) then
      local rank = cared_for and 1 + seen or 0
      local is_alike = job and rank == tries and is_held == held
      if not job or rank < tries or (is_alike and found < job) then
        job, tries, held, row = found, rank, is_held, rows[i]
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
  leave(k, owner, row)
  local claimed = math.max(string.match(row, '^%S+ (%S+)'), retry) .. ' ' .. now
  redis.call('HSET', k.deliveries, job, claimed)
  open(k, owner, job .. ' ' .. claimed, lease)
end
return {1, tries .. ' ' .. held .. ' ' .. job}
"""
)

FINISH: Final = Script(
    DELIVERY
    + """
local k = {deliveries = KEYS[1], open = KEYS[2], flushed = KEYS[3], waiting = KEYS[4]}
local job, owner, accepted, state, retry = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local tries = tries_of(k, job, accepted)
if tonumber(string.match(tries, '^%S+')) > retry then return 0 end
local row = job .. ' ' .. tries
if not leave(k, owner, row) then return 0 end
if state == 'flushed' then
  flush(k, row)
else
  -- The lease of a broken connection ended long ago.
  open(k, owner, row, '0')
end
return 1
"""
)

RENEW: Final = Script(
    DELIVERY
    + """
local k = {deliveries = KEYS[1], open = KEYS[2], flushed = KEYS[3], waiting = KEYS[4]}
local job, owner, accepted, lease = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local row = job .. ' ' .. tries_of(k, job, accepted)
local old = redis.call('ZSCORE', k.open, row)
if not old or old == '0' then return 0 end
leave(k, owner, row)
open(k, owner, row, lease)
return 1
"""
)
