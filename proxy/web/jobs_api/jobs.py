"""The jobs API: what callers ask about the jobs that they own.

Two ways lead here. `/v1/jobs` is our own, with problem documents for errors. And
any path that contains a job ID is ours by that alone, so that stock SDKs can
retrieve a job as if it were the provider's object, with the provider's errors.

A job ID is no authorisation: whoever does not present its owner's token gets, on
every verb, the answer for a job that never existed.
"""

import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from aiohttp import web

from proxy.core.batch import Batch
from proxy.core.dialects import DIALECTS, Family, Shape, error_answer
from proxy.core.errors import (
    CallerError,
    JobNotFoundError,
    ProxyError,
    StoreError,
)
from proxy.core.fields import RawHeaders
from proxy.core.ids import ANONYMOUS, JobId, OwnerId, find_job_id
from proxy.core.job import Job
from proxy.core.upstream import Upstream
from proxy.ports.jobs import UnreadJob
from proxy.services.callers.accounts import Accounts
from proxy.services.callers.owners import Owners, owns, query_key
from proxy.services.deferral.cancel import Canceller
from proxy.services.ground import Ground
from proxy.services.outlook import Outlook
from proxy.web.answering.final import JOB_HEADER, NEVER_AGAIN, final_answer, response_of
from proxy.web.answering.held import TYPED_HOLD_S, Holder
from proxy.web.answering.job_object import (
    job_object,
    missing_result,
    pending_response,
    problem,
    retry_after,
    unread_object,
)
from proxy.web.asked import read_asked
from proxy.web.jobs_api.bulk import Bulk
from proxy.web.jobs_api.openapi import openapi
from proxy.web.jobs_api.queries import check_whole, read_listing, read_wait

ROOT: Final = "/v1/jobs"

DESCRIPTION: Final = f"{ROOT}/openapi.json"
"""Open to everybody: it tells nothing of anybody."""

_RESULTS: Final = f"{ROOT}/results"
_READ: Final = ("GET", "HEAD")

_STORE_PAUSE_S: Final = 1
"""Told to who asks after a job: a question is small, and nothing is accepted by it."""

Verb = Callable[["JobsApi", web.BaseRequest, JobId], Awaitable[web.StreamResponse]]


def is_job_path(target: str) -> bool:
    """Return whether a raw target is for this API, and so never for an upstream."""
    path, _, _ = target.partition("?")
    return path == ROOT or path.startswith(f"{ROOT}/") or find_job_id(path) is not None


def caller_family(target: str, headers: RawHeaders, upstreams: Mapping[str, Upstream]) -> Family:
    """Return whose errors the caller's SDK understands, as far as the call tells."""
    first = target[1:].partition("?")[0].partition("/")[0]
    upstream = upstreams.get(first)
    if upstream is not None:
        return DIALECTS[upstream.dialect].family
    names = {name.lower() for name, _ in headers}
    if not names.isdisjoint({b"anthropic-version", b"x-api-key"}):
        return Family.ANTHROPIC
    is_gemini = b"x-goog-api-key" in names or query_key(target) is not None
    return Family.GEMINI if is_gemini else Family.OPENAI


