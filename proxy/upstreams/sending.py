"""What holds for a call on its way out, whichever client sends it."""

import asyncio
from typing import Final

from proxy.ports.upstream import Phase, UpstreamRequest, UpstreamUnavailableError

LAST_CHUNK: Final = b"0\r\n\r\n"

# Safe by definition and without a body, so that sending them twice buys nothing
# (RFC 9110, section 9.2.2).
_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def may_repeat(request: UpstreamRequest, error: UpstreamUnavailableError, *, reused: bool) -> bool:
    """Return whether to send a failed call once more, over a fresh connection.

    Only if the connection was kept from an earlier call and turned out dead, and only
    a call that cannot buy anything twice.
    """
    died = reused and error.phase is Phase.FIRST_BYTE and error.cause == "reset"
    return died and not request.body and request.method in _REPEATABLE


async def let_news_be_read() -> None:
    """Let the event loop read what has arrived, before more of a body is written.

    It may be a refusal from an upstream that has hung up since. Writing would fail
    then, and the loop would drop the answer that it has not read.
    """
    # Two turns: in the first one this task may go on ahead of the read.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
