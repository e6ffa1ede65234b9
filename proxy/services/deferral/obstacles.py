"""Why a call cannot run later, as far as its head tells; the body has its own reasons.

One function for calls as they arrive and for calls that somebody wrote down, so
that what an explanation says is what happens.
"""

from dataclasses import dataclass

from proxy.core.dialects import DIALECTS, Endpoint, Place, place_for
from proxy.core.upstream import Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFacts:
    """The parts of a call's head that decide whether it can run later."""

    method: str
    upstream: Upstream
    endpoint: Endpoint | None
    content_type: str
    """Without parameters, in lower case."""

    content_encoding: str = "identity"
    length: int | None
    """Announced bytes of the body."""

    tagged: bool = False
    """Whether its caller asked for it: then a body of unknown length is read."""


def obstacle(head: HeadFacts, *, max_body_bytes: int) -> str | None:
    """Return why a call with this head cannot run later, in words for its caller, or nothing."""
    if head.method != "POST":
        return "it is no POST"
    if head.endpoint is None:
        known = ", ".join(DIALECTS[head.upstream.dialect].endpoints)
        return f"of paths at {head.upstream.name!r} only {known} can be deferred"
    if head.content_type != "application/json":
        return "its body is not `application/json`"
    if head.content_encoding.lower() not in {"", "identity"}:
        return "its body is compressed"
    if head.length is None and not head.tagged:
        # What is forwarded after all must not have to be read whole before.
        return "the length of its body is not announced"
    if head.length is not None and head.length > max_body_bytes:
        return f"its body has {head.length} bytes, more than {max_body_bytes}"
    return None


def place_at(upstream: Upstream, target: str) -> Place | None:
    """Return the deferrable endpoint at a raw target, whatever prefix its base URL has."""
    return place_for(DIALECTS[upstream.dialect], upstream.path_of(target))
