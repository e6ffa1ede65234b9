"""Show how far the calls are while a command waits for them."""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final, TextIO

from proxy.app import Running
from proxy.core.errors import StoreError
from proxy.embedded.line import StatusLine, write_if_heard
from proxy.embedded.standing import Standing, in_words, standing

_EVERY_S: Final = 1.0

_PATIENCE_S: Final = 2.0
"""What is answered sooner needs no progress."""

_QUIET_EVERY_S: Final = 30.0
"""Between two lines where they stay, as in a log file."""

ALONE: Final = (
    "offramp: the script makes one call at a time, so a batch would hold one call each;\n"
    "         its calls are made directly from here on, at the flex tier where there is one"
)


class Progress:
    """Writes to standard error alone, and nothing as long as nothing is waited for."""

    def __init__(
        self,
        proxy: Running,
        stream: TextIO,
        *,
        now: Callable[[], datetime],
        live: bool | None = None,
    ) -> None:
        """`live` says whether there is a line that moves; else the terminal decides."""
        self._proxy = proxy
        self._stream = stream
        self._now = now
        is_live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        styled = "NO_COLOR" not in os.environ
        self._line = (
            StatusLine(stream, styled=styled) if (is_live if live is None else live) else None
        )
        self._waiting_since: float | None = None
        self._told_at: float | None = None
        self._told_troubles = False
        self._told_alone = False

    async def run(self, stop: asyncio.Event) -> None:
        """Show progress until `stop` is set, and leave the terminal as it was."""
        try:
            while not stop.is_set():
                with suppress(StoreError):
                    self._show(await standing(self._proxy), time.monotonic())
                with suppress(TimeoutError):
                    async with asyncio.timeout(_EVERY_S):
                        await stop.wait()
            # A quick script is at its end before it was looked at again.
            with suppress(StoreError):
                self._tell_if_alone(await standing(self._proxy))
        finally:
            if self._line is not None:
                self._line.hide()

    def _show(self, now_at: Standing, seconds: float) -> None:
        self._tell_if_alone(now_at)
        if not now_at.held:
            self._waiting_since = None
            if self._line is not None:
                self._line.hide()
            return
        if self._waiting_since is None:
            self._waiting_since = seconds
        if seconds - self._waiting_since < _PATIENCE_S:
            return
        text = in_words(now_at, now=self._now())
        if self._line is not None:
            self._line.show(text)
        elif (
            self._told_at is None
            or seconds - self._told_at >= _QUIET_EVERY_S
            or (now_at.troubles and not self._told_troubles)
        ):
            self._told_at = seconds
            self._told_troubles = bool(now_at.troubles)
            self._tell(text)

    def _tell_if_alone(self, now_at: Standing) -> None:
        if now_at.alone and not self._told_alone:
            self._told_alone = True
            self._tell(ALONE)

    def _tell(self, text: str) -> None:
        write_if_heard(self._stream, f"{text}\n")
