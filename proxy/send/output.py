"""The file of answers: one line for each call, in the order of the calls."""

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, Self

from proxy.send.errors import SendError
from proxy.send.files import write_at
from proxy.send.lines import Line

_TAIL_BYTES: Final = 1 << 20
"""How much of a torn line is read to see whose it is: more than stands before an answer."""


class Output:
    """Grows by whole lines, behind which a torn one may stand when it is opened.

    It is held by one process at a time, whatever else that sends.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            SendError: if it cannot be written to, or somebody else does so.
        """
        self.path = path
        try:
            self._file = path.open("ab+", buffering=0)
        except OSError as exc:
            raise SendError(f"{path}: {exc.strerror}", hint="name another output") from exc
        try:
            self._hold(path)
            self.count, self._size = _whole_lines(path)
            """How many calls are answered."""

            self.tail = os.pread(self._file.fileno(), _TAIL_BYTES, self._size)
            """How the line that was torn begins, if one was."""
        except BaseException:
            self._file.close()
            raise

    def _hold(self, path: Path) -> None:
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            raise SendError(
                f"{path} is no file: answers are read back by the start that goes on",
                hint="name another output",
            )
        # Where files cannot be locked, as on some network's, it goes on without.
        with suppress(OSError):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SendError(
                    f"{path} is being written by another process",
                    hint="wait for it, or name another output",
                ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    @property
    def is_empty(self) -> bool:
        return not self.count and not self.tail

    def answers(self, *, after: int) -> Iterator[bytes]:
        """Yield the whole lines behind that many."""
        with self.path.open("rb") as file:
            yield from islice(file, after, self.count)

    def errors(self) -> int:
        """Return how many of the answers are errors."""
        return sum(map(_holds_error, self.answers(after=0)))

    def take_back_tail(self) -> None:
        """Remove the line that was torn; its answer is fetched again."""
        self._file.truncate(self._size)
        self.tail = b""

    def append(self, answers: Sequence[bytes]) -> None:
        """Add the answers to the calls that follow.

        Raises:
            SendError: if they cannot be written; the next start takes back a torn one.
        """
        data = b"".join(answers)
        write_at(self._file.fileno(), data, self._size, path=self.path)
        self._size += len(data)
        self.count += len(answers)


def answer_line(line: Line, answer: bytes) -> bytes:
    """Return the line of an answer; `answer` is a JSON object, kept byte for byte."""
    return answer_head(line) + answer.strip()[1:] + b"\n"


def answer_head(line: Line) -> bytes:
    """Return what stands before an answer to the line."""
    head = json.dumps({"custom_id": line.custom_id, "line": line.number})
    return head[:-1].encode() + b", "


def is_error(status: int | None) -> bool:
    """Tell whether an answer of that HTTP status is an error; one without is."""
    return status is None or status >= 400


def _holds_error(line: bytes) -> bool:
    try:
        response = json.loads(line)["response"]
        return is_error(None if response is None else response["status_code"])
    except (ValueError, LookupError, TypeError):
        # Not a line of ours: whose it is is for others to say.
        return False


def _whole_lines(path: Path) -> tuple[int, int]:
    """Return how many whole lines there are, and where the last of them ends."""
    count = end = at = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            lines = chunk.count(b"\n")
            if lines:
                count += lines
                end = at + chunk.rindex(b"\n") + 1
            at += len(chunk)
    return count, end
