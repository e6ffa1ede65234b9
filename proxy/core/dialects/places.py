"""What a call's target says: its endpoint and, in dialects whose paths say more, that too."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from proxy.core.dialects.records import Dialect, Endpoint


class Streaming(StrEnum):
    """How an answer comes piece by piece."""

    EVENTS = "events"
    """As server-sent events."""

    ARRAY = "array"
    """As the elements of one JSON array."""


@dataclass(frozen=True, slots=True)
class Place:
    """A deferrable endpoint, and what else of a call its target decides."""

    endpoint: Endpoint
    model: str | None = None
    """The model, where the path names it and the body need not."""

    streaming: Streaming | None = None
    """How the path asks for a stream; elsewhere the body does."""


_EVENTS_QUERY: Final = "alt=sse"
"""What makes events of a stream that is an array otherwise (Google APIs, system parameters)."""


def place_for(dialect: Dialect, upstream_target: str) -> Place | None:
    """Return what a raw target at the upstream names, or nothing if it cannot be deferred."""
    path, _, query = upstream_target.partition("?")
    endpoint = dialect.endpoints.get(path)
    if endpoint is not None:
        return Place(endpoint)
    named = dialect.model_paths.fullmatch(path) if dialect.model_paths is not None else None
    if named is None:
        return None
    streamed = dialect.streamed.get(named["endpoint"])
    endpoint = dialect.endpoints.get(streamed or named["endpoint"])
    if endpoint is None:
        return None
    if streamed is None:
        return Place(endpoint, named["model"])
    events = _EVENTS_QUERY in query.split("&")
    return Place(endpoint, named["model"], Streaming.EVENTS if events else Streaming.ARRAY)


def whole_target(dialect: Dialect, target: str) -> str:
    """Return the target that answers in one piece what this one answers as a stream.

    A target whose path asks for no stream is returned as it is.
    """
    path, _, query = target.partition("?")
    for streamed, whole in dialect.streamed.items():
        if path.endswith(streamed):
            kept = "&".join(pair for pair in query.split("&") if pair != _EVENTS_QUERY)
            path = path.removesuffix(streamed) + whole
            return f"{path}?{kept}" if kept else path
    return target
