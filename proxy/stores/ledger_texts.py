"""Rows of the ledger as texts: their keys less the day, and their sums."""

import json
from datetime import date

from proxy.core.errors import StoreCorruptError
from proxy.core.ledger import Booking, LedgerKey, Sums, decode_key, decode_sums, encode_key


def row_text(key: LedgerKey) -> str:
    """Return a row's key, less its day."""
    return json.dumps(encode_key(key), separators=(",", ":"))


def parse_row(day: str, key: str | bytes, sums: bytes) -> Booking:
    """Return the row that is stored so.

    Raises:
        StoreCorruptError: if it is none.
    """
    try:
        place = decode_key(date.fromisoformat(day), json.loads(key))
    except (TypeError, ValueError):
        raise StoreCorruptError("a row of the ledger cannot be read") from None
    return Booking(place, parse_sums(sums))


def parse_sums(stored: bytes) -> Sums:
    """Return the sums that `encode_sums` was given.

    Raises:
        StoreCorruptError: if they are none.
    """
    try:
        return decode_sums(stored.decode())
    except (TypeError, ValueError):
        raise StoreCorruptError("sums of the ledger cannot be read") from None
