"""Whatever comes in from outside is read, or refused in the reader's own words; nothing else.

Inputs are mangled from good ones, since bytes by chance rarely get beyond the first check.
`FUZZ_EXAMPLES` makes a long form.
"""

import json
import os
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.headers import HeaderError, read_headers
from policies.load import PolicyError, load_policies
from proxy.core.body import parse_body
from proxy.core.dialects import DIALECTS, credential_hash, place_for
from proxy.core.errors import ProxyError
from proxy.core.routing import Route, resolve
from proxy.core.upstream import Upstream
from proxy.providers import anthropic_lines, gemini_lines, result_lines
from proxy.services.callers.clients import Clients, HeldKey
from proxy.services.callers.owners import presented_tokens, token_expiry
from proxy.services.deferral.admission import admit
from proxy.services.deferral.terms import kept_headers
from proxy.services.traffic.kept import Room, kept_for, usage_in
from proxy.web.jobs_api.queries import read_bulk, read_listing, read_wait
from tests.helpers.factories import IDS, T0

HALF_A_PAIR = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""What `surrogateescape` did not make of a byte, and cannot make one of."""

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))

PIECES = [
    *(b"\x00", b"\r\n", b"\n", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b"\\", b"\\u0000"),
    *(b"\\ud800", b"{", b"}", b"[", b"]", b"[" * 300, b":", b",", b"=", b"%00", b"%2e%2e/", b"?"),
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b"9" * 5_000, b"0.0000001", b"\xd9\xa1", b"''"),
    *(b"&", b";", b"q=", b"Bearer ", b"job_", b"*", b"!!python/object", b"<<: *a", b"&a ", b"- "),
]


@st.composite
def mangled(draw: Any, samples: list[bytes]) -> bytes:
    """Return a sample in which some places were cut out, doubled or written over."""
    data: bytes = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        middle = draw(
            st.one_of(st.sampled_from(PIECES), st.binary(max_size=4), st.just(data[start:end] * 2))
        )
        data = data[:start] + middle + data[end:]
    return data


@dataclass(frozen=True)
class Reader:
    read: Any
    samples: list[bytes]
    refusals: tuple[type[Exception], ...] = ()


UPSTREAMS = {
    name: Upstream.parse(name, name, f"https://{name}.example")
    for name in ("openai", "anthropic", "gemini", "azure")
}
CLIENTS = Clients({"openai": HeldKey.of("openai", "sk", clients=[credential_hash("of-1")])})


def call_head(data: bytes) -> None:
    """Read a target and header fields as the front does, a line each."""
    first, *lines = data.split(b"\n")
    target = first.decode("utf-8", "surrogateescape")
    headers = tuple((name, value) for name, _, value in (line.partition(b": ") for line in lines))
    read_headers(headers, now=T0)
    for token in presented_tokens(headers, target):
        token_expiry(token)
    route = resolve(target, headers, UPSTREAMS)
    if isinstance(route, Route):
        dialect = DIALECTS[route.upstream.dialect]
        kept_headers(dialect, headers)
        place_for(dialect, route.upstream.path_of(route.upstream_target))
        CLIENTS.admit("POST", headers, route)


def call_body(data: bytes) -> None:
    parsed = parse_body(data, max_bytes=1 << 20)
    for dialect in DIALECTS.values():
        for endpoint in dialect.endpoints:
            place = place_for(dialect, endpoint)
            if place is not None:
                admit(parsed, place, max_line_bytes=1 << 20)


def passing_answer(data: bytes) -> None:
    for encoding in ("", "gzip", "zstd", "deflate"):
        for framed in (False, True):
            fields = {"content-type": "application/json", "content-encoding": encoding}
            kept = kept_for(fields, framed=framed, room=Room())
            assert kept is not None
            kept.add(data)
            usage_in(kept)


def lines_of(read: Any) -> Any:
    def cut(data: bytes) -> None:
        cutter = result_lines.LineCutter(read)
        for start in range(0, len(data), 97):
            cutter.feed(data[start : start + 97])
        cutter.end()

    return cut


def inline(data: bytes) -> None:
    cutter = gemini_lines.inline_cutter()
    for start in range(0, len(data), 97):
        cutter.feed(data[start : start + 97])
    cutter.end()


def json_lines(*values: object) -> list[bytes]:
    return [b"\n".join(json.dumps(value).encode() for value in values)]


BODY = {"choices": [{"message": {"content": 'h\u00e9 "q"'}}], "usage": {"prompt_tokens": 3}}
CHAT = {"model": "m", "messages": [{"role": "user", "content": ["a", {"b": None}]}], "stream": True}
HEAD = b"\n".join(
    [
        b"/openai/v1/chat/completions?key=k&a=b",
        b"X-Deferrable: job",
        b"X-Deferrable-Deadline: 2026-01-01T12:00:00+01:00",
        b"X-Deferrable-Tags: team=etl, run=42",
        b"X-Deferrable-Run: evals; session=1",
        b'Prefer: respond-async, wait=20; foo="bar"',
        b"Authorization: Bearer eyJhbGciOiJub25lIn0.eyJleHAiOjE4OTM0NTYwMDB9.x",
        b"Idempotency-Key: k",
        b"x-stainless-retry-count: 1",
        b"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.of-1",
    ]
)
RULES = b"""rules:
  - name: etl
    when: {headers: {user-agent: "*etl*"}, time: {between: "20:00-06:00", zone: Europe/Berlin}}
    then: {defer: {deadline: 6h, answer: wait}}
    sample: 25%
