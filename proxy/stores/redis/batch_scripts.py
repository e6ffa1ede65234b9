"""What must happen at one moment to a batch, or to its part in one shard, in Lua."""

from typing import Final

from proxy.stores.redis.commands import Script
from proxy.stores.redis.lua import HEAD, QUEUE, ROW

LOOK: Final = Script(
    HEAD
    + ROW
    + """
-- What a batch holds of this shard; then of the queue: how many rows are ready, when
-- the row at a rank was, what all rows add up to, and how large the first one is. Of a queue
-- that begins with what is no row, none are ready, and the first one is smaller than any.
local sums = redis.call('HMGET', KEYS[2], 'count', 'bytes', 'tokens', 'deadline', 'closed')
local count, at, rows, bytes, tokens, next_bytes, next_tokens = 0, '', 0, 0, 0, 0, 0
if not sums[5] then
  count = redis.call('ZCOUNT', KEYS[1], '-inf', ARGV[1])
  if count >= tonumber(ARGV[2]) then
    at = redis.call('ZRANGE', KEYS[1], ARGV[2] - 1, ARGV[2] - 1, 'WITHSCORES')[2]
  end
  local head = redis.call('HGET', KEYS[3], ARGV[3])
  if head then rows, bytes, tokens = struct.unpack(HEAD, head) end
  if count > 0 then
    local row = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
    local job, _, size, estimate = string.match(row, ROW)
    if job then next_bytes, next_tokens = size, estimate else count, next_bytes = 0, -1 end
  end
end
return {sums[1] or '0', sums[2] or '0', sums[3] or '0', sums[4] or '', count, at,
  rows, bytes, tokens, next_bytes, next_tokens}
""",
    writes=False,
)

PEEK: Final = Script(
    ROW
    + """
-- The front of the queue, as far as a plan must know it: no further than to what is no row.
local rows = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2])
local lines = {}
for i, row in ipairs(rows) do
  local job, _, bytes, tokens, _, _, ready = string.match(row, ROW)
  if not job then break end
  lines[i] = table.concat({ready, job, bytes, tokens}, ' ')
end
return table.concat(lines, '\\n')
""",
    writes=False,
)

TAKE: Final = Script(
    QUEUE
    + ROW
    + """
-- Move the front of the queue into the batch: what is not behind a place, and fits. The
-- place is a moment, and a job of that moment or all of them. What is no row of ours stays
-- where it is, with all behind it.
local k = {queue = KEYS[1], due = KEYS[2], heads = KEYS[3], keys = KEYS[4]}
local items, claims, sums, filled = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local kid, batch = ARGV[1], ARGV[2]
local last_ready, last_job = tonumber(ARGV[3]), ARGV[4]
local most, most_bytes, most_tokens = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if redis.call('HEXISTS', sums, 'closed') == 1 then return {0, 0, 0, ''} end
local rows = redis.call('ZRANGE', k.queue, 0, most - 1)
local match = string.match
local n, bytes, tokens, held, near = 0, 0, 0, 0, math.huge
local due, named = {}, {}
for i = 1, #rows do
  local job, attempt, b, t, deadline, h, ready = match(rows[i], ROW)
  if not job then break end
  local at = tonumber(ready)
  if at > last_ready or (at == last_ready and last_job ~= '' and job > last_job)
    or bytes + b > most_bytes or tokens + t > most_tokens then break end
  n, bytes, tokens, held = n + 1, bytes + b, tokens + t, held + h
  deadline = tonumber(deadline)
  if deadline < near then near = deadline end
  due[n] = job .. ' ' .. ready
  named[2 * n - 1] = job .. '-' .. attempt
  named[2 * n] = batch
end
if n == 0 then return {0, 0, 0, ''} end
redis.call('ZREMRANGEBYRANK', k.queue, 0, n - 1)
redis.call('ZREM', k.due, unpack(due))
redis.call('RPUSH', items, unpack(rows, 1, n))
redis.call('SADD', filled, batch)
redis.call('HSET', claims, unpack(named))
count_out(k, kid, n, bytes, tokens, held)
redis.call('HINCRBY', sums, 'count', n)
redis.call('HINCRBY', sums, 'bytes', num(bytes))
redis.call('HINCRBY', sums, 'tokens', num(tokens))
local known = redis.call('HGET', sums, 'deadline')
if not known or near < tonumber(known) then
  redis.call('HSET', sums, 'deadline', num(near))
end
return {n, num(bytes), num(tokens), num(near)}
"""
)

DROP: Final = Script(
    """
-- Forget some items of a batch; return whether there may be more.
local rows = redis.call('LPOP', KEYS[1], ARGV[1]) or {}
local names = {}
for i = 1, #rows do
  local job, attempt = string.match(rows[i], '^(%S+) (%S+)')
  names[i] = job .. '-' .. attempt
end
if #rows > 0 then redis.call('HDEL', KEYS[2], unpack(names)) end
redis.call('EXPIRE', KEYS[3], ARGV[2])
if #rows == tonumber(ARGV[1]) then return 1 end
redis.call('SREM', KEYS[4], ARGV[3])
return 0
"""
)

ADD_BATCH: Final = Script(
    """
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then
  error('batch ' .. ARGV[1] .. ' is there already')
end
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
if ARGV[4] == '' then
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
elseif ARGV[4] ~= '0' then
  redis.call('ZADD', KEYS[4], ARGV[4], ARGV[1])
end
return 1
"""
)

REPLACE_BATCH: Final = Script(
    """
-- `closed` says that no shard gives the batch any more jobs.
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if not stored then return 'refused' end
local version, state = string.match(stored, '^(%S+) (%S+)')
if tonumber(version) ~= ARGV[2] - 1 then return 'refused' end
if state == 'filling' and ARGV[3] ~= 'filling' and ARGV[6] ~= 'closed' then return 'open' end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
if ARGV[3] == 'settled' then
  redis.call('ZREM', KEYS[2], ARGV[1])
  if ARGV[5] ~= '' then redis.call('ZADD', KEYS[3], ARGV[5], ARGV[1]) end
end
return 'written'
"""
)

NOTE_SIZE: Final = Script(
    """
-- What is no number is damaged, and counted anew.
if ARGV[2] == '1' and tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0) then
  return redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""
)
