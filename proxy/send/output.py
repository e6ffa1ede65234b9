"""The file of answers: one line for each call, in the order of the calls."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from proxy.send.lines import Line


class Output:
    """Grows by whole lines; a torn last one is taken back when it is opened."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+")
        self.count, size = _whole_lines(path)
        """How many calls are answered."""

        self._file.truncate(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, answers: Sequence[bytes]) -> None:
        """Add the answers to the calls that follow."""
        self._file.write(b"".join(answers))
        self._file.flush()
        self.count += len(answers)


def answer_line(line: Line, answer: bytes) -> bytes:
    """Return the line of an answer; `answer` is a JSON object, kept byte for byte."""
    head = json.dumps({"custom_id": line.custom_id, "line": line.number})
    return head[:-1].encode() + b", " + answer.strip()[1:] + b"\n"


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
