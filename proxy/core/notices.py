"""What a webhook is told about the end of a job, when, and how it can check that.

The rules are those of Standard Webhooks 1.0 (spec/standard-webhooks.md): sections
"Signature scheme", "Deliverability and reliability", "Delivery success and failure".
"""

import hashlib
import hmac
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from proxy.core.errors import ConfigError
from proxy.core.ids import JobId
from proxy.core.upstream import Upstream

RETRIES: Final = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""Pauses after the first and each further attempt: ten in all, over three days."""

RETRY_AFTER_MAX: Final = timedelta(hours=24)
"""The longest pause that an endpoint may ask for: as long as our own longest."""

GONE: Final = 410

_IN_QUERY: Final = re.compile(r'[!"$-~]*')


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """The end of one job, of which one webhook is still to be told."""

    job_id: JobId
    webhook: str
    owed_since: datetime
    """When the job ended."""

    attempts: int = 0
    """How often it was sent in vain."""


class Reached(StrEnum):
    """What became of one attempt. The values are labels of metrics: never rename one."""

    DELIVERED = "delivered"
    REDIRECTED = "redirected"
    """Never followed: whoever answers for the endpoint could send us anywhere."""

    REFUSED = "refused"
    """A 4xx."""

    GONE = "gone"
    """The endpoint wants no more: this notice is not sent again."""

    BROKEN = "broken"
    """A 5xx."""

    TIMED_OUT = "timed_out"
    UNREACHABLE = "unreachable"


def endpoint_at(url: str) -> tuple[Upstream, str]:
    """Return the host of a webhook, and what a notice is posted to there.

    Raises:
        ConfigError: if it is no plain http(s) URL.
    """
    address, mark, query = url.partition("?")
    # The parser of upstreams; its dialect and its base path, which has no slash at its
    # end, are not asked for here: `/hook` and `/hook/` are two places.
    upstream = Upstream.parse("webhook", "openai", address)
    if not _IN_QUERY.fullmatch(query):
        # Sent as it stands, it would make a request line that every server refuses.
        raise ConfigError("a webhook's query must be printable ASCII without spaces and '#'")
    return upstream, (urlsplit(address).path or "/") + mark + query


def reached(status: int) -> Reached:
    """Return what an answer of this status means: only a 2xx is a delivery."""
    if 200 <= status < 300:
        return Reached.DELIVERED
    if status == GONE:
        return Reached.GONE
    if status < 400:
        return Reached.REDIRECTED
    return Reached.REFUSED if status < 500 else Reached.BROKEN


def next_attempt(
    notice: Notice,
    outcome: Reached,
    *,
    now: datetime,
    jitter: float,
    retry_after: timedelta | None = None,
) -> datetime | None:
    """Return when a notice that was not delivered is sent again; nothing if never.

    `jitter` in [0.9, 1.1] spreads what failed at one moment. `retry_after` is what
    the endpoint asked for: it may come later than that, and no sooner.
    """
    if outcome is Reached.GONE or notice.attempts >= len(RETRIES):
        return None
    pause = RETRIES[notice.attempts] * jitter
    if retry_after is not None:
        pause = max(pause, min(retry_after, RETRY_AFTER_MAX) * max(jitter, 1.0))
    return now + pause


def message_id(job_id: JobId) -> str:
    """Return the `webhook-id` of a job's end: one, however often it is sent."""
    return f"msg_{job_id.removeprefix('job_')}"


def signed_headers(
    message: str, body: bytes, *, at: datetime, secrets: Sequence[bytes]
) -> dict[str, str]:
    """Return the headers by which an endpoint knows that a body comes from us, and when."""
    timestamp = str(int(at.timestamp()))
    signed = b".".join((message.encode(), timestamp.encode(), body))
    signatures = [
        "v1," + b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
        for secret in secrets
    ]
    return {
        "webhook-id": message,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(signatures),
    }
