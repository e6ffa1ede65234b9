"""How much is read from a connection at once.

The event loops read up to 256 KB at once. For a peer who takes nothing of what is relayed
to it that much waits in memory several times: half a megabyte a call, as measured.
"""

import asyncio
from typing import Final

READ_AT_MOST: Final = 1 << 16
"""A whole call, or its answer, mostly comes at once. With half of it, a body of megabytes costs
half as much CPU time again."""


def new_inbox() -> memoryview:
    """Return where the connections of one event loop read to.

    One is enough for all of them, if what came is copied before the next one reads.
    """
    return memoryview(bytearray(READ_AT_MOST))


class SmallReads(asyncio.BufferedProtocol):
    """Stands for a protocol that takes whatever is read, and reads less at once."""

    def __init__(self, protocol: asyncio.Protocol, inbox: memoryview) -> None:
        self._inbox = inbox
        self._received = protocol.data_received
        # Not a method of ours for each: what is called most should cost nothing more.
        for name in (
            "connection_made",
            "connection_lost",
            "eof_received",
            "pause_writing",
            "resume_writing",
        ):
            setattr(self, name, getattr(protocol, name))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        return self._inbox

    def buffer_updated(self, nbytes: int) -> None:
        self._received(bytes(self._inbox[:nbytes]))
