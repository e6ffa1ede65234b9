"""What must happen at one moment to a job, in Lua.

A script touches one job, or the few that share a call, or reads up to a few hundred rows,
and so holds Redis well below 5 ms. A job's record begins with a line for the scripts:

    version state attempt key ready idempotency
"""

from typing import Final

from proxy.stores.redis.commands import Script
from proxy.stores.redis.lua import DELIVERY, EACH, HEAD, LEDGER, QUEUE, ROW

ACCEPT: Final = Script(
    EACH
    + QUEUE
    + DELIVERY
    + """
-- Accept the job whose keys begin behind KEYS[m] and whose arguments behind ARGV[n]. Returns
-- what its idempotency key stands for already, if there is such a job: then nothing is done.
local function accept(m, n)
  local k = {open = KEYS[m + 3], queue = KEYS[m + 4], due = KEYS[m + 5], heads = KEYS[m + 6],
    keys = KEYS[m + 7], waiting = KEYS[m + 9]}
  local owner = ARGV[n + 5]
  local accepted, lease, retry, place, gone, row =
    string.match(ARGV[n + 2], '^(%S+) (%S+) (%S+) (%S+) (%S+) (.*)$')
  local job, bytes, tokens, deadline, held, ready =
    string.match(row, '^(%S+) %S+ (%S+) (%S+) (%S+) (%S+) (%S+)')
  local q = {bytes = bytes, tokens = tokens, deadline = deadline, held = held}
  local last = m + 10
  -- Of the keys that come behind these, the first are those of what few jobs have.
  if place ~= '-' then
    last = last + 1
    local known = redis.call('HGET', KEYS[last], place)
    if known and known ~= gone then return known end
    redis.call('HSET', KEYS[last], place, job)
  end
  if redis.call('MSETNX', KEYS[m + 1], ARGV[n + 3], KEYS[m + 2], ARGV[n + 4]) == 0 then
    error('job ' .. job .. ' is there already')
  end
  enqueue(k, ARGV[n + 6], ARGV[n + 7], job, row, ready, q)
  pend(KEYS[m + 8], owner, 1, bytes)
  local tries = retry .. ' ' .. accepted
  if retry ~= '0' then
    last = last + 1
    redis.call('HSET', KEYS[last], job, tries)
  end
  open(k, owner, job .. ' ' .. tries, lease)
  redis.call('ZADD', KEYS[m + 10], accepted, job)
  for i = last + 1, m + ARGV[n + 1] do redis.call('ZADD', KEYS[i], accepted, job) end
  return false
end

return each(7, accept)
""",
    serves_many=True,
)
"""Accepts jobs, each for itself: what fails does not keep the others from being accepted."""

GET: Final = Script(
    """
local record = redis.call('GET', KEYS[1])
if not record then return false end
local state, attempt = string.match(record, '^%S+ (%S+) (%S+)')
if state == 'queued' then
  return {record, redis.call('HGET', KEYS[2], ARGV[1] .. '-' .. (attempt + 1))}
end
return {record}
""",
    writes=False,
)

REPLACE: Final = Script(
    QUEUE
    + DELIVERY
    + LEDGER
    + """
local k = {record = KEYS[1], result = KEYS[2], body = KEYS[3], claims = KEYS[4],
  heads = KEYS[5], keys = KEYS[6], pending = KEYS[7], ended = KEYS[8], escalating = KEYS[9],
  from = KEYS[10], to = KEYS[11],
  before = {queue = KEYS[12], due = KEYS[13], heads = KEYS[5], keys = KEYS[6]},
  after = {queue = KEYS[14], due = KEYS[15], heads = KEYS[5], keys = KEYS[6]},
  deliveries = KEYS[16], open = KEYS[17], flushed = KEYS[18], waiting = KEYS[19]}
local job, owner, version, state, attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local kid, text, ready, packed, credential = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local accepted, finalized, keep, result = ARGV[11], ARGV[12], ARGV[13], ARGV[14]
local q = {bytes = ARGV[15], tokens = ARGV[16], deadline = ARGV[17], held = ARGV[18],
  affinity = ARGV[19]}
local from, from_key, notice = ARGV[20], ARGV[21], ARGV[22]
local day, rows = ARGV[23], tonumber(ARGV[24])
local live = {queued = true, batched = true, escalating = true}

local stored = redis.call('GET', k.record)
if not stored then return 'refused' end
local v, s, a, key, r, idempotency =
  string.match(stored, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+)')
local claimed = s == 'queued' and redis.call('HEXISTS', k.claims, job .. '-' .. (a + 1)) == 1
if v + (claimed and 1 or 0) ~= version - 1 then return 'refused' end
-- The keys were named for another state than the job is in.
if s ~= from or key ~= from_key then return s .. ' ' .. key end

if s == 'queued' and not claimed then dequeue(k.before, key, job, a, r, q) end
redis.call('SET', k.record,
  table.concat({version, state, attempt, kid, ready, idempotency}, ' ') .. '\\n' .. packed)
if s ~= state then
  redis.call('ZREM', k.from, job)
  redis.call('ZADD', k.to, accepted, job)
end
if state == 'queued' then
  enqueue(k.after, kid, text, job, row(job, attempt, ready, q), ready, q)
end
if state == 'escalating' then
  redis.call('HSET', k.escalating, job, credential)
elseif s == 'escalating' then
  redis.call('HDEL', k.escalating, job)
end
if finalized ~= '' then redis.call('ZADD', k.ended, finalized, job) end
if live[s] and not live[state] then pend(k.pending, owner, -1, -q.bytes) end
if result ~= '' then redis.call('SET', k.result, result) end
if state == 'cancelled' then
  redis.call('DEL', k.body)
  forget(k, owner, job, accepted)
end
-- The record stays: only it tells the pruner what else names the job.
if not live[state] then
  redis.call('EXPIRE', k.body, keep)
  redis.call('EXPIRE', k.result, keep)
end
-- What is booked brings two keys more, behind all others; a notice two more before them.
local last = #KEYS
if day ~= '' then
  book(KEYS[last - 1], KEYS[last], day, rows, 25)
  last = last - 2
end
if notice ~= '' then
  redis.call('HSET', KEYS[last - 1], job, notice)
  redis.call('ZADD', KEYS[last], finalized, job)
end
return 'written'
"""
)

