"""How bookings stand in Redis: a hash per day and shard, a field per row."""

import json
from collections.abc import Iterable, Sequence
from datetime import date

from proxy.core.errors import StoreCorruptError
from proxy.core.ledger import (
    ROWS_PER_DAY,
    Booking,
    LedgerKey,
    added,
    decode_key,
    decode_sums,
    encode_key,
    encode_sums,
)
from proxy.stores.redis import keys
from proxy.stores.redis.packing import Argument


def ledger_keys(shard: int, day: str) -> list[str]:
    """Return the keys that a booking touches, in the order of the scripts."""
    return [keys.ledger(shard, day), keys.ledger_days(shard)]


def book_arguments(bookings: Iterable[Booking]) -> tuple[str, Sequence[Argument]]:
    """Return the day of bookings, nothing if there are none, and the arguments of `book`."""
    rows = added(bookings)
    days = {key.day.isoformat() for key in rows}
    assert len(days) <= 1, "what is booked at one moment is of one day"
    arguments: list[Argument] = [ROWS_PER_DAY]
    for key, sums in rows.items():
        arguments += [_text(key), _text(key.others()), encode_sums(sums)]
    return "".join(days), arguments


def parse_row(day: str, field: str, value: bytes) -> Booking:
    """Return the row that a field of a day's hash is.

    Raises:
        StoreCorruptError: if it is none.
    """
    try:
        key = decode_key(date.fromisoformat(day), json.loads(field))
        return Booking(key, decode_sums(value.decode()))
    except (TypeError, ValueError):
        raise StoreCorruptError("a row of the ledger cannot be read") from None


def _text(key: LedgerKey) -> str:
    return json.dumps(encode_key(key), separators=(",", ":"))
