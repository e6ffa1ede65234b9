"""What must happen at one moment to a delivery, in Lua."""

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
