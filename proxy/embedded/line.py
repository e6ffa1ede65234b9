"""One line at the bottom of the terminal, apart from what a command prints there.

The command writes to the terminal itself, so nothing of ours may stand where it
writes. As long as there is something to show, the last row is taken out of the
part that scrolls, as `apt` does it: DECSTBM (VT100 manual, "Set Top and Bottom
Margins"), drawn to with the cursor saved and restored.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

_ROWS_MIN: Final = 5
"""On fewer the command needs them all."""

_SAVE: Final = "\x1b7"
_RESTORE: Final = "\x1b8"
_DOWN: Final = "\x1bD"
"""Index: one row down in the same column. Unlike a line feed it leaves the column, since
the command may be in the middle of a line."""

_UP: Final = "\x1b[A"


class StatusLine:
    """The last row of a terminal. Give it back with `hide`, whatever happens."""

    def __init__(
        self,
        stream: TextIO,
        *,
        size: Callable[[], os.terminal_size] = shutil.get_terminal_size,
        styled: bool = True,
    ) -> None:
        self._stream = stream
        self._size = size
        self._styled = styled
        self._rows = 0
        """Rows of the terminal when the last one was taken; 0 while it is not."""

    def show(self, text: str) -> None:
        """Show one line of text, cut where the terminal ends."""
        columns, rows = self._size()
        if rows < _ROWS_MIN:
            self.hide()
            return
        parts = []
        if rows != self._rows:
            self.hide()
            # Scrolls what stands in the last row out of it.
            parts.append(f"{_DOWN}{_UP}{_SAVE}\x1b[1;{rows - 1}r{_RESTORE}")
            self._rows = rows
        text = text[: columns - 1]
        shown = f"\x1b[2m{text}\x1b[0m" if self._styled else text
        parts.append(f"{_SAVE}\x1b[{rows};1H\x1b[2K{shown}{_RESTORE}")
        self._write("".join(parts))

    def hide(self) -> None:
        """Give the row back, empty. May be called more than once."""
        if self._rows:
            rows, self._rows = self._rows, 0
            self._write(f"{_SAVE}\x1b[r\x1b[{rows};1H\x1b[2K{_RESTORE}")

    def _write(self, text: str) -> None:
        write_if_heard(self._stream, text)


def write_if_heard(stream: TextIO, text: str) -> None:
    """Write, unless nobody reads any more: the command goes on without that, and so do we."""
    try:
        stream.write(text)
        stream.flush()
    except BlockingIOError:
        # Somebody reads, but slowly; the command made the pipe one that does not wait.
        return
    except (OSError, ValueError):
        # What could not be written would be tried again at the end of the process, and its
        # failure take the place of the command's exit code.
        with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
