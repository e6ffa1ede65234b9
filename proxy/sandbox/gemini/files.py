"""Files as Gemini offers them: resumable uploads, 48 hours of life, downloads of results.

Source: Gemini API, "Files API", and how the google-genai SDK 3.6 uploads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from proxy.sandbox.engine import Engine, new_id
from proxy.sandbox.files import FileStore, StoredFile
from proxy.sandbox.gemini import errors
from proxy.sandbox.gemini.fields import VERSIONS, json_object, masked, moment, page
from proxy.sandbox.wire import CHUNK_BYTES, Call, Reply, Route, json_reply

FILE_LIFE_S: Final = 48 * 3_600.0

_FILE_BYTES_MAX: Final = 2 * 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Begun:
    """An upload whose bytes are still to come."""

    key: str
    display_name: str
    mime_type: str
    size: int


class Files:
    """Handlers of the files API."""

    def __init__(self, engine: Engine, store: FileStore) -> None:
        self._engine = engine
        self._store = store
        self._begun: dict[str, _Begun] = {}

    def routes(self) -> list[Route]:
        """Return the endpoints served here, in both versions."""
        return [
            route
            for version in VERSIONS
            for route in (
                Route("POST", f"/upload{version}/files", self._upload),
                # The guide has the first of the two, and the SDK takes the second. They come
                # before what takes any name.
                Route("GET", f"/download{version}/files/{{id}}:download", self._download),
                Route("GET", f"{version}/files/{{id}}:download", self._download),
                Route("GET", f"{version}/files", self._list),
                Route("GET", f"{version}/files/{{id}}", self._retrieve),
                Route("DELETE", f"{version}/files/{{id}}", self._delete),
            )
        ]

    def key_of(self, upload_id: str | None) -> str | None:
        """Return the key with which an upload was begun that is not finished."""
        begun = self._begun.get(upload_id or "")
        return begun.key if begun else None

    async def _upload(self, call: Call) -> Reply:
        commands = {
            word.strip()
            for word in call.request.headers.get("X-Goog-Upload-Command", "").split(",")
        }
        if commands == {"start"}:
            return await self._begin(call)
        if commands == {"upload", "finalize"}:
            return await self._finish(call)
        raise errors.invalid("Invalid upload command.")

    async def _begin(self, call: Call) -> Reply:
        headers = call.request.headers
        if headers.get("X-Goog-Upload-Protocol") != "resumable":
            raise errors.invalid("Only resumable uploads are supported here.")
        size = headers.get("X-Goog-Upload-Header-Content-Length", "")
        if not size.isdecimal():
            raise errors.invalid("X-Goog-Upload-Header-Content-Length is required.")
        if int(size) > _FILE_BYTES_MAX:
            raise errors.invalid(f"File is too large. The limit is {_FILE_BYTES_MAX} bytes.")
        file = (await json_object(call)).get("file") or {}
        upload_id = new_id("upload-")
        self._begun[upload_id] = _Begun(
            key=_presented(call),
            display_name=str(file.get("displayName") or file.get("display_name") or ""),
            mime_type=headers.get("X-Goog-Upload-Header-Content-Type", "text/plain"),
            size=int(size),
        )
        request = call.request
        url = (
            f"{request.scheme}://{request.host}{request.path}"
            f"?upload_id={upload_id}&upload_protocol=resumable"
        )
        told = {"X-Goog-Upload-URL": url, "X-Goog-Upload-Status": "active"}
        return Reply(b"", headers=told)

    async def _finish(self, call: Call) -> Reply:
        upload_id = call.argument("upload_id") or ""
        begun = self._begun.get(upload_id)
        if begun is None:
            raise errors.not_found("The upload does not exist.")
        if call.request.headers.get("X-Goog-Upload-Offset") != "0":
            raise errors.invalid("X-Goog-Upload-Offset must be 0.")
        path, is_kept = self._store.new_path(), False
        try:
            size = await _receive(call, path, size_max=begun.size)
            if size != begun.size:
                raise errors.invalid(f"Upload of {begun.size} bytes ended after {size}.")
            is_kept = True
        finally:
            if not is_kept:
                path.unlink(missing_ok=True)
        del self._begun[upload_id]
        now = self._engine.clock.now()
        file = StoredFile(
            id=new_id(""),
            project=call.key.project,
            filename=begun.display_name,
            purpose=begun.mime_type,
            path=path,
            size=size,
            created_at=now,
            visible_at=now + self._engine.settings.file_lag_s,
            expires_at=now + FILE_LIFE_S,
        )
        self._store.add(file)
        reply = json_reply({"file": file_object(file, call)})
        return Reply(reply.body, headers={"X-Goog-Upload-Status": "final"})

    async def _list(self, call: Call) -> Reply:
        now = self._engine.clock.now()
        files = self._store.newest_first(project=call.key.project, now=now)
        shown = page(call, "files", [file_object(one, call) for one in files], default=10)
        return json_reply(masked(shown, call.argument("fields")))

    async def _retrieve(self, call: Call) -> Reply:
        return json_reply(file_object(self._find(call), call))

    async def _delete(self, call: Call) -> Reply:
        self._store.delete(self._find(call))
        return json_reply({})

    async def _download(self, call: Call) -> Reply:
        if call.argument("alt") != "media":
            raise errors.invalid("Only alt=media is supported here.")
        return Reply(self._find(call).path, content_type="application/octet-stream")

    def _find(self, call: Call) -> StoredFile:
        now = self._engine.clock.now()
        file = self._store.find(call.part("id"), project=call.key.project, now=now)
        if file is None or now < file.visible_at:
            raise errors.no_file(call.part("id"))
        return file


def file_object(file: StoredFile, call: Call) -> dict[str, Any]:
    """Return the File object of the API."""
    assert file.expires_at is not None
    return {
        "name": f"files/{file.id}",
        "displayName": file.filename,
        "mimeType": file.purpose,
        "sizeBytes": str(file.size),
        "createTime": moment(file.created_at),
        "updateTime": moment(file.created_at),
        "expirationTime": moment(file.expires_at),
        "uri": f"{call.request.scheme}://{call.request.host}/v1beta/files/{file.id}",
        "state": "ACTIVE",
    }


def _presented(call: Call) -> str:
    request = call.request
    bearer = request.headers.get("Authorization", "").rpartition(" ")[2]
    return request.headers.get("x-goog-api-key") or request.query.get("key") or bearer


async def _receive(call: Call, path: Path, *, size_max: int) -> int:
    """Write the body of a call to `path`; return how long it was, or would have been too long."""
    size = 0
    with path.open("wb") as file:
        async for chunk in call.request.content.iter_chunked(CHUNK_BYTES):
            size += len(chunk)
            if size > size_max:
                return size
            file.write(chunk)
    return size
