"""What is kept of calls, if the operator wants it: facts that rules can be tried on.

Neither a prompt nor a key is among them: of a body only model, size, estimated
tokens and three booleans; of an answer the token counts and the tier; of headers the
names, and the values of a short list.

A call only puts itself into a bounded queue. Its body is looked into, and the
line written, by a pass in a thread; what finds the queue full is counted.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from policies.matchers import has_tools
from policies.model import CallFacts, Identity, JsonObject, RawHeaders
from proxy.core.body import estimate_tokens, parse_body
from proxy.core.errors import CallerError, StoreError
from proxy.ports.tally import Tally
from proxy.services.traffic.kept import Bought, Kept, usage_in
from proxy.telemetry.redact import redacted

KIND: Final = "offramp.call/1"
"""What a line says it is; the number is that of its form."""

SHOWN_HEADERS: Final = frozenset(
    {
        "accept",
        "anthropic-beta",
        "anthropic-version",
        "content-type",
        "openai-beta",
        "prefer",
        "user-agent",
        "x-deferrable",
        "x-deferrable-deadline",
        "x-deferrable-tags",
        "x-stainless-lang",
        "x-stainless-package-version",
        "x-stainless-read-timeout",
        "x-stainless-retry-count",
    }
)
"""Headers whose values are kept. They say which program calls, never who it is."""

NOT_RECORDED: Final = "(not recorded)"
"""The value of every other header, where a recorded call is decided once more."""

QUEUE_MAX: Final = 5_000
QUEUE_BYTES_MAX: Final = 32 << 20
"""How much of the bodies that wait to be examined: the memory that recording may take."""

_CHUNK: Final = 500
"""Calls per stay in the thread, so that it never holds much of one core for long."""

_HEADERS_MAX: Final = 100
_TEXT_MAX: Final = 512
"""Characters of a path, a model or a value: the caller decides how long they are."""


class Sink(Protocol):
    """Where lines go."""

    def append(self, lines: Sequence[bytes]) -> None:
        """Write whole lines; called in a thread.

        Raises:
            StoreUnavailableError: if they cannot be written.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A call of the sample, as far as it is known before its end."""

    facts: CallFacts
    owner: str
    credential: str
    body: bytes | None
    """If it was read; it never leaves the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One call that is over, as the queue holds it."""

    seen: Seen
    decided_by: str | None
    shadow: str | None
    status: int | None
    duration_s: float
    kept: Kept | None = None
    """Parts of the answer, if it was forwarded and can be read."""

    @property
    def size(self) -> int:
        """Bytes that it takes in the queue."""
        kept = 0 if self.kept is None else len(self.kept.head) + len(self.kept.tail)
        return len(self.seen.body or b"") + kept


class Recorder:
    """Records a sample of calls. `run_once` is a pass of about a second."""

    def __init__(
        self,
        sink: Sink,
        *,
        sample: float,
        draw: Callable[[], float],
        tally: Tally,
        headers: Collection[str] = (),
    ) -> None:
        """`draw` returns numbers below 1; `headers` are names whose values are kept, too."""
        self._sink = sink
        self._sample = sample
        self._draw = draw
        self._tally = tally
        self._shown = SHOWN_HEADERS | {name.lower() for name in headers}
        self._queue: deque[Sighting] = deque()
        self._queued_bytes = 0

    def draws(self) -> bool:
        """Return whether the next call belongs to the sample."""
        return self._draw() < self._sample

    def record(self, sighting: Sighting) -> None:
        """Queue a call, or count it as dropped. Never blocks, never fails."""
        size = sighting.size
        if len(self._queue) >= QUEUE_MAX or self._queued_bytes + size > QUEUE_BYTES_MAX:
            self._tally.count("facts_dropped", reason="queue_full")
            return
        self._queue.append(sighting)
        self._queued_bytes += size

    async def run_once(self) -> int:
        """Write what is queued; return how many calls that were.

        Raises:
            StoreUnavailableError: if it cannot be written; it is dropped and counted.
        """
        written = 0
        for _ in range(-(-len(self._queue) // _CHUNK)):
            chunk = [self._queue.popleft() for _ in range(min(_CHUNK, len(self._queue)))]
            self._queued_bytes -= sum(one.size for one in chunk)
            try:
                await asyncio.to_thread(self._write, chunk)
            except StoreError:
                self._tally.count("facts_dropped", len(chunk), reason="unwritten")
                raise
            self._tally.count("facts_recorded", len(chunk))
            written += len(chunk)
        return written

    def _write(self, sightings: Sequence[Sighting]) -> None:
        self._sink.append([line_of(one, shown=self._shown) for one in sightings])


def line_of(sighting: Sighting, *, shown: Collection[str] = SHOWN_HEADERS) -> bytes:
    """Return the line of a call, a JSON object without a line break."""
    seen = sighting.seen
    facts, body = seen.facts, seen.body
    fields = _fields(body)
    known = CallFacts(
        method=facts.method,
        upstream=facts.upstream,
        path=facts.path,
        headers=(),
        now=facts.now,
        obstacle=facts.obstacle,
        body=lambda: fields,
    )
    bought = Bought() if sighting.kept is None else usage_in(sighting.kept)
    line = {
        "kind": KIND,
        "time": facts.now.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "method": facts.method[:32],
        "upstream": facts.upstream,
        "path": _text(facts.path),
        "headers": _headers(facts.headers, shown),
        "tags": dict(facts.tags or {}),
        "owner": seen.owner,
        "credential": seen.credential,
        "obstacle": facts.obstacle,
        "body_bytes": facts.body_bytes,
        "readable": fields is not None,
        "model": _text(known.model()),
        "stream": known.streams(),
        "has_tools": has_tools(known),
        "background": fields is not None and fields.get("background") is True,
        "tokens": None if body is None else estimate_tokens(body),
        "decided_by": sighting.decided_by,
        "shadow": sighting.shadow,
        "status": sighting.status,
        "duration_s": round(sighting.duration_s, 4),
        "usage": None if bought.usage is None else dict(bought.usage),
        "tier": bought.tier,
    }
    return json.dumps(line, separators=(",", ":"), ensure_ascii=True).encode()


def _fields(body: bytes | None) -> JsonObject | None:
    if body is None:
        return None
    try:
        return parse_body(body, max_bytes=len(body)).fields
    except CallerError:
        return None


def _headers(headers: RawHeaders, shown: Collection[str]) -> list[tuple[str, str | None]]:
    kept: list[tuple[str, str | None]] = []
    for raw_name, raw_value in headers[:_HEADERS_MAX]:
        name = raw_name.decode("latin-1").lower()[:64]
        kept.append((name, _text(raw_value.decode("latin-1")) if name in shown else None))
    return kept


def _text(text: str | None) -> str | None:
    if text is None:
        return None
    # Half a surrogate pair, which JSON can write and nothing reads back.
    whole = text[:_TEXT_MAX].encode("utf-8", "replace").decode()
    return str(redacted(whole))


class RecordedCall(BaseModel):
    """A line as it is read back. Unknown members are of a later version, and ignored."""

    model_config = ConfigDict(frozen=True, strict=True, defer_build=True)

    kind: Literal["offramp.call/1"]
    time: str
    method: str
    upstream: str
    path: str
    headers: list[tuple[str, str | None]]
    tags: dict[str, str]
    owner: str
    credential: str
    obstacle: str | None
    body_bytes: int | None
    readable: bool
    model: str | None
    stream: bool | None
    has_tools: bool | None
    background: bool
    tokens: int | None
    decided_by: str | None
    shadow: str | None
    status: int | None
    duration_s: float
    usage: dict[str, int] | None = None
    tier: str | None = None

    def facts(self, *, now: datetime | None = None) -> CallFacts:
        """Return the facts of the call, at its own time or at `now`.

        Its body has only the fields that were recorded, so a rule on another one does not match;
        nor is the call in a sample, which is drawn by the whole body.
        """
        body: Mapping[str, object] = {
            "model": self.model,
            "stream": self.stream,
            "background": self.background,
            "tools": [{}] if self.has_tools else [],
        }
        return CallFacts(
            method=self.method,
            upstream=self.upstream,
            path=self.path,
            headers=tuple(
                (
                    name.encode("latin-1"),
                    (NOT_RECORDED if value is None else value).encode("latin-1"),
                )
                for name, value in self.headers
            ),
            now=now or datetime.fromisoformat(self.time),
            obstacle=self.obstacle,
            tags=self.tags,
            body_bytes=self.body_bytes,
            identity=lambda: Identity(frozenset({self.owner}), frozenset({self.credential})),
            body=lambda: body if self.readable else None,
            tokens=lambda: self.tokens,
        )


def recorded_call(data: Any) -> RecordedCall | None:
    """Return what parsed JSON says of a recorded call, or nothing if it is something else.

    Raises:
        CallerError: if it says that it is one, and is not.
    """
    if not isinstance(data, dict) or "kind" not in data:
        return None
    try:
        # From its text: only there are pairs lists, while all else is strict.
        call = RecordedCall.model_validate_json(json.dumps(data))
        call.facts()
    except (ValidationError, ValueError) as exc:
        problem = exc.errors()[0] if isinstance(exc, ValidationError) else {"msg": str(exc)}
        place = ".".join(map(str, problem.get("loc", ())))
        raise CallerError(f"no recorded call: {place}: {problem['msg']}") from exc
    return call