ERASE: Final = Script(
    DELIVERY
    + """
local k = {deliveries = KEYS[6], open = KEYS[7], flushed = KEYS[8], waiting = KEYS[9]}
local job, owner, accepted, header, place = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local stored = redis.call('GET', KEYS[1])
if not stored then return 0 end
if string.sub(stored, 1, #header) ~= header then return -1 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[4], job)
if place ~= '' and redis.call('HGET', KEYS[5], place) == job then
  redis.call('HDEL', KEYS[5], place)
end
forget(k, owner, job, accepted)
redis.call('HDEL', KEYS[10], job)
for i = 11, #KEYS do redis.call('ZREM', KEYS[i], job) end
return 1
"""
)

PAGE: Final = Script(
    """
-- The newest of several lists of (time, job), from a position on, newest first.
local x, y, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local found, more = {}, 0
for i = 1, #KEYS do
  local skip, taken, done = 0, 0, false
  while not done do
    local rows = redis.call('ZRANGE', KEYS[i], x, '-inf', 'BYSCORE', 'REV',
      'LIMIT', skip, limit, 'WITHSCORES')
    for j = 1, #rows, 2 do
      if y == '' or rows[j + 1] ~= x or rows[j] < y then
        found[#found + 1] = {tonumber(rows[j + 1]), rows[j], rows[j + 1]}
        taken = taken + 1
      end
    end
    skip = skip + limit
    done = #rows < 2 * limit
    if not done and taken >= limit then
      done, more = true, 1
    end
  end
end
table.sort(found, function(a, b)
  if a[1] ~= b[1] then return a[1] > b[1] end
  return a[2] > b[2]
end)
local lines = {}
for i = 1, math.min(limit, #found) do lines[i] = found[i][3] .. ' ' .. found[i][2] end
if #found > limit then more = 1 end
return {more, table.concat(lines, '\\n')}
""",
    writes=False,
)

NEAR: Final = Script(
    """
-- Rows by deadline, of which those that are ready are returned, and how far it looked.
local before, ready_at, offset = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local limit, most = tonumber(ARGV[4]), tonumber(ARGV[5])
local rows = redis.call('ZRANGE', KEYS[1], '-inf', before, 'BYSCORE',
  'LIMIT', offset, most, 'WITHSCORES')
local lines, looked, last = {}, 0, ''
for j = 1, #rows, 2 do
  looked = looked + 1
  local job, ready = string.match(rows[j], '^(job_[0-9A-Z]+) (%d+)$')
  -- What is no row stands, for whoever goes on from there, before all of that moment.
  last = rows[j + 1] .. ' ' .. (job or '')
  if job and tonumber(ready) <= ready_at then lines[#lines + 1] = last end
  if #lines >= limit then break end
end
local more = looked * 2 < #rows or #rows == 2 * most
return {looked, more and last or '', table.concat(lines, '\\n')}
""",
    writes=False,
)

HEADS: Final = Script(
    HEAD
    + """
local flat = redis.call('HGETALL', KEYS[1])
local lines = {}
for i = 1, #flat, 2 do
  local line = flat[i]
  if #flat[i + 1] == struct.size(HEAD) then
    line = string.format('%s %d %d %d %d %d %d %d', line, struct.unpack(HEAD, flat[i + 1]))
  end
  lines[#lines + 1] = line
end
return table.concat(lines, '\\n')
""",
    writes=False,
)

RECOUNT: Final = Script(
    HEAD
    + ROW
    + """
-- Count a queue anew of which the counters are damaged: of what it holds nothing else is.
local n, bytes, tokens, held = 0, 0, 0, 0
local first, last, near = math.huge, 0, math.huge
for _, row in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local job, _, b, t, deadline, h, ready = string.match(row, ROW)
  if job then
    n, bytes, tokens, held = n + 1, bytes + b, tokens + t, held + h
    first, last = math.min(first, ready), math.max(last, ready)
    near = math.min(near, deadline)
  end
end
if n == 0 then return redis.call('HDEL', KEYS[2], ARGV[1]) end
redis.call('HSET', KEYS[2], ARGV[1],
  struct.pack(HEAD, n, bytes, tokens, held, first, last, near))
return n
"""
)
