"""The routes of the dashboard: ask, then let a page be made in a thread."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlencode

from aiohttp import web

from proxy.core.errors import ProxyError
from proxy.core.ids import JobId, OwnerId, is_job_id
from proxy.core.job import JobState
from proxy.services.insight import Insight
from proxy.services.search import JobQuery
from proxy.web.dashboard.about import About
from proxy.web.operators.admin import in_time
from proxy.web.operators.guard import COOKIE, SESSION, AdminAccess, see_other

T = TypeVar("T")

_ANSWER_TIMEOUT_S: Final = 10.0
"""How long the stores may take for a page: longer than for a probe, as it asks for more."""

# A megabyte of fields would take a second to read, in which no call went on.
_FORM_BYTES: Final = 1 << 15
"""The body of a login: as long as a header field that carries the token may be."""

_HEADERS: Final = {
    # Nothing but our own style sheet, and forms that lead to ourselves.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
        " base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: browsers then say `Origin: null` even to ourselves (Fetch
    # standard, "append a request `Origin` header"), which is a foreign page's too.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_FILES: Final = {"style.css": "text/css", "icon.svg": "image/svg+xml"}

BATCHES_SHOWN: Final = 100

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_dashboard(
    application: web.Application, insight: Insight, *, access: AdminAccess, about: About
) -> None:
    """Add the pages to the operators' listener."""
    pages = _Pages(insight, access, about)
    add = application.router.add_get
    for place in ("/", "/dashboard/"):
        add(place, _to("/dashboard"))
    for name in _FILES:
        add(f"/dashboard/{name}", _file(name))
    for place, page in (
        ("", pages.overview),
        ("/jobs", pages.jobs),
        ("/jobs/{id}", pages.job),
        ("/batches", pages.batches),
        ("/batches/{id}", pages.batch),
        ("/rules", pages.rules),
        ("/providers", pages.providers),
        ("/webhooks", pages.webhooks),
    ):
        add(f"/dashboard{place}", pages.or_say_why(page))
    add("/login", pages.login)
    application.router.add_post("/login", pages.log_in)
    application.router.add_post("/logout", pages.log_out)


class _Pages:
    def __init__(self, insight: Insight, access: AdminAccess, about: About) -> None:
        self._insight = insight
        self._access = access
        self._about = about

    def or_say_why(self, page: Handler) -> Handler:
        """Return `page`, or one that says why there is none: the store may be away."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await page(request)
            except ProxyError as exc:
                return await self._page("away", status=exc.http_status, why=exc.message)

        return handle

    async def overview(self, _request: web.Request) -> web.Response:
        return await self._page("overview", seen=await _in_time(self._insight.overview()))

    async def jobs(self, request: web.Request) -> web.Response:
        query = _job_query(request.query)
        page = await _in_time(self._insight.jobs(query))
        older = None
        if page.more_after:
            older = urlencode({**request.query, "after": page.more_after})
        return await self._page("jobs", query=query, found=page, older=older, states=list(JobState))

    async def job(self, request: web.Request) -> web.Response:
        found = await _in_time(self._insight.job(request.match_info["id"]))
        if found is None:
            return await self._missing("job", "It may have been deleted, or its time is over.")
        job, batch = found
        return await self._page("job", job=job, batch=batch)

    async def batches(self, _request: web.Request) -> web.Response:
        found = await _in_time(self._insight.batches(limit=BATCHES_SHOWN))
        return await self._page("batches", found=found, most=BATCHES_SHOWN)

    async def batch(self, request: web.Request) -> web.Response:
        batch = await _in_time(self._insight.batch(request.match_info["id"]))
        if batch is None:
            return await self._missing("batch", "It may be settled and forgotten by now.")
        return await self._page("batch", batch=batch)

    async def rules(self, _request: web.Request) -> web.Response:
        return await self._page("rules", rules=await _in_time(self._insight.rules()))

    async def providers(self, _request: web.Request) -> web.Response:
        found = await _in_time(self._insight.turnarounds())
        return await self._page("providers", turnarounds=found)

    async def webhooks(self, _request: web.Request) -> web.Response:
        return await self._page("webhooks", standings=await _in_time(self._insight.webhooks()))

    async def login(self, _request: web.Request) -> web.Response:
        if self._access.token is None:
            return await self._without_token()
        return await self._page("login", is_wrong=False)

    async def _without_token(self) -> web.Response:
        """Answer whoever would log in where there is no token: who may look at all needs none."""
        if self._access.loopback:
            return see_other("/dashboard")
        return await self._page("closed", status=403)

    async def log_in(self, request: web.Request) -> web.Response:
        if self._access.token is None:
            return await self._without_token()
        # Read here, and not by a parser for all forms: only ours leads here, and anybody may send
        # anything before logging in.
        body = (await request.read())[:_FORM_BYTES]
        form = parse_qs(body.decode("utf-8", "replace"))
        if not self._access.is_token(form.get("token", [""])[0]):
            return await self._page("login", status=401, is_wrong=True)
        answer = see_other("/dashboard")
        answer.set_cookie(
            COOKIE,
            self._access.session(self._insight.now()),
            max_age=int(SESSION.total_seconds()),
            path="/",
            httponly=True,
            samesite="Strict",
            secure=request.secure,
        )
        return answer

    async def log_out(self, _request: web.Request) -> web.Response:
        answer = see_other("/login")
        answer.del_cookie(COOKIE, path="/")
        return answer

    async def _missing(self, what: str, why: str) -> web.Response:
        return await self._page("missing", status=404, what=what, why=why)

    async def _page(self, name: str, *, status: int = 200, **shown: Any) -> web.Response:
        shown |= {
            "about": self._about,
            "now": self._insight.now(),
            "has_token": self._access.token is not None,
        }
        body = await asyncio.to_thread(_render, name, shown)
        return web.Response(
            status=status, body=body, content_type="text/html", charset="utf-8", headers=_HEADERS
        )


def _render(name: str, shown: Mapping[str, Any]) -> bytes:
    # The template library takes 40 ms and some MB: imported when a page is first looked at.
    from proxy.web.dashboard.views import render  # noqa: PLC0415

    # A caller's text may hold half a surrogate pair, which is no character of any page.
    return render(name, **shown).encode("utf-8", "replace")


def _job_query(given: Mapping[str, str]) -> JobQuery:
    """Return what a form asks for; what it cannot mean is left out."""
    state = given.get("status", "")
    return JobQuery(
        state=JobState(state) if state in set(JobState) else None,
        text=given.get("q", "").strip(),
        owner=OwnerId(given["owner"]) if given.get("owner") else None,
        after=JobId(given["after"]) if is_job_id(given.get("after", "")) else None,
    )


def _to(place: str) -> Handler:
    async def redirect(_request: web.Request) -> web.Response:
        return see_other(place)

    return redirect


def _file(name: str) -> Handler:
    content = resources.files("proxy.web.dashboard").joinpath("static", name).read_bytes()

    async def file(_request: web.Request) -> web.Response:
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "max-age=300"}
        return web.Response(body=content, content_type=_FILES[name], headers=headers)

    return file


def _in_time(asked: Awaitable[T]) -> Awaitable[T]:
    return in_time(asked, within_s=_ANSWER_TIMEOUT_S)
