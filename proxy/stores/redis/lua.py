"""Functions that the scripts share.

Numbers are microseconds and bytes: exact in a double up to 2^53. A queue's row is
`job attempt bytes tokens deadline held ready affinity`, with
the attempt that a claim makes it, so that a claim moves rows and builds none.

A delivery is one row, `job retry_count claimed`, and its state is where that stands: by the
end of its waiter's lease among those of equal calls that are open (it is broken if that is
0), or by `claimed` among those that are flushed. A flushed one is forgotten when nobody may
claim it any more. So most pending jobs have none, and what a delivery is at first, `0` and
the time of acceptance, is written nowhere else.
"""

from typing import Final

from proxy.core.repeats import CLAIM_WINDOW

PENDING_JOB: Final = 1 << 42
"""What a job counts for among what its owner has pending in a shard; each byte of its body
counts 1. So one number tells of both: of 4 TB of bodies, more than any Redis holds."""

ROW: Final = """
-- A row of a queue, up to its affinity. What is none does not match.
local ROW = '^(job_[0-9A-Z]+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) '
"""

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

HEAD: Final = """
-- What is counted of a queue: rows, bytes, tokens, held ones, then the first and last time
-- of readiness and the nearest deadline. As numbers: to read seven of them from a text and
-- write it again took as long as to put a row into the queue.
local HEAD = '<ddddddd'
"""

QUEUE: Final = (
    HEAD
    + """
-- Whole numbers as text: `tostring` would round them to 14 digits.
local function num(x) return string.format('%d', x) end

-- Count rows of the queue out, and put down its ends, for planners.
local function count_out(k, kid, rows, bytes, tokens, held)
  local n, b, t, h = struct.unpack(HEAD, redis.call('HGET', k.heads, kid))
  if n <= rows then
    redis.call('HDEL', k.heads, kid)
    redis.call('HDEL', k.keys, kid)
    return
  end
  local first = redis.call('ZRANGE', k.queue, 0, 0, 'WITHSCORES')[2]
  local last = redis.call('ZRANGE', k.queue, -1, -1, 'WITHSCORES')[2]
  local near = redis.call('ZRANGE', k.due, 0, 0, 'WITHSCORES')[2]
  redis.call('HSET', k.heads, kid,
    struct.pack(HEAD, n - rows, b - bytes, t - tokens, h - held, first, last, near))
end

-- Count one more row in, of which nothing must be looked up.
local function count_in(k, kid, text, ready, q)
  local at, deadline = tonumber(ready), tonumber(q.deadline)
  local n, b, t, h, first, last, near = 0, 0, 0, 0, at, at, deadline
  local packed = redis.call('HGET', k.heads, kid)
  if packed then
    n, b, t, h, first, last, near = struct.unpack(HEAD, packed)
    if at < first then first = at end
    if at > last then last = at end
    if deadline < near then near = deadline end
  else
    redis.call('HSET', k.keys, kid, text)
  end
  redis.call('HSET', k.heads, kid, struct.pack(HEAD, n + 1, b + q.bytes, t + q.tokens,
    h + q.held, first, last, near))
end

local function row(job, attempt, ready, q)
  return table.concat({job, num(attempt + 1), q.bytes, q.tokens, q.deadline, q.held, ready,
    q.affinity}, ' ')
end

local function enqueue(k, kid, text, job, row, ready, q)
  redis.call('ZADD', k.queue, ready, row)
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

-- Count a job of the owner, or one less, and its bytes.
local function pend(key, owner, jobs, bytes)
  if redis.call('HINCRBY', key, owner, num(jobs * PENDING_JOB + bytes)) == 0 then
    redis.call('HDEL', key, owner)
  end
end
""".replace("PENDING_JOB", str(PENDING_JOB))
)

DELIVERY: Final = """
local function tries_of(k, job, accepted)
  return redis.call('HGET', k.deliveries, job) or '0 ' .. accepted
end

-- Count a delivery of the owner that is open, or one less, by the second its lease ends in.
local function wait(key, owner, lease, count)
  local field = string.sub(lease, 1, -7) .. ' ' .. owner
  if redis.call('HINCRBY', key, field, count) == 0 then redis.call('HDEL', key, field) end
end

local function open(k, owner, row, lease)
  redis.call('ZADD', k.open, lease, row)
  wait(k.waiting, owner, lease, 1)
end

-- Each that comes takes off some that are over: while calls come, all together never expire.
local function flush(k, row)
  local claimed = string.match(row, '%S+$')
  redis.call('ZADD', k.flushed, claimed, row)
  redis.call('EXPIRE', k.flushed, FLUSHED_S)
  local over = string.format('%.0f', claimed - FLUSHED_S * 1e6)
  local rows = redis.call('ZRANGE', k.flushed, '-inf', over, 'BYSCORE', 'LIMIT', 0, 100)
  if #rows > 0 then redis.call('ZREM', k.flushed, unpack(rows)) end
end

-- Take a delivery from where it stands. Returns its lease, '' if it was flushed, or nothing.
local function leave(k, owner, row)
  local lease = redis.call('ZSCORE', k.open, row)
  if not lease then return redis.call('ZREM', k.flushed, row) == 1 and '' end
  redis.call('ZREM', k.open, row)
  wait(k.waiting, owner, lease, -1)
  return lease
end

-- Forget the delivery of a job.
local function forget(k, owner, job, accepted)
  leave(k, owner, job .. ' ' .. tries_of(k, job, accepted))
  redis.call('HDEL', k.deliveries, job)
end
""".replace("FLUSHED_S", str(2 * int(CLAIM_WINDOW.total_seconds())))
"""Flushed deliveries stay for twice as long as they can be claimed: clocks differ."""

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
      -- What is no number is damaged: what comes now must not be lost with it, nor its job.
      sums[at] = string.format('%.0f', (tonumber(sums[at]) or 0) + amount)
    end
    redis.call('HSET', ledger, row, table.concat(sums, ' '))
  end
end
"""
