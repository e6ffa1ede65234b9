"""Functions that the scripts share.

Numbers are microseconds and bytes: exact in a double up to 2^53. A queue's row is
`job attempt bytes tokens deadline held ready affinity`, with
the attempt that a claim makes it, so that a claim moves rows and builds none. A delivery is
`state lease retry_count claimed call owner`; what is indexed of it is `job retry_count claimed`.
"""

from typing import Final

EACH: Final = """
-- Do `one` for each that shares the call: its keys begin behind KEYS[m], and its `count`
-- arguments behind ARGV[n], of which the first is how many keys it has.
local function each(count, one)
  local replies, told, m = {}, false, 0
  for n = 0, #ARGV - 1, count do
    local done, reply = pcall(one, m, n)
    -- What went wrong comes as text. That of a command begins with the error's name.
    if not done then reply = {err = string.match(reply, '^%u+ ') and reply or 'ERR ' .. reply} end
    told = told or reply
    replies[#replies + 1] = reply
    m = m + ARGV[n + 1]
  end
  return told and replies
end
"""

QUEUE: Final = """
local function num(x) return string.format('%.0f', x) end

-- Count rows of the queue out, and put down its ends, for planners.
local function count_out(k, kid, rows, bytes, tokens, held)
  local packed = redis.call('HGET', k.heads, kid)
  local n, b, t, h = string.match(packed, '^(%S+) (%S+) (%S+) (%S+)')
  n, b, t, h = n - rows, b - bytes, t - tokens, h - held
  if n <= 0 then
    redis.call('HDEL', k.heads, kid)
    redis.call('HDEL', k.keys, kid)
    return
  end
  local first = redis.call('ZRANGE', k.queue, 0, 0, 'WITHSCORES')[2]
  local last = redis.call('ZRANGE', k.queue, -1, -1, 'WITHSCORES')[2]
  local near = redis.call('ZRANGE', k.due, 0, 0, 'WITHSCORES')[2]
  redis.call('HSET', k.heads, kid,
    table.concat({num(n), num(b), num(t), num(h), first, last, near}, ' '))
end

-- Count one more row in, of which nothing must be looked up.
local function count_in(k, kid, text, ready, q)
  local n, b, t, h, first, last, near = 0, 0, 0, 0, ready, ready, q.deadline
  local packed = redis.call('HGET', k.heads, kid)
  if packed then
    local f, l, d
    n, b, t, h, f, l, d = string.match(packed, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)')
    if tonumber(f) < tonumber(first) then first = f end
    if tonumber(l) > tonumber(last) then last = l end
    if tonumber(d) < tonumber(near) then near = d end
  else
    redis.call('HSET', k.keys, kid, text)
  end
  redis.call('HSET', k.heads, kid, table.concat({num(n + 1), num(b + q.bytes),
    num(t + q.tokens), num(h + q.held), first, last, near}, ' '))
end

local function row(job, attempt, ready, q)
  return table.concat({job, num(attempt + 1), q.bytes, q.tokens, q.deadline, q.held, ready,
    q.affinity}, ' ')
end

local function enqueue(k, kid, text, job, attempt, ready, q)
  redis.call('ZADD', k.queue, ready, row(job, attempt, ready, q))
  redis.call('ZADD', k.due, q.deadline, job .. ' ' .. ready)
  count_in(k, kid, text, ready, q)
end

local function dequeue(k, kid, job, attempt, ready, q)
  if redis.call('ZREM', k.queue, row(job, attempt, ready, q)) ~= 1 then
    error('job ' .. job .. ' is not where it was queued')
  end
  redis.call('ZREM', k.due, job .. ' ' .. ready)
  count_out(k, kid, 1, q.bytes, q.tokens, q.held)
end

local function pend(key, owner, jobs, bytes)
  local n, b = 0, 0
  local packed = redis.call('HGET', key, owner)
  if packed then n, b = string.match(packed, '^(%S+) (%S+)') end
  n, b = n + jobs, b + bytes
  if n > 0 then
    redis.call('HSET', key, owner, num(n) .. ' ' .. num(b))
  else
    redis.call('HDEL', key, owner)
  end
end
"""

DELIVERY: Final = """
local function parse(d)
  local state, lease, retry, claimed = string.match(d, '^(%S+) (%S+) (%S+) (%S+)')
  return state, lease, tonumber(retry), tonumber(claimed)
end

-- Put the delivery of a job where its new state belongs, or nowhere.
local function deliver(k, owner, job, new)
  local old = redis.call('HGET', k.deliveries, job)
  if old then
    local state, lease, retry, claimed = string.match(old, '^(%S+) (%S+) (%S+) (%S+)')
    local member = job .. ' ' .. retry .. ' ' .. claimed
    if state == 'flushed' then
      redis.call('ZREM', k.flushed, member)
    else
      redis.call('ZREM', k.open, member)
      redis.call('ZREM', k.waiting_of, job)
    end
  end
  if new then
    local state, lease, retry, claimed = string.match(new, '^(%S+) (%S+) (%S+) (%S+)')
    local member = job .. ' ' .. retry .. ' ' .. claimed
    if state == 'flushed' then
      redis.call('ZADD', k.flushed, claimed, member)
    else
      redis.call('ZADD', k.open, lease, member)
      redis.call('ZADD', k.waiting_of, lease, job)
    end
    redis.call('HSET', k.deliveries, job, new)
  elseif old then
    redis.call('HDEL', k.deliveries, job)
  end
  local first = redis.call('ZRANGE', k.waiting_of, 0, 0, 'WITHSCORES')[2]
  if first then
    redis.call('ZADD', k.waiting, first, owner)
  else
    redis.call('ZREM', k.waiting, owner)
  end
end
"""

LEDGER: Final = """
-- Add to rows of a day's ledger: from `first` on, each row, the row for what there is no
-- room for, and the amounts.
local function book(ledger, days, day, limit, first)
  redis.call('ZADD', days, (string.gsub(day, '-', '')), day)
  for i = first, #ARGV, 3 do
    local row, known = ARGV[i], redis.call('HGET', ledger, ARGV[i])
    if not known and redis.call('HLEN', ledger) >= limit then
      row = ARGV[i + 1]
      known = redis.call('HGET', ledger, row)
    end
    local sums, at = {}, 0
    for amount in string.gmatch(known or '', '%S+') do sums[#sums + 1] = amount end
    for amount in string.gmatch(ARGV[i + 2], '%S+') do
      at = at + 1
      sums[at] = string.format('%.0f', (sums[at] or 0) + amount)
    end
    redis.call('HSET', ledger, row, table.concat(sums, ' '))
  end
end
"""
