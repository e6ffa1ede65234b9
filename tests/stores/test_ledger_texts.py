from datetime import date

import pytest

from proxy.core.errors import StoreCorruptError
from proxy.core.ledger import Booking, Sums, batch_row, encode_sums
from proxy.stores.ledger_texts import parse_row, row_text
from tests.helpers.factories import make_key

DAY = date(2026, 11, 23)
ROW = Booking(batch_row(make_key(model="gpt-ö"), day=DAY), Sums(jobs=2, possible_doubles=1))
KEY, SUMS = row_text(ROW.key), encode_sums(ROW.sums).encode()


@pytest.mark.parametrize("key", [KEY, KEY.encode()], ids=["text", "bytes"])
def test_a_row_is_read_as_it_was_written(key):
    assert parse_row(DAY.isoformat(), key, SUMS) == ROW


@pytest.mark.parametrize(
    ("day", "key", "sums"),
    [
        ("2026-11-31", KEY, SUMS),
        ("2026-11-23", "x", SUMS),
        ("2026-11-23", "7", SUMS),
        ("2026-11-23", '["of another version"]', SUMS),
        ("2026-11-23", b"{\xff", SUMS),
        ("2026-11-23", KEY, b"x 1"),
        ("2026-11-23", KEY, b"1\xff"),
    ],
)
def test_what_is_no_row_is_the_store_s_failure(day, key, sums):
    with pytest.raises(StoreCorruptError):
        parse_row(day, key, sums)
