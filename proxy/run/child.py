"""Run the command as if nobody had started it: its terminal, its signals, its exit code."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Final

from proxy.runtime import FileLimits

PASSED_ON: Final = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2),
)

_FROM_TERMINAL: Final = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})

_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126
_SIGNALLED: Final = 128
"""As shells report them."""


class Child:
    """A command, and everything that our own process is told while it runs."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._early: list[signal.Signals] = []
        self._seen: set[int] = set()
        self.interrupted = False
        """Whether it was told to end."""

        self.failure: str | None = None
        """Why it could not be started, if it could not."""

    async def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        files: FileLimits | None = None,
    ) -> int:
        """Run the command with our own input and outputs; return its exit code as a shell would.

        Also if it could not be started: then `failure` says why. `files` are the limits
        that it is to have, where they are not ours and the system can do that.
        """
        # Before the start, so that every signal from then on reaches the command. They stay after
        # its end, so that one more Ctrl-C does not cut short what is left to do.
        loop = asyncio.get_running_loop()
        for number in filter(_is_ours, PASSED_ON):
            loop.add_signal_handler(number, self._pass_on, number)
        try:
            self._process = await asyncio.create_subprocess_exec(*command, env=environment)
        except OSError as exc:
            self.failure = f"cannot run {command[0]}: {exc.strerror}"
            return _NOT_FOUND if isinstance(exc, FileNotFoundError) else _NOT_EXECUTABLE
        if files is not None:
            files.give_to(self._process.pid)
        for number in self._early:
            self._process.send_signal(number)
        code = await self._process.wait()
        return code if code >= 0 else _SIGNALLED - code

    def _pass_on(self, number: signal.Signals) -> None:
        self.interrupted = self.interrupted or number not in {signal.SIGUSR1, signal.SIGUSR2}
        if self._process is None:
            self._early.append(number)
            return
        first = number not in self._seen
        self._seen.add(number)
        if first and number in _FROM_TERMINAL and _in_foreground():
            # The terminal has sent it to the command as well; twice would cut short what
            # the command does at its end. Whoever insists is passed on.
            return
        if self._process.returncode is None:
            self._process.send_signal(number)


def _is_ours(number: signal.Signals) -> bool:
    # Ignored since before our start, as under `nohup`: then the command inherits that.
    handler: int | signal.Handlers | FrameType | Any = signal.getsignal(number)
    return handler is not signal.SIG_IGN


def _in_foreground() -> bool:
    """Return whether what the terminal sends goes to us and the command alike."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
