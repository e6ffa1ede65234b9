"""Which job stands for which line, in a file of records of one size."""

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from proxy.send.files import sync, write_at

_JOB_CHARS: Final = 32
_RECORD: Final = _JOB_CHARS + 1 + 16 + 1
"""Job ID, blank, digest of the line, line feed."""

REFUSED: Final = "-"
"""Stands in for the job of a line that was refused: nothing was bought for it."""


class Journal:
    """Append-only but for single records; a torn last record is taken back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.count = os.fstat(self._file).st_size // _RECORD
        """How many lines were sent."""

        # A power cut may leave the length of what was written without its content.
        while self.count and not self._is_whole(self.count):
            self.count -= 1
        os.ftruncate(self._file, self.count * _RECORD)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def _is_whole(self, number: int) -> bool:
        record = os.pread(self._file, _RECORD, (number - 1) * _RECORD)
        return record[_JOB_CHARS:][:1] == b" " and record.endswith(b"\n")

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
