"""Leaving out what cannot be read, and telling of it."""

import structlog

from proxy.core.errors import StoreCorruptError
from proxy.stores.unread import TOLD, Unread


def read(stored: str) -> str:
    if stored == "damaged":
        raise StoreCorruptError("a stored job cannot be read", hint="start the newer version")
    return stored.upper()


def test_what_cannot_be_read_is_left_out_and_told_of_once():
    unread = Unread()
    stored = [("1", "a"), ("2", "damaged"), ("3", "b")]

    with structlog.testing.capture_logs() as said:
        assert [unread.readable(stored, read) for _ in range(2)] == [["A", "B"]] * 2

    (told,) = said
    assert (told["event"], told["log_level"], told["subject"]) == ("record.unread", "error", "2")
    assert told["hint"] == "start the newer version"


def test_where_everything_is_damaged_not_all_of_it_is_told_of():
    unread = Unread()

    with structlog.testing.capture_logs() as said:
        assert unread.readable([(str(n), "damaged") for n in range(TOLD + 9)], read) == []

    assert len(said) == TOLD
