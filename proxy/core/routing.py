"""Which upstream a call belongs to, and the target it is sent there with.

The only source of truth is the raw request target: what is sent is what came, but
for the prefix and the `/v1` that SDKs forget or double, in paths where that cannot
mean anything else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from proxy.core.clues import foreign_credential, intended_dialect, lacks_bearer
from proxy.core.dialects import Family
from proxy.core.errors import CallerError
from proxy.core.fields import RawHeaders
from proxy.core.targets import OPENAI_PATHS, begins, first_segment
from proxy.core.upstream import Upstream

_V1_FAMILIES: Final = frozenset({Family.OPENAI, Family.ANTHROPIC, Family.MISTRAL})


@dataclass(frozen=True, slots=True)
class Route:
    """Where a call goes, and the raw target it is sent there with."""

    upstream: Upstream
    upstream_target: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is not forwarded, in words for its caller; it names no credential."""

    status: int
    code: str
    message: str
    dialect: str | None = None
    """Whose error shape the caller understands, where that is known."""

    def error(self) -> CallerError:
        """Return the refusal as the error to answer with."""
        return CallerError(self.message, code=self.code, http_status=self.status)


def resolve(target: str, headers: RawHeaders, upstreams: Mapping[str, Upstream]) -> Route | Refusal:
    """Return where a call goes, or why it goes nowhere.

    `target` is the request target as received (undecodable bytes as surrogate
    escapes), `upstreams` are all configured ones by name.
    """
    if not target.startswith("/"):
        return _refuse_form(target)
    route = _by_prefix(target, upstreams) or _by_inference(target, headers, upstreams)
    if route is None:
        return _refuse_unknown(upstreams, is_bare=lacks_bearer(target, headers))
    if route.upstream.family is Family.GEMINI:
        route = _at_openai_api(route, upstreams)
    owner = foreign_credential(target, headers, route.upstream)
    if owner is not None:
        return _refuse_credential(owner, route.upstream)
    return route


def _by_prefix(target: str, upstreams: Mapping[str, Upstream]) -> Route | None:
    first = target.split("/", 2)[1]
    if "?" in first:
        first = first.partition("?")[0]
    upstream = upstreams.get(first)
    if upstream is None:
        return None
    rest = target[len(first) + 1 :]
    # Azure's own paths begin with `/openai/deployments`, so `openai` alone is
    # not yet the prefix.
    if first == "openai" and not begins(rest, "/v1"):
        return None
    return Route(upstream, _upstream_target(upstream, rest))


def _by_inference(
    target: str, headers: RawHeaders, upstreams: Mapping[str, Upstream]
) -> Route | None:
    dialect = intended_dialect(target, headers)
    if dialect is None:
        return None
    upstream = upstreams.get(dialect) or next(
        (other for other in upstreams.values() if other.dialect == dialect), None
    )
    return Route(upstream, _upstream_target(upstream, target)) if upstream else None


def _at_openai_api(route: Route, upstreams: Mapping[str, Upstream]) -> Route:
    """Return the route at the upstream that is Gemini's OpenAI API, if the call is one of its."""
    target = route.upstream_target
    for other in upstreams.values():
        if other.is_openai_api_of(route.upstream) and begins(target, other.base_path):
            return Route(other, target)
    return route


def _upstream_target(upstream: Upstream, rest: str) -> str:
    """Join base path and raw rest by string, with the one tolerance for `/v1`."""
    base = upstream.base_path
    if not base and rest.startswith("/v1/") and not rest.startswith("/v1/", 3):
        return rest
    root = upstream.own_root
    if root and begins(rest, root):
        # An SDK that was given the provider's whole path below our prefix, or adds it itself.
        rest = rest[len(root) :]
    elif upstream.is_at_root and not upstream.is_versioned and upstream.family in _V1_FAMILIES:
        while rest.startswith("/v1/v1/"):
            rest = rest[3:]
        if _lacks_v1(rest, upstream.family):
            rest = "/v1" + rest
    if upstream.is_versioned:
        # `base_url: …/v1` and an SDK that adds its own `/v1`.
        while begins(rest, "/v1"):
            rest = rest[3:]
    if not rest.startswith("/"):
        # Only a bare prefix leaves nothing before the query; an empty path is
        # sent as "/" (RFC 9112, section 3.2.1).
        rest = rest if base else "/" + rest
    return base + rest


def _lacks_v1(rest: str, family: Family) -> bool:
    segment = first_segment(rest)
    if family is Family.ANTHROPIC:
        return segment == "messages"
    return segment in OPENAI_PATHS


def _refuse_form(target: str) -> Refusal:
    if target == "*":
        form = "asterisk-form ('*')"
    elif "://" in target:
        form = "absolute-form ('http://host/path')"
    else:
        form = "authority-form ('host:port')"
    return Refusal(
        400,
        "bad_request_target",
        f"the request target is in {form}; this is no forward proxy: set it as the base URL",
    )


def _refuse_unknown(upstreams: Mapping[str, Upstream], *, is_bare: bool) -> Refusal:
    # Most often the key was forgotten, of which a prefix is no cure.
    why = ", which has no `Authorization: Bearer KEY`: send one, or" if is_bare else ";"
    prefixes = ", ".join(
        f"/{name}/v1" if name == "openai" else f"/{name}" for name in sorted(upstreams)
    )
    return Refusal(
        404, "unknown_upstream", f"no upstream follows from this call{why} use a prefix: {prefixes}"
    )


def _refuse_credential(owner: str, upstream: Upstream) -> Refusal:
    return Refusal(
        421,
        "foreign_credential",
        f"the credential is one for {owner}, the call goes to {upstream.name!r}; "
        "it was not forwarded",
        dialect=upstream.dialect,
    )