tests:
  - name: a
    call: {method: POST, path: /v1/chat/completions, upstream: openai}
    expect: {decision: interactive}
"""

READERS = {
    "the head of a call": Reader(
        call_head,
        [HEAD, HEAD.replace(b"6h", b"2d"), b"/v1beta/models/g:generateContent\nx-goog-api-key: k"],
        (HeaderError, ProxyError),
    ),
    "the body of a call": Reader(
        call_body, json_lines(CHAT) + json_lines({"model": "m", "input": ["a"]}), (ProxyError,)
    ),
    "a rule file": Reader(
        lambda data: load_policies(data.decode("utf-8", "replace"), "f"), [RULES], (PolicyError,)
    ),
    "a listing": Reader(
        lambda data: read_listing(data.decode("utf-8", "surrogateescape")),
        [f"/v1/jobs?status=queued,failed&tag=a%3Db&limit=3&after={IDS.job()}".encode()],
        (ProxyError,),
    ),
    "a wait": Reader(
        lambda data: read_wait(data.decode("utf-8", "surrogateescape")),
        [b"/x?wait=60"],
        (ProxyError,),
    ),
    "a question for results": Reader(
        read_bulk,
        json_lines({"ids": [IDS.job()]}) + json_lines({"tag": "a=b", "status": ["queued"]}),
        (ProxyError,),
    ),
    "results of OpenAI": Reader(
        lines_of(result_lines.result_line),
        json_lines(
            {
                "id": "x",
                "custom_id": "a",
                "response": {"status_code": 200, "body": BODY},
                "error": None,
            },
            {"custom_id": "b", "response": None, "error": {"code": "batch_expired"}},
        ),
    ),
    "results of Anthropic": Reader(
        lines_of(anthropic_lines.result_line),
        json_lines(
            {"custom_id": "a", "result": {"type": "succeeded", "message": BODY}},
            {"custom_id": "b", "result": {"type": "errored", "error": {"error": {"type": "x"}}}},
        ),
    ),
    "results of Gemini": Reader(
        lines_of(gemini_lines.result_line),
        json_lines({"key": "a", "response": BODY}, {"key": "b", "error": {"code": 5}}),
    ),
    "results of Gemini in line": Reader(
        inline,
        json_lines(
            {"response": {"inlinedResponses": {"inlinedResponses": [{"response": BODY}, {}]}}}
        ),
    ),
    "an answer that passes": Reader(
        passing_answer,
        [json.dumps(BODY).encode(), b"5\r\n" + json.dumps(BODY).encode() + b"\r\n0\r\n\r\n"],
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_mangled_input_is_read_or_refused(name):
    reader = READERS[name]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mangled(reader.samples))
    def run(data: bytes) -> None:
        told = ""
        try:
            reader.read(data)
        except reader.refusals as refusal:
            told = str(refusal)
        # It goes into a log line and a JSON answer. Not raised where it was refused: the report
        # would hold what no process can be told.
        assert not HALF_A_PAIR.search(told), ascii(told)

    run()
