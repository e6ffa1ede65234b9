"""Small shared records in memory."""

from proxy.ports.notes import Note


class MemoryNoteStore:
    def __init__(self) -> None:
        self._notes: dict[str, Note] = {}

    async def read(self, name: str) -> Note | None:
        return self._notes.get(name)

    async def write(self, name: str, note: Note) -> bool:
        known = self._notes.get(name)
        if (known.version if known else 0) != note.version - 1:
            return False
        self._notes[name] = note
        return True
