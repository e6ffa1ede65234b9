"""Stored files: their contents on disk, their records in memory, each seen by one project only."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proxy.sandbox.engine import new_id


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a project; `path` holds its bytes."""

    id: str
    project: str
    filename: str
    purpose: str
    path: Path
    size: int
    created_at: float
    visible_at: float
    expires_at: float | None

    def exists(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at


class FileStore:
    """All files, in the order of their creation."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, StoredFile] = {}

    def new_path(self) -> Path:
        """Return a fresh path for contents that are still being written."""
        return self._directory / new_id("content-")

    def add(self, file: StoredFile) -> None:
        """Make a file known; its contents are complete."""
        self._files[file.id] = file

    def find(self, file_id: str, *, project: str, now: float) -> StoredFile | None:
        """Return a file of that project, whether it is visible yet or not."""
        file = self._files.get(file_id)
        if file is None or file.project != project or not file.exists(now):
            return None
        return file

    def newest_first(self, *, project: str, now: float) -> Iterator[StoredFile]:
        """Yield the visible files of a project."""
        for file in reversed(self._files.values()):
            if file.project == project and file.exists(now) and file.visible_at <= now:
                yield file

    def delete(self, file: StoredFile) -> None:
        """Forget a file and remove its contents; who reads them already, reads on."""
        del self._files[file.id]
        file.path.unlink(missing_ok=True)
