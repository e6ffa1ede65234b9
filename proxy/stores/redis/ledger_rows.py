"""How bookings stand in Redis: a hash per day and shard, a field per row."""

from collections.abc import Iterable, Sequence

from proxy.core.ledger import ROWS_PER_DAY, Booking, added, encode_sums
from proxy.stores.ledger_texts import row_text
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
        arguments += [row_text(key), row_text(key.others()), encode_sums(sums)]
    return "".join(days), arguments
