"""`/v1/files` as OpenAI offers it.

Source: OpenAI API description, `/files` (openapi.yaml, 2026-08-21), and the Batch guide.
"""

from pathlib import Path
from typing import IO, Any, Final

from aiohttp import BodyPartReader, web

from proxy.sandbox.engine import Engine, new_id
from proxy.sandbox.files import FileStore, StoredFile
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.fields import page_limit, paginate
from proxy.sandbox.openai.habits import Habits
from proxy.sandbox.wire import CHUNK_BYTES, ApiError, Call, Reply, Route, json_reply

_FILE_BYTES_MAX: Final = 512 * 1024 * 1024
"""OpenAI, Files: size of any file; a batch input has a lower limit of its own."""

_BATCH_FILE_LIFE_S: Final = 30 * 86_400
_LIFE_S_MIN: Final = 3_600
_LIFE_S_MAX: Final = 30 * 86_400
_PURPOSES: Final = frozenset({"assistants", "batch", "fine-tune", "vision", "user_data", "evals"})
_FIELD_BYTES_MAX: Final = 4_096


class Files:
    """Handlers of the files API."""

    def __init__(self, engine: Engine, store: FileStore, habits: Habits) -> None:
        self._engine = engine
        self._store = store
        self._habits = habits

    def routes(self) -> list[Route]:
        """Return the endpoints served here."""
        return [
            Route("POST", self._habits.upload, self._upload),
            Route("GET", "/v1/files", self._list),
            Route("GET", "/v1/files/{id}", self._retrieve),
            Route("GET", "/v1/files/{id}/content", self._content),
            Route("DELETE", "/v1/files/{id}", self._delete),
        ]

    async def _upload(self, call: Call) -> Reply:
        if not call.request.headers.get("User-Agent", "").startswith(self._habits.agent):
            raise ApiError(403, "error code: 1010")
        path = self._store.new_path()
        is_kept = False
        try:
            fields, filename = await _receive(call.request, path)
            file = self._stored(call, fields, filename, path)
            is_kept = True
        finally:
            if not is_kept:
                path.unlink(missing_ok=True)
        self._store.add(file)
        return json_reply(file_object(file))

    def _stored(
        self, call: Call, fields: dict[str, str], filename: str | None, path: Path
    ) -> StoredFile:
        purpose = fields.get("purpose") if self._habits.asks_purpose else self._habits.purpose
        if filename is None:
            raise errors.missing("file")
        if purpose is None:
            raise errors.missing("purpose")
        if purpose not in {*_PURPOSES, self._habits.purpose}:
            raise errors.invalid("purpose", f"'{purpose}' is not one of the allowed purposes.")
        if not self._habits.takes_expiry and any(name.startswith("expires") for name in fields):
            raise errors.invalid("expires_after", "Unknown parameter: 'expires_after'.")
        size = path.stat().st_size
        if purpose == self._habits.purpose:
            if not filename.endswith(".jsonl"):
                raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl")
            if size > self._engine.settings.bytes_max:
                raise ApiError(
                    400,
                    f"File is too large. The limit is {self._engine.settings.bytes_max} bytes.",
                )
        now = self._engine.clock.now()
        return StoredFile(
            id=new_id("file-"),
            project=call.key.project,
            filename=filename,
            purpose=purpose,
            path=path,
            size=size,
            created_at=now,
            visible_at=now + self._engine.settings.file_lag_s,
            expires_at=_expiry(fields, purpose, now),
        )

    async def _list(self, call: Call) -> Reply:
        now = self._engine.clock.now()
        files = list(self._store.newest_first(project=call.key.project, now=now))
        purpose = call.argument("purpose")
        if purpose is not None:
            files = [file for file in files if file.purpose == purpose]
        if call.argument("order") == "asc":
            files.reverse()
        limit = page_limit(call, default=10_000, highest=10_000)
        return json_reply(paginate([file_object(f) for f in files], call.argument("after"), limit))

    async def _retrieve(self, call: Call) -> Reply:
        return json_reply(file_object(self._find(call)))

    async def _content(self, call: Call) -> Reply:
        return Reply(self._find(call).path, content_type="application/octet-stream")

    async def _delete(self, call: Call) -> Reply:
        file = self._find(call)
        self._store.delete(file)
        return json_reply({"id": file.id, "object": "file", "deleted": True})

    def _find(self, call: Call) -> StoredFile:
        now = self._engine.clock.now()
        file = self._store.find(call.part("id"), project=call.key.project, now=now)
        if file is None or now < file.visible_at:
            raise ApiError(404, f"No such File object: {call.part('id')}", param="id")
        return file


def file_object(file: StoredFile) -> dict[str, Any]:
    """Return the File object of the API."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def life_seconds(value: Any, name: str) -> int:
    """Return a lifetime of `expires_after`, checked against OpenAI's bounds."""
    try:
        seconds = int(value)
    except (TypeError, ValueError):
        raise errors.invalid(name, f"Invalid type for '{name}': expected an integer.") from None
    if not _LIFE_S_MIN <= seconds <= _LIFE_S_MAX:
        raise errors.invalid(name, f"Invalid '{name}': {_LIFE_S_MIN} to {_LIFE_S_MAX} seconds.")
    return seconds


def _expiry(fields: dict[str, str], purpose: str, now: float) -> float | None:
    if "expires_after" in fields:
        return now + life_seconds(fields["expires_after"], "expires_after")
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return now + _BATCH_FILE_LIFE_S if purpose == "batch" else None
    if anchor != "created_at":
        raise errors.invalid("expires_after[anchor]", "Only 'created_at' is supported.")
    return now + life_seconds(seconds, "expires_after[seconds]")


async def _receive(request: web.Request, path: Path) -> tuple[dict[str, str], str | None]:
    """Stream a multipart upload to `path`; return its other fields and the file's name.

    Memory stays at one chunk, whatever the size of the file.
    """
    if not request.content_type.startswith("multipart/"):
        raise ApiError(400, "Expected a multipart/form-data body.")
    fields: dict[str, str] = {}
    filename = None
    reader = await request.multipart()
    try:
        async for part in reader:
            if not isinstance(part, BodyPartReader):
                raise ApiError(400, "Nested multipart bodies are not supported.")
            if part.name == "file":
                filename = part.filename or "upload"
                await _receive_file(part, _opened(path))
            else:
                text = await part.read_chunk(_FIELD_BYTES_MAX)
                fields[part.name or ""] = text.decode("utf-8", "replace")
    except ValueError as exc:
        raise ApiError(400, "Could not parse the multipart form.") from exc
    return fields, filename


async def _receive_file(part: BodyPartReader, file: IO[bytes]) -> None:
    size = 0
    with file:
        while chunk := await part.read_chunk(CHUNK_BYTES):
            size += len(chunk)
            if size > _FILE_BYTES_MAX:
                raise ApiError(400, f"File is too large. The limit is {_FILE_BYTES_MAX} bytes.")
            # The kernel's cache takes a chunk in microseconds; a thread would cost more.
            file.write(chunk)


def _opened(path: Path) -> IO[bytes]:
    return path.open("wb")
