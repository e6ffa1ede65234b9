"""Facts of calls for the tests of policies: a test states only what matters to it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256

from policies.model import CallFacts, Identity

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
"""A Monday."""


class UnreadBodyError(AssertionError):
    """Something asked for a body that it should not need."""


def unread():
    raise UnreadBodyError


def raw(headers: Mapping[str, str] | None = None) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((k.encode("latin-1"), v.encode("latin-1")) for k, v in (headers or {}).items())


def make_facts(body=..., *, headers=None, owner=(), credential=(), tokens=None, **facts):
    """A deferrable chat call; `body=None` is unreadable, `body=unread` must not be read."""
    content = {"model": "gpt-5-mini", "messages": []} if body is ... else body
    known = CallFacts(
        method="POST",
        upstream="openai",
        path="/v1/chat/completions",
        headers=raw(headers) if headers is None or isinstance(headers, Mapping) else headers,
        now=NOW,
        obstacle=None,
        identity=lambda: Identity(frozenset(owner), frozenset(credential)),
        body=content if callable(content) else lambda: content,
        tokens=tokens if callable(tokens) else lambda: tokens,
        digest=lambda: sha256(json.dumps(content).encode()).digest(),
    )
    return replace(known, **facts)
