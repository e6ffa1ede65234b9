"""Many results at once, as a stream of JSON lines in which each body stands as it came."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Final

from aiohttp import web

from proxy.core.dialects import openai_error
from proxy.core.errors import JobNotFoundError, ProxyError
from proxy.core.ids import JobId, OwnerId, is_job_id
from proxy.core.job import Job
from proxy.ports.jobs import JobStore, Result
from proxy.services.callers.owners import owns
from proxy.web.answering.final import abort, begin, flush
from proxy.web.answering.job_object import job_error
from proxy.web.bodies import read_body
from proxy.web.jobs_api.queries import STATUS_WORDS, BulkQuery, read_bulk

MAX_REQUEST_BYTES: Final = 1_000_000
_CHUNK: Final = 100
"""Jobs that are read together, and so held in memory with their results."""


class Bulk:
    """Streams the results of an owner's jobs."""

    def __init__(self, *, jobs: JobStore) -> None:
        self._jobs = jobs

    async def answer(self, request: web.BaseRequest, owner: OwnerId) -> web.StreamResponse:
        """Stream one line for each job that is asked for.

        A store that fails within the stream breaks the connection: a list that
        ends early must not be taken for whole.

        Raises:
            CallerError: if the request cannot be read; nothing was sent.
            StoreError: if the store failed before anything was sent.
        """
        query = read_bulk(await read_body(request, max_bytes=MAX_REQUEST_BYTES))
        chunks = self._chunks(owner, query)
        first = await anext(chunks, b"")
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        await begin(request, response)
        try:
            await response.write(first)
            async for chunk in chunks:
                await response.write(chunk)
        except ProxyError:
            abort(request)
            return response
        await flush(request, response)
        return response

    async def _chunks(self, owner: OwnerId, query: BulkQuery) -> AsyncIterator[bytes]:
        if query.ids is not None:
            for start in range(0, len(query.ids), _CHUNK):
                yield await self._named(owner, query.ids[start : start + _CHUNK])
            return
        after: JobId | None = None
        while True:
            jobs = await self._jobs.list_jobs(owner, query.where, after=after, limit=_CHUNK)
            if jobs:
                yield b"".join([await self._line(job) for job in jobs])
            if len(jobs) < _CHUNK:
                return
            after = jobs[-1].id

    async def _named(self, owner: OwnerId, ids: Sequence[str]) -> bytes:
        found = await self._jobs.get_many([JobId(each) for each in ids if is_job_id(each)])
        mine = {job.id: job for job in found if owns(job.owner, (owner,))}
        lines = []
        for each in ids:
            job = mine.get(JobId(each))
            lines.append(_missing_line(each) if job is None else await self._line(job))
        return b"".join(lines)

    async def _line(self, job: Job) -> bytes:
        result = await self._jobs.result(job.id) if job.state.is_terminal else None
        return result_line(job, result)


def result_line(job: Job, result: Result | None) -> bytes:
    """Return the line of a job, shaped like a line of OpenAI's batch output."""
    error = job_error(job) if result is None else None
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
        json.loads(result.body)
    except (ValueError, RecursionError):
        return json.dumps(result.body.decode("utf-8", "replace")).encode()
    # Between values line ends are white space; within strings there are none.
    return result.body.removeprefix(b"\xef\xbb\xbf").translate(None, b"\r\n")


def _missing_line(job_id: str) -> bytes:
    error = openai_error(JobNotFoundError(job_id))
    line = {"id": job_id, "status": None, "tags": {}, "response": None, "error": error}
    return json.dumps(line).encode() + b"\n"
