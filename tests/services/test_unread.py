"""Keeping work on one queue apart from that on others."""

import structlog

from proxy.core.errors import StoreCorruptError
from proxy.services.unread import UnreadQueues
from tests.helpers.factories import make_key


async def reads() -> int:
    return 7


async def meets_damage() -> int:
    raise StoreCorruptError("a row cannot be read", hint="take it out")


async def test_a_queue_that_cannot_be_read_comes_to_nothing_and_is_told_of_once():
    unread, damaged, fine = UnreadQueues(), make_key(model="1"), make_key(model="2")

    with structlog.testing.capture_logs() as said:
        assert await unread.apart(damaged, meets_damage(), jobs=3) is None
        assert await unread.apart(fine, reads(), jobs=3) == 7
        assert await unread.apart(damaged, meets_damage(), jobs=4) is None

    (told,) = said
    assert (told["event"], told["credential"], told["jobs"]) == (
        "job.unread",
        damaged.credential,
        3,
    )
    assert (told["error"], told["hint"]) == ("a row cannot be read", "take it out")
