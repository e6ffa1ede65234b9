"""Which job stands for which line, in a file of records of one size."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from proxy.send.files import sync, write_at

_JOB_CHARS: Final = 32
_RECORD: Final = _JOB_CHARS + 1 + 16 + 1
"""Job ID, blank, digest of the line, line feed."""

_WHOLE: Final = re.compile(rb"(?=.{%d} )[!-~]+ +[0-9a-f]{16}\n" % _JOB_CHARS)

_READ_AT_ONCE: Final = 20_000
"""Records, when all are looked at."""

REFUSED: Final = "-"
"""Stands in for the job of a line that was refused: nothing was bought for it."""


class Journal:
    """Append-only but for single records. What follows a damaged one is taken back, with it.

    Its lines are sent again, under the same keys, and so found to be jobs already.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.count = self._whole()
        """How many lines were sent."""

        os.ftruncate(self._file, self.count * _RECORD)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._file)

    def _whole(self) -> int:
        """Return how many records stand before the first that is none.

        A power cut may leave the length of what was written without its content, at its
        end or, of the pages of a file, somewhere in the middle.
        """
        count = 0
        while data := os.pread(self._file, _READ_AT_ONCE * _RECORD, count * _RECORD):
            for at in range(0, len(data), _RECORD):
                if _WHOLE.fullmatch(data, at, at + _RECORD) is None:
                    return count
                count += 1
        return count

    def sync(self) -> None:
        """Make durable what was written.

        Raises:
            SendError: if it cannot be.
        """
        sync(self._file, path=self._path)

    def append(self, records: Iterable[tuple[str, str]]) -> None:
        """Add job and digest of the lines that follow.

        Raises:
            SendError: if they cannot be written; a later start sends them again, under
                the same keys.
        """
        data = b"".join(_record(job, digest) for job, digest in records)
        write_at(self._file, data, self.count * _RECORD, path=self._path)
        self.count += len(data) // _RECORD

    def replace(self, number: int, job: str, digest: str) -> None:
        """Let another job stand for line `number`.

        Raises:
            SendError: if it cannot be written.
        """
        offset = (number - 1) * _RECORD
        write_at(self._file, _record(job, digest), offset, path=self._path)

    def read(self, first: int, count: int) -> list[tuple[str, str]]:
        """Return job and digest of up to `count` lines from line number `first` on."""
        data = os.pread(self._file, count * _RECORD, (first - 1) * _RECORD)
        records = (data[at : at + _RECORD].decode() for at in range(0, len(data), _RECORD))
        return [(record[:_JOB_CHARS].rstrip(), record[_JOB_CHARS + 1 : -1]) for record in records]


def _record(job: str, digest: str) -> bytes:
    record = f"{job:<{_JOB_CHARS}} {digest}\n".encode()
    assert len(record) == _RECORD, f"no record of {_RECORD} bytes: {record!r}"
    return record
