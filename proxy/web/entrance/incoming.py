"""One call on its way in: its head, its body (read once), and what rules may know of both."""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime

from aiohttp import web

from policies.headers import Asked
from policies.model import CallFacts, Identity, Once
from proxy.core.body import ParsedBody, estimate_tokens, parse_body
from proxy.core.errors import CallerError
from proxy.services.callers.owners import Caller
from proxy.services.deferral.obstacles import HeadFacts, obstacle
from proxy.services.traffic.facts import Seen
from proxy.web.bodies import read_body
from proxy.web.entrance.calls import CallRecord
from proxy.web.entrance.heads import CallHead


@dataclass(slots=True, kw_only=True)
class Call:
    """A call that goes to an upstream of ours."""

    record: CallRecord
    head: CallHead
    body: bytes | None = None
    parsed: ParsedBody | None = None

    @property
    def asked(self) -> Asked:
        """What its headers ask of us."""
        return self.head.asked

    def caller(self) -> Caller:
        """Return who sent it; a token is hashed when that is first asked."""
        return self.head.caller()

    def fingerprint(self) -> str:
        """Return what a repeat of the call has in common with it. The body must be read."""
        assert self.body is not None
        return self.head.fingerprint(self.body)

    def unnamed(self) -> str | None:
        """Return the same without the name that its caller gave the call, if it did."""
        assert self.body is not None
        return self.head.unnamed(self.body)

    def retagged(self) -> str | None:
        """Return the fingerprint that a named call would have with its tag added or taken away."""
        assert self.body is not None
        return self.head.retagged(self.body)


@dataclass(slots=True, kw_only=True)
class Incoming(Call):
    """One that is neither forwarded nor deferred yet."""

    request: web.BaseRequest
    now: datetime
    max_body_bytes: int

    def facts(self) -> CallFacts:
        """Return what rules may know before the body is read."""
        request = self.request
        return CallFacts(
            method=request.method,
            upstream=self.head.route.upstream.name,
            path=self.head.path,
            headers=request.raw_headers,
            now=self.now,
            obstacle=self._obstacle(),
            tags=self.asked.tags,
            body_bytes=request.content_length,
            identity=lambda: _identity(self.caller()),
        )

    async def with_body(self, facts: CallFacts) -> CallFacts:
        """Read and parse the body; return the facts with what it says."""
        problem = await self.read_body()
        body, parsed = self.body, self.parsed
        assert body is not None
        if parsed is None:
            return replace(facts, obstacle=problem, body_bytes=len(body))
        return replace(
            facts,
            body_bytes=len(body),
            body=lambda: parsed.fields,
            tokens=Once(lambda: estimate_tokens(body)),
            digest=Once(lambda: hashlib.sha256(f"{self.head.target}\n".encode() + body).digest()),
        )

    async def read_body(self) -> str | None:
        """Read the body, once, and parse it; return why it cannot be, if it cannot."""
        if self.body is None:
            self.body = await read_body(self.request, max_bytes=self.max_body_bytes)
            self.record.body_bytes = len(self.body)
        try:
            self.parsed = self.parsed or parse_body(self.body, max_bytes=self.max_body_bytes)
        except CallerError as error:
            return error.message
        return None

    def seen(self, facts: CallFacts) -> Seen:
        """Return the call as it is recorded."""
        caller = self.caller()
        return Seen(
            facts=facts, owner=caller.owner, credential=caller.credential.id, body=self.body
        )

    def _obstacle(self) -> str | None:
        request = self.request
        head = HeadFacts(
            method=request.method,
            upstream=self.head.route.upstream,
            endpoint=self.head.endpoint,
            content_type=request.content_type,
            content_encoding=request.headers.get("Content-Encoding", "identity"),
            length=request.content_length,
            tagged=self.asked.defers,
        )
        return obstacle(head, max_body_bytes=self.max_body_bytes)


def _identity(caller: Caller) -> Identity:
    # The plain hash is what `offramp credential hash` prints, and rules name.
    hashes = {name for name in caller.names if name.startswith("sha256:")}
    return Identity(owner=caller.names, credential=frozenset({caller.credential.id, *hashes}))
