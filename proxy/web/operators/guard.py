"""Who may do what on the listener for operators.

Who may do what follows from the listener and the token alone, never from a header
that says who somebody is.

- `Host` must be an allowed name, or the very address that was connected to. A
  web page can rebind its own name to this address, but not send another's.
- Probes and metrics are open. Everything else needs the token once one is
  configured, and is refused without one off loopback.
- A browser, which cannot send the token by itself, gets a cookie for it at `/login`.
  The cookie is good for looking only: what changes something takes the token.
- A change from a page of another origin is refused: a browser on this machine
  would otherwise send it unasked.
"""

import hmac
import ipaddress
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

log = structlog.get_logger()

OPEN_PATHS: Final = frozenset(
    {
        *("/livez", "/readyz", "/metrics"),
        # What a browser needs before it is logged in, and to be so no longer.
        *("/login", "/logout", "/dashboard/style.css", "/dashboard/icon.svg"),
    }
)
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})

COOKIE: Final = "offramp_session"
SESSION: Final = timedelta(hours=12)
"""How long a browser stays logged in: a working day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAccess:
    """Who may use the listener for what."""

    allowed_hosts: Collection[str]
    loopback: bool
    """Whether only this machine can reach the listener."""

    token: str | None = field(default=None, repr=False)

    def is_token(self, given: str) -> bool:
        """Return whether `given` is the token, in constant time."""
        return self.token is not None and _equal(given.strip(), self.token)

    def session(self, now: datetime) -> str:
        """Return a cookie's value that is good from `now` on for a while.

        Its end and a code over it: nothing is kept, every instance with the token knows
        it, and a new token ends all sessions.
        """
        until = str(int((now + SESSION).timestamp()))
        return f"{until}.{self._code(until)}"

    def is_session(self, value: str, now: datetime) -> bool:
        """Return whether `value` was given out by someone with the token, and is still good."""
        until, _, code = value.partition(".")
        if self.token is None or not until.isascii() or not until.isdecimal():
            return False
        return _equal(code, self._code(until)) and now.timestamp() < int(until)

    def _code(self, until: str) -> str:
        assert self.token is not None
        text = f"offramp dashboard session until {until}"
        return hmac.new(self.token.encode(), text.encode(), "sha256").hexdigest()


def guard(access: AdminAccess, now: Callable[[], datetime]) -> Middleware:
    """Return the middleware that everything passes, unknown paths included."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = _refused(request, access, now())
        if refusal is not None:
            log.info("request.refused", path=request.path, status_code=refusal.status)
            return refusal
        return await handler(request)

    return guarded


def _refused(request: web.Request, access: AdminAccess, now: datetime) -> web.Response | None:
    if not _host_allowed(request, access.allowed_hosts):
        return refusal(421, "host_not_allowed", "this Host is not in admin.allowed_hosts")
    is_change = request.method not in _SAFE_METHODS
    if is_change and not _same_origin(request):
        return refusal(403, "foreign_origin", "a page of another origin may not do this")
    if request.path in OPEN_PATHS:
        return None
    if access.token is None:
        if access.loopback:
            return None
        if not is_change and _is_browser(request):
            return see_other("/login")
        return refusal(403, "token_required", "set admin.token_file to use this off loopback")
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and access.is_token(given):
        return None
    if not is_change and access.is_session(request.cookies.get(COOKIE, ""), now):
        return None
    if not is_change and _is_browser(request):
        return see_other("/login")
    answer = refusal(401, "bad_token", "send the token of admin.token_file as a bearer token")
    answer.headers["WWW-Authenticate"] = 'Bearer realm="offramp admin"'
    return answer


def _is_browser(request: web.Request) -> bool:
    """Return whether somebody who can fill in a form is asking for a page."""
    is_page = request.path == "/" or request.path.startswith("/dashboard")
    return is_page and "text/html" in request.headers.get("Accept", "")


def _host_allowed(request: web.Request, allowed: Collection[str]) -> bool:
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1:
        return False
    name = _host_name(hosts[0])
    if name is None:
        return False
    return name in {host.lower() for host in allowed} or name == _own_address(request)


def _host_name(authority: str) -> str | None:
    """Return the host of an authority in lower case, without brackets and port."""
    try:
        parts = urlsplit(f"//{authority}")
        _ = parts.port
    except ValueError:
        return None
    if parts.netloc != authority or parts.username is not None:
        return None
    return parts.hostname


def _own_address(request: web.Request) -> str | None:
    """Return the address that the connection came in on, as `Host` would name it."""
    transport = request.transport
    name = transport.get_extra_info("sockname") if transport is not None else None
    if not isinstance(name, tuple):
        return None
    address = ipaddress.ip_address(str(name[0]).partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _same_origin(request: web.Request) -> bool:
    # Fetch standard, "Origin header": browsers send it with every POST.
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == request.headers["Host"].lower()
    except ValueError:
        return False


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def see_other(place: str) -> web.Response:
    """Return an answer that sends a browser elsewhere."""
    return web.Response(status=303, headers={"Location": place})


def refusal(status: int, code: str, message: str) -> web.Response:
    """Return an error in the shape of all of this listener's."""
    body = json.dumps({"error": {"code": code, "message": message}})
    return web.Response(status=status, text=body, content_type="application/json")