class JobsApi:
    """Answers everything that `is_job_path` claims."""

    def __init__(
        self,
        ground: Ground,
        *,
        owners: Owners,
        accounts: Accounts,
        holder: Holder,
        canceller: Canceller,
        upstreams: Mapping[str, Upstream],
        outlook: Outlook,
    ) -> None:
        self._jobs = ground.jobs
        self._batches = ground.batches
        self._troubles = ground.troubles
        self._clock = ground.clock
        self._owners = owners
        self._accounts = accounts
        self._holder = holder
        self._canceller = canceller
        self._upstreams = upstreams
        self._outlook = outlook
        self._bulk = Bulk(ground)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; errors in the shape that fits its path."""
        target = request.raw_path
        path, _, _ = target.partition("?")
        job_id = find_job_id(path)
        typed = job_id is not None and not path.startswith(f"{ROOT}/")
        try:
            if job_id is None:
                return await self._root(request, path)
            before, _, after = path.partition(job_id)
            verb = self._verb(request.method, before, after, job_id)
            return await verb(self, request, job_id)
        except ProxyError as error:
            family = caller_family(target, request.raw_headers, self._upstreams)
            answer = error_answer(family, error) if typed else problem(error)
            more = list[tuple[str, str]]()
            if isinstance(error, StoreError):
                more.append(("Retry-After", str(_STORE_PAUSE_S)))
            if isinstance(error, _WrongMethodError):
                more.append(("Allow", error.allowed))
            return response_of(answer, *more)

    def _verb(self, method: str, before: str, after: str, job_id: JobId) -> Verb:
        place = self._PLACES.get((before.rpartition("/")[0].rpartition("/")[2], after))
        if not before.endswith("/") or place is None:
            # Also what looks like a job of ours below a provider's own path.
            raise CallerError(
                f"nothing of a job is at this path: {ROOT}/{job_id} is its status,"
                f" {ROOT}/{job_id}/result its result",
                code="job_not_found",
                http_status=404,
            )
        own = before == f"{ROOT}/"
        read = _of_head(method) if own else method
        if own and (read, after) == ("GET", ""):
            return JobsApi._show
        verb = place.get(read)
        if verb is None:
            hint = f"; {ROOT}/{job_id} takes DELETE" if (method, own) == ("DELETE", False) else ""
            raise _WrongMethodError(method, _with_head(place) if own else place, hint)
        return verb

    async def _root(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        if path not in {ROOT, DESCRIPTION, _RESULTS}:
            named = path.removeprefix(f"{ROOT}/").partition("/")[0][:100]
            what = f"{named!r} is no job ID: mistyped, or cut off?"
            what = what if named else f"nothing is at this path; {ROOT} lists jobs"
            raise CallerError(what, code="not_found", http_status=404)
        methods = ("POST",) if path == _RESULTS else _READ
        if request.method not in methods:
            raise _WrongMethodError(request.method, methods)
        if path == DESCRIPTION:
            return web.Response(body=openapi(), content_type="application/json")
        owners = self._listing_owners(request)
        if path == _RESULTS:
            return await self._bulk.answer(request, owners)
        return await self._list(request, owners[0])

    def _listing_owners(self, request: web.BaseRequest) -> Sequence[OwnerId]:
        owners = self._owners.of_request(request.raw_headers, request.raw_path)
        if owners[0] == ANONYMOUS:
            raise CallerError(
                "listing jobs needs a credential; without one they are found by their ID alone",
                code="credential_required",
                http_status=401,
            )
        return owners

    async def _owned(self, request: web.BaseRequest, job_id: JobId) -> Job:
        owners = self._owners.of_request(request.raw_headers, request.raw_path)
        job = await self._jobs.get(job_id)
        if not owns(job.owner, owners):
            raise JobNotFoundError(job_id)
        return job

    async def _list(self, request: web.BaseRequest, owner: OwnerId) -> web.Response:
        listing = read_listing(request.raw_path)
        found = await self._jobs.list_jobs(
            owner, listing.where, after=listing.after, limit=listing.limit + 1
        )
        shown = found[: listing.limit]
        now = self._clock.now()
        return _json(
            {
                "object": "list",
                "data": [
                    unread_object(job.id, job.why)
                    if isinstance(job, UnreadJob)
                    else job_object(
                        job, self._outlook.facts(job.key), trouble=self._trouble(job), now=now
                    )
                    for job in shown
                ],
                "first_id": shown[0].id if shown else None,
                "last_id": shown[-1].id if shown else None,
                "has_more": len(found) > len(shown),
            }
        )

    async def _show(self, request: web.BaseRequest, job_id: JobId) -> web.Response:
        job = await self._awaited(request, await self._owned(request, job_id))
        return await self._object(job)

    async def _object(self, job: Job, *, status: int = 200) -> web.Response:
        batch = await self._batches.get(job.batch_id) if job.batch_id is not None else None
        now = self._clock.now()
        facts = self._outlook.facts(job.key)
        trouble = self._trouble(job, batch)
        content = job_object(job, facts, batch=batch, trouble=trouble, now=now)
        pause = retry_after(job, facts, batch=batch, now=now)
        return _json(content, (JOB_HEADER, job.id), *pause, status=status)

    def _trouble(self, job: Job, batch: Batch | None = None) -> str | None:
        """Return what a pending job waits for, as far as this instance knows."""
        name = job.key.upstream
        if name not in self._upstreams:
            return f"no upstream {name!r} is configured here: its jobs wait, each to its deadline"
        paused_at = self._accounts.paused_at(job.key.credential)
        if paused_at is not None:
            # Also where the provider has it: its results are not read with that credential.
            return (
                f"upstream {name!r} refuses the credential of this job since"
                f" {paused_at:%Y-%m-%dT%H:%M:%SZ}:"
                " it waits until that is good again, to its deadline"
            )
        if job.batch_id is not None and (batch is None or batch.provider_batch_id is not None):
            # The provider has it, or may have it.
            return None
        at = self._troubles.silent_at(name, job.accepted_at)
        if at is None:
            return None
        return (
            f"upstream {name!r} did not answer when it was last asked, at {at:%Y-%m-%dT%H:%M:%SZ}"
        )

    async def _awaited(self, request: web.BaseRequest, job: Job) -> Job:
        """Return the job after `?wait=`, as it is then."""
        wait_s = read_wait(request.raw_path)
        if job.state.is_terminal or not wait_s:
            return job
        return await self._holder.awaited(job, for_s=wait_s)

    async def _result(self, request: web.BaseRequest, job_id: JobId) -> web.Response:
        job = await self._awaited(request, await self._owned(request, job_id))
        if not job.state.is_terminal:
            return await self._object(job, status=202)
        result = await self._jobs.result(job.id)
        if result is not None:
            return response_of(final_answer(job, result, self._family(job)))
        return response_of(problem(missing_result(job)), (JOB_HEADER, job.id), NEVER_AGAIN)

    async def _typed(self, request: web.BaseRequest, job_id: JobId) -> web.StreamResponse:
        job = await self._owned(request, job_id)
        asked = read_asked(request.raw_headers, now=self._clock.now())
        wait, read_timeout = asked.preferences.wait, asked.read_timeout
        return await self._holder.hold_typed(
            request,
            job,
            family=self._family(job),
            read_timeout_s=None if read_timeout is None else read_timeout.total_seconds(),
            wait_s=TYPED_HOLD_S if wait is None else wait.total_seconds(),
        )

    async def _response(self, request: web.BaseRequest, job_id: JobId) -> web.StreamResponse:
        job = await self._owned(request, job_id)
        if not self._is_response(job):
            return await self._typed(request, job_id)
        check_whole(request.raw_path)
        if not job.state.is_terminal:
            return self._pending_response(job)
        result = await self._jobs.result(job.id)
        if result is None and job.outcome is None:
            # Cancelled or expired: a background Response says so by its status.
            return self._pending_response(job)
        return response_of(final_answer(job, result, self._family(job)))

    async def _cancel_response(self, request: web.BaseRequest, job_id: JobId) -> web.Response:
        job = await self._owned(request, job_id)
        if not self._is_response(job):
            raise JobNotFoundError(job_id)
        job = await self._canceller.cancel(job)
        result = await self._jobs.result(job.id)
        if result is not None:
            # It had ended before: natively that is answered with the Response.
            return response_of(final_answer(job, result, self._family(job)))
        return self._pending_response(job)

    def _pending_response(self, job: Job) -> web.Response:
        pause = retry_after(job, self._outlook.facts(job.key), now=self._clock.now())
        return _json(pending_response(job), (JOB_HEADER, job.id), *pause)

    async def _cancel(self, request: web.BaseRequest, job_id: JobId) -> web.Response:
        job = await self._owned(request, job_id)
        return await self._object(await self._canceller.cancel(job))

    async def _delete(self, request: web.BaseRequest, job_id: JobId) -> web.Response:
        job = await self._owned(request, job_id)
        await self._canceller.erase(job)
        return _json({"id": job.id, "object": "deferrable.job", "deleted": True})

    def _family(self, job: Job) -> Family:
        upstream = self._upstreams.get(job.key.upstream)
        # One that is no longer configured still has jobs with results.
        return DIALECTS[upstream.dialect].family if upstream is not None else Family.OPENAI

    def _is_response(self, job: Job) -> bool:
        upstream = self._upstreams.get(job.key.upstream)
        dialect = DIALECTS["openai" if upstream is None else upstream.dialect]
        endpoint = dialect.endpoints.get(job.key.endpoint)
        return endpoint is not None and endpoint.shape is Shape.RESPONSES

    # What stands before and after the ID, then the method. `/v1/jobs/{id}` itself is
    # the job object; below any other prefix it is what an SDK parses as its own type.
    _PLACES: Final[Mapping[tuple[str, str], Mapping[str, Verb]]] = {
        ("jobs", ""): {"GET": _typed, "DELETE": _delete},
        ("jobs", "/result"): {"GET": _result},
        ("jobs", "/cancel"): {"POST": _cancel},
        ("completions", ""): {"GET": _typed},
        # Natively nothing is read there, but it is where the SDK's generic `get` is pointed.
        ("messages", ""): {"GET": _typed},
        ("embeddings", ""): {"GET": _typed},
        ("generations", ""): {"GET": _typed},
        ("edits", ""): {"GET": _typed},
        ("responses", ""): {"GET": _response},
        ("responses", "/cancel"): {"POST": _cancel_response},
    }


class _WrongMethodError(CallerError):
    """A place knows other methods than this one; RFC 9110, section 15.5.6, has it name them."""

    code = "method_not_allowed"
    http_status = 405

    def __init__(self, method: str, allowed: Iterable[str], hint: str = "") -> None:
        self.allowed = ", ".join(sorted(allowed))
        super().__init__(f"{method} is not possible here, only {self.allowed}{hint}")


def _of_head(method: str) -> str:
    """Return the method to serve a request by: a HEAD is a GET whose body is not written."""
    return "GET" if method == "HEAD" else method


def _with_head(methods: Collection[str]) -> set[str]:
    return {*methods, *(_READ if "GET" in methods else ())}


def _json(
    content: Mapping[str, object], *headers: tuple[str, str], status: int = 200
) -> web.Response:
    body = json.dumps(content).encode()
    return web.Response(
        status=status, headers=[("Content-Type", "application/json"), *headers], body=body
    )
