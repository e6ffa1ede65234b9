"""Where one run keeps its jobs, so that it can go on after whatever ended it.

Each run has a folder of its own: its store, the keys that seal it, and its log.
Two runs share nothing, and what is old is removed as a whole.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from proxy.core.errors import ProxyError
from proxy.settings.tree import default_store

LAST: Final = "last"
"""Stands for the run that was used last."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_LOCK: Final = "lock"


class FolderError(ProxyError):
    """The folder of a run is not there, in use, or cannot be made."""

    code = "folder_error"


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of one run."""

    path: Path

    @property
    def name(self) -> str:
        """The ID of the run."""
        return self.path.name

    @property
    def store(self) -> Path:
        return self.path / "offramp.db"

    @property
    def log(self) -> Path:
        return self.path / "proxy.log"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who uses it; the lock ends with the process, however that ends.

        Raises:
            FolderError: if somebody else does.
        """
        with _lock(self.path) as got:
            if not got:
                raise FolderError(
                    f"run {self.name} is still going on in another process",
                    hint="wait for it, or stop it first",
                )
            os.utime(self.path / _LOCK)
            yield
            os.utime(self.path / _LOCK)

    def set_aside(self) -> None:
        """Be no run to go on with: never the last one, and removed when the next one starts."""
        os.utime(self.path / _LOCK, (0, 0))


class Folders:
    """All folders of one kind, e.g. of runs."""

    def __init__(self, kind: str, environ: Mapping[str, str]) -> None:
        store = default_store(environ).path
        assert store is not None
        self._root = store.parent / kind

    def new(self, name: str) -> Folder:
        """Make a folder.

        Raises:
            FolderError: if it cannot be made.
        """
        path = self._root / name
        try:
            path.mkdir(parents=True, exist_ok=False, mode=0o700)
            (path / _LOCK).touch()
        except OSError as exc:
            raise FolderError(
                f"cannot make {path}: {exc.strerror}",
                hint="XDG_STATE_HOME names another folder to keep jobs in",
            ) from exc
        return Folder(path)

    def get_or_new(self, name: str) -> Folder:
        """Return the folder of that name, made if it is not there."""
        path = self._root / name
        return Folder(path) if path.is_dir() else self.new(name)

    def find(self, name: str) -> Folder:
        """Return a folder that is there; `last` is the one that was used last.

        Raises:
            FolderError: if there is none.
        """
        known = self._known()
        if name == LAST and known:
            return known[-1]
        for folder in known:
            if folder.name == name:
                return folder
        names = ", ".join(folder.name for folder in reversed(known[-5:]))
        raise FolderError(
            f"there is no run {name!r} to go on with",
            hint=f"the latest are {names}" if names else "there are no runs yet",
        )

    def prune(self, *, now: datetime, keep: timedelta) -> int:
        """Remove what nobody has used for so long; return how many folders."""
        removed = 0
        for folder in self._known():
            if _used_at(folder) >= (now - keep).timestamp():
                return removed
            with _lock(folder.path) as got:
                if got:
                    shutil.rmtree(folder.path, ignore_errors=True)
                    removed += 1
        return removed

    def _known(self) -> list[Folder]:
        """Return the folders, the one that was used last at the end."""
        try:
            paths = list(self._root.iterdir())
        except OSError:
            return []
        found = [Folder(path) for path in paths if _NAME.fullmatch(path.name)]
        return sorted(found, key=_used_at)


def _used_at(folder: Folder) -> float:
    try:
        return (folder.path / _LOCK).stat().st_mtime
    except OSError:
        return 0.0


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Try to lock a folder for as long as the block runs; yield whether it was free."""
    # Not inherited by the command that is run: its children may outlive this process.
    with (path / _LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
