"""Many results at once, as a stream of JSON lines in which each body stands as it came."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Final

from aiohttp import web

from proxy.core.chunks import chunked
from proxy.core.dialects import openai_error
from proxy.core.errors import JobNotFoundError, ProxyError, StoreCorruptError
from proxy.core.ids import JobId, OwnerId, is_job_id
from proxy.core.job import Job
from proxy.ports.jobs import Result, UnreadJob
from proxy.services.callers.owners import owns
from proxy.services.ground import Ground
from proxy.web.answering.final import abort, begin, flush
from proxy.web.answering.job_object import STATUS_WORDS, job_error
from proxy.web.bodies import read_body
from proxy.web.jobs_api.queries import BulkQuery, read_bulk

MAX_REQUEST_BYTES: Final = 1_000_000
_CHUNK: Final = 100
"""Jobs that are read together."""

_PIECE_BYTES: Final = 1 << 18
"""Lines are sent together up to here: a hundred results may be gigabytes."""


class Bulk:
    """Streams the results of an owner's jobs."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._jobs = ground.jobs

    async def answer(
        self, request: web.BaseRequest, owners: Sequence[OwnerId]
    ) -> web.StreamResponse:
        """Stream one line for each job that is asked for.

        Jobs of all `owners` are found by ID; by a tag or a state only those of the first.

        A store that fails within the stream breaks the connection: a list that
        ends early must not be taken for whole.

        Raises:
            CallerError: if the request cannot be read; nothing was sent.
            StoreError: if the store failed before anything was sent.
        """
        query = read_bulk(await read_body(request, max_bytes=MAX_REQUEST_BYTES))
        pieces = self._pieces(owners, query)
        first = await anext(pieces, b"")
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        await begin(request, response)
        try:
            await response.write(first)
            async for piece in pieces:
                await response.write(piece)
        except ProxyError:
            abort(request)
            return response
        await flush(request, response)
        return response

    async def _pieces(self, owners: Sequence[OwnerId], query: BulkQuery) -> AsyncIterator[bytes]:
        lines, size = [], 0
        async for line in self._lines(owners, query):
            lines.append(line)
            size += len(line)
            if size >= _PIECE_BYTES:
                yield b"".join(lines)
                lines, size = [], 0
        if lines:
            yield b"".join(lines)

    async def _lines(self, owners: Sequence[OwnerId], query: BulkQuery) -> AsyncIterator[bytes]:
        if query.ids is not None:
            for ids in chunked(query.ids, _CHUNK):
                jobs, unread = await self._ground.readable(
                    [JobId(each) for each in ids if is_job_id(each)]
                )
                mine = {job.id: job for job in jobs if owns(job.owner, owners)}
                for each in ids:
                    job = mine.get(JobId(each))
                    if job is None:
                        yield _missing_line(each, unread.get(JobId(each)))
                    else:
                        yield await self._line(job)
            return
        after: JobId | None = None
        while True:
            page = await self._jobs.list_jobs(owners[0], query.where, after=after, limit=_CHUNK)
            for one in page:
                if isinstance(one, UnreadJob):
                    yield _missing_line(one.id, one.why)
                else:
                    yield await self._line(one)
            if len(page) < _CHUNK:
                return
            after = page[-1].id

    async def _line(self, job: Job) -> bytes:
        try:
            result = await self._jobs.result(job.id) if job.state.is_terminal else None
        except StoreCorruptError as error:
            # It never will be readable, and would end each list that its job is in.
            return result_line(job, None, error)
        return result_line(job, result)


def result_line(job: Job, result: Result | None, error: ProxyError | None = None) -> bytes:
    """Return the line of a job, shaped like a line of OpenAI's batch output.

    `error` is why it has no result, if that is not how the job ended.
    """
    error = error or (job_error(job) if result is None else None)
    head = {"id": job.id, "status": STATUS_WORDS[job.state], "tags": dict(job.tags)}
    parts = [json.dumps(head)[1:-1].encode()]
    if result is None:
        parts.append(b'"response": null')
    else:
        about = {"status_code": result.status_code, "request_id": result.request_id}
        body = _embedded(result)
        parts.append(b'"response": {%b, "body": %b}' % (json.dumps(about)[1:-1].encode(), body))
    parts.append(b'"error": ' + json.dumps(error and openai_error(error)).encode())
    return b"{" + b", ".join(parts) + b"}\n"


def _embedded(result: Result) -> bytes:
    """Return the body as a JSON value: its own bytes if they are one, else a string."""
    try:
        # JSON is UTF-8 and nothing else (RFC 8259, section 8.1), and has no `NaN` or its like.
        json.loads(result.body.decode("utf-8-sig"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return json.dumps(result.body.decode("utf-8", "replace")).encode()
    # Between values line ends are white space; within strings there are none.
    return result.body.removeprefix(b"\xef\xbb\xbf").translate(None, b"\r\n")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _missing_line(job_id: str, why: ProxyError | None) -> bytes:
    error = openai_error(why or JobNotFoundError(job_id))
    line = {"id": job_id, "status": None, "tags": {}, "response": None, "error": error}
    return json.dumps(line).encode() + b"\n"
