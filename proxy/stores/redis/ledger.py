"""Sums of what was bought: each shard keeps its own, in the slot of its jobs."""

from collections.abc import Sequence
from datetime import date
from typing import Final

from proxy.core.ids import shard_of
from proxy.core.ledger import RECEIPTS_KEPT, Booking, Receipt, added
from proxy.stores.ledger_texts import parse_row
from proxy.stores.redis import keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import Command, Script, read, write
from proxy.stores.redis.ledger_rows import book_arguments, ledger_keys
from proxy.stores.redis.lua import LEDGER
from proxy.stores.redis.replies import as_list, as_map, as_text
from proxy.stores.unread import Unread

_BOOK: Final = Script(
    LEDGER
    + """
if redis.call('SET', KEYS[1], '', 'NX', 'EX', ARGV[1]) == false then return 0 end
book(KEYS[2], KEYS[3], ARGV[2], tonumber(ARGV[3]), 4)
return 1
"""
)


class RedisLedgerStore:
    """The ledger of a fleet, which is the sum of those of the shards."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._unread = Unread()

    async def book(self, receipts: Sequence[Receipt]) -> frozenset[str]:
        replies = await self._client.call_many([_book_call(receipt) for receipt in receipts])
        return frozenset(
            receipt.id for receipt, reply in zip(receipts, replies, strict=True) if reply == 1
        )

    async def rows(self, *, since: date, until: date) -> Sequence[Booking]:
        places = await self._days(_score(since), _score(until))
        hashes = await self._client.call_many(
            [read("HGETALL", keys.ledger(shard, day)) for shard, day in places]
        )
        stored = (
            (f"ledger {day}", (day, field, value))
            for (_, day), reply in zip(places, hashes, strict=True)
            for field, value in as_map(reply).items()
        )
        sums = added(self._unread.readable(stored, lambda row: parse_row(*row)))
        return [Booking(key, sums[key]) for key in sorted(sums)]

    async def prune(self, *, before: date) -> int:
        places = await self._days("-inf", f"({_score(before)}")
        counts = await self._client.call_many(
            [read("HLEN", keys.ledger(shard, day)) for shard, day in places]
        )
        # The index last: a day that it does not name would never be looked for again.
        await self._client.call_many([write("DEL", keys.ledger(*place)) for place in places])
        await self._client.call_many(
            [write("ZREM", keys.ledger_days(shard), day) for shard, day in places]
        )
        return sum(int(count) for count in counts if isinstance(count, int))

    async def _days(self, least: str, most: str) -> list[tuple[int, str]]:
        """Return the days within, of each shard that has one."""
        replies = await self._client.call_many(
            [
                read("ZRANGE", keys.ledger_days(shard), least, most, "BYSCORE")
                for shard in keys.ALL_SHARDS
            ]
        )
        return [
            (shard, as_text(day))
            for shard, days in zip(keys.ALL_SHARDS, replies, strict=True)
            for day in as_list(days)
        ]


def _book_call(receipt: Receipt) -> Command:
    shard = 0 if receipt.job_id is None else shard_of(receipt.job_id)
    day, booked = book_arguments(receipt.bookings)
    kept_s = int(RECEIPTS_KEPT.total_seconds())
    return _BOOK.call(
        [keys.receipt(shard, receipt.id), *ledger_keys(shard, day)], kept_s, day, *booked
    )


def _score(day: date) -> str:
    return f"{day:%Y%m%d}"
