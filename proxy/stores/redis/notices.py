"""The ends of jobs that webhooks are still to be told of.

A notice stands in the shard of its job, in one list by when it is due or in another
once it is given up. What is counted of a webhook stands in one place and is written
after: a crash in between loses a count, never a notice.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from proxy.core.ids import SHARDS, JobId, shard_of
from proxy.core.notices import Notice
from proxy.ports.notices import Standing
from proxy.stores.codec import from_micros, to_micros, to_micros_or
from proxy.stores.redis import keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import Script, read, write
from proxy.stores.redis.job_calls import notice_text
from proxy.stores.redis.merge import certain, fronts_of, share
from proxy.stores.redis.replies import Reply, as_int, as_map, as_text, as_time
from proxy.stores.unread import Unread

_TAKE: Final = Script(
    """
-- Taken only as it was seen: of two takers the slower one finds another time there.
if redis.call('ZSCORE', KEYS[2], ARGV[1]) ~= ARGV[2] then return false end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
return redis.call('HGET', KEYS[1], ARGV[1])
"""
)

_SETTLE: Final = Script(
    """
-- Forgotten without a new text; with one it is due again, or given up.
local job, old, new, due, at = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if old ~= '' and redis.call('HGET', KEYS[1], job) ~= old then return 0 end
redis.call('ZREM', KEYS[2], job)
if new == '' then
  redis.call('ZREM', KEYS[3], job)
  return redis.call('HDEL', KEYS[1], job)
end
redis.call('HSET', KEYS[1], job, new)
if due ~= '' then
  redis.call('ZADD', KEYS[2], due, job)
else
  redis.call('ZADD', KEYS[3], at, job)
end
return 1
"""
)


_REVIVE: Final = Script(
    """
local jobs = redis.call('ZRANGE', KEYS[3], 0, ARGV[2] - 1)
for i = 1, #jobs do
  local since = string.match(redis.call('HGET', KEYS[1], jobs[i]), '^(%S+)')
  redis.call('HSET', KEYS[1], jobs[i], since .. ' 0')
  redis.call('ZREM', KEYS[3], jobs[i])
  redis.call('ZADD', KEYS[2], ARGV[1], jobs[i])
end
return #jobs
"""
)

REVIVE_CHUNK: Final = 200
"""Notices that a script changes, at most."""


class RedisNoticeStore:
    """Durable notices."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._unread = Unread()

    async def take(
        self, webhook: str, *, now: datetime, until: datetime, limit: int
    ) -> Sequence[Notice]:
        due = (await self._due(webhook, to_micros(now), share(limit)))[:limit]
        replies = await self._client.call_many(
            [
                _TAKE.call(_places(job_id, webhook)[:2], job_id, at, to_micros(until))
                for at, job_id in due
            ],
            background=True,
        )
        taken = [
            (job_id, (job_id, webhook, text))
            for (_, job_id), text in zip(due, replies, strict=True)
            if text is not None
        ]
        # Of one that cannot be read all others would wait, and with it again and again.
        return self._unread.readable(taken, lambda one: _notice(*one))

    async def _due(self, webhook: str, now: int, each: int) -> list[tuple[int, JobId]]:
        """Return the first of every shard that are due, in order."""
        names = [keys.notices_due(shard, webhook) for shard in keys.ALL_SHARDS]
        fronts = await fronts_of(self._client, names, upto=now, each=each)
        return [(at, JobId(job)) for at, job in certain(fronts)]

    async def delivered(self, notice: Notice, *, at: datetime) -> None:
        await self.forget(notice)
        await self._count(notice.webhook, "delivered", to_micros(at))

    async def failed(
        self, notice: Notice, *, at: datetime, failure: str, again_at: datetime | None
    ) -> None:
        changed = await self._client.call(
            _SETTLE.call(
                _places(notice.job_id, notice.webhook),
                notice.job_id,
                _text(notice, attempts=notice.attempts),
                _text(notice, attempts=notice.attempts + 1),
                to_micros_or(again_at, ""),
                to_micros(at),
            )
        )
        if changed == 1:
            await self._count(notice.webhook, "failed", to_micros(at), failure)

    async def forget(self, notice: Notice) -> None:
        places = _places(notice.job_id, notice.webhook)
        await self._client.call(_SETTLE.call(places, notice.job_id, "", "", "", ""))

    async def revive(self, webhook: str, *, at: datetime) -> int:
        revived = 0
        shards = list(keys.ALL_SHARDS)
        while shards:
            replies = await self._client.call_many(
                [
                    _REVIVE.call(_places_in(shard, webhook), to_micros(at), REVIVE_CHUNK)
                    for shard in shards
                ],
                background=True,
            )
            counts = [as_int(reply) for reply in replies]
            revived += sum(counts)
            full = zip(shards, counts, strict=True)
            shards = [shard for shard, count in full if count == REVIVE_CHUNK]
        return revived

    async def standing(self, webhooks: Sequence[str]) -> Mapping[str, Standing]:
        return {name: await self._standing_of(name) for name in webhooks}

    async def _standing_of(self, name: str) -> Standing:
        *sizes, tally = await self._client.call_many(
            [
                *[read("ZCARD", keys.notices_due(shard, name)) for shard in keys.ALL_SHARDS],
                *[read("ZCARD", keys.notices_given_up(shard, name)) for shard in keys.ALL_SHARDS],
                read("HGETALL", keys.webhook(name)),
            ],
            background=True,
        )
        numbers = [as_int(size) for size in sizes]
        known = as_map(tally)
        return Standing(
            pending=sum(numbers[:SHARDS]),
            given_up=sum(numbers[SHARDS:]),
            delivered=as_int(known.get("delivered", 0)),
            failed=as_int(known.get("failed", 0)),
            delivered_at=as_time(known.get("delivered_at")),
            failed_at=as_time(known.get("failed_at")),
            last_failure=_words(known.get("last_failure")),
        )

    async def _count(self, webhook: str, what: str, at: int, failure: str | None = None) -> None:
        name = keys.webhook(webhook)
        more = () if failure is None else ("last_failure", failure)
        await self._client.call_many(
            [write("HINCRBY", name, what, 1), write("HSET", name, f"{what}_at", at, *more)],
            background=True,
        )


def _words(failure: bytes | None) -> str | None:
    return None if failure is None else failure.decode(errors="replace")


def _places(job_id: JobId, webhook: str) -> list[str]:
    return _places_in(shard_of(job_id), webhook)


def _places_in(shard: int, webhook: str) -> list[str]:
    return [
        keys.notices(shard),
        keys.notices_due(shard, webhook),
        keys.notices_given_up(shard, webhook),
    ]


def _text(notice: Notice, *, attempts: int) -> str:
    return notice_text(to_micros(notice.owed_since), attempts=attempts)


def _notice(job_id: JobId, webhook: str, text: Reply) -> Notice:
    since, _, attempts = as_text(text).partition(" ")
    return Notice(
        job_id=job_id,
        webhook=webhook,
        owed_since=from_micros(as_int(since)),
        attempts=as_int(attempts),
    )
