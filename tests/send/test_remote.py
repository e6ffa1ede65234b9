"""A proxy that is busy or away is asked again; one that refuses everything is not."""

import json
import ssl
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from proxy.send.errors import SendError
from proxy.send.lines import CHAT, Line
from proxy.send.remote import Refusal, Remote, message_of
from tests.helpers.certificates import write_certificate
from tests.helpers.ports import free_port

LINE = Line(1, CHAT, b'{"model":"m"}', None, "0" * 16)
RENAMED = [
    Line(3, "/claude-eu/v1/messages", b"{}", None, "0" * 16),
    Line(4, "/gem-eu/v1beta/models/g:generateContent", b"{}", None, "0" * 16),
    Line(5, "/eu/v1/chat/completions", b"{}", None, "0" * 16),
    Line(6, "/azure/openai/v1/chat/completions", b"{}", None, "0" * 16),
]
LETTER = Line(2, "/v1/messages", b"{}", None, "0" * 16)
KEYS = {"openai": "sk-1", "anthropic": "sk-ant-2"}


class Desk:
    """Answers with what is prepared, and keeps what it was asked."""

    def __init__(self):
        self.answers = []
        self.pauses = []
        self.requests = []
        self.troubles = []

    async def handle(self, request):
        self.requests.append((request.path, dict(request.headers), await request.read()))
        status, headers, body = self.answers.pop(0)
        return web.Response(status=status, headers=headers, body=body)

    async def sleep(self, seconds):
        self.pauses.append(seconds)

    @asynccontextmanager
    async def open(self, *, keys=KEYS, dialects=None, certificate=None, **headers):
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(application)
        self.leave = runner.cleanup
        await runner.setup()
        secured = None
        if certificate is not None:
            secured = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            secured.load_cert_chain(certificate)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=secured).start()
        self.port = runner.addresses[0][1]
        try:
            async with aiohttp.ClientSession() as session:
                url = f"http{'s' if secured else ''}://127.0.0.1:{self.port}/"
                yield Remote(
                    session,
                    url,
                    keys=keys,
                    headers=headers,
                    dialects=dialects,
                    sleep=self.sleep,
                    on_trouble=self.troubles.append,
                )
        finally:
            await runner.cleanup()


@pytest.fixture
def desk():
    return Desk()


async def test_a_call_is_sent_as_a_job_under_its_key_and_with_its_providers_credential(desk):
    desk.answers = [(202, {"X-Deferrable-Job": "job_1"}, b"{}")] * 2
    async with desk.open(**{"X-Deferrable-Deadline": "6h"}) as remote:
        assert await remote.defer(LINE, "k1") == "job_1"
        assert await remote.defer(LETTER, "k2") == "job_1"

    (path, first, body), (_, second, _) = desk.requests
    assert (path, body) == (CHAT, LINE.body)
    assert (first["X-Deferrable"], first["X-Deferrable-Deadline"]) == ("job", "6h")
    assert (first["Idempotency-Key"], first["Authorization"]) == ("k1", "Bearer sk-1")
    assert (second["x-api-key"], "Authorization" in second) == ("sk-ant-2", False)


@pytest.mark.parametrize(
    ("dialects", "headers"),
    [
        ({}, ["x-api-key", "x-goog-api-key", "Authorization", "api-key"]),
        (
            {"eu": "azure", "claude-eu": "openai-compatible", "azure": "anthropic"},
            ["Authorization", "x-goog-api-key", "api-key", "x-api-key"],
        ),
    ],
)
async def test_an_upstream_of_any_name_gets_the_credential_of_its_dialect(desk, dialects, headers):
    desk.answers = [(202, {"X-Deferrable-Job": "job_1"}, b"{}")] * len(RENAMED)
    keys = {line.provider: f"key-{line.number}" for line in RENAMED}
    async with desk.open(keys=keys, dialects=dialects) as remote:
        for line in RENAMED:
            await remote.defer(line, "k")

    for line, wanted, (_, sent, _) in zip(RENAMED, headers, desk.requests, strict=True):
        assert sent[wanted].endswith(f"key-{line.number}")
        assert sum(f"key-{line.number}" in value for value in sent.values()) == 1
        assert ("anthropic-version" in sent) == (wanted == "x-api-key")


@pytest.mark.parametrize("dialects", [{}, {"gemini": "gemini", "gem-eu": "gemini"}])
@pytest.mark.parametrize("prefix", ["", "/gemini", "/gem-eu"])
async def test_geminis_openai_api_gets_a_bearer_whichever_upstream_leads_there(
    desk, prefix, dialects
):
    line = Line(1, f"{prefix}/v1beta/openai/chat/completions", b"{}", None, "0" * 16)
    desk.answers = [(202, {"X-Deferrable-Job": "job_1"}, b"{}")]
    async with desk.open(keys={line.provider: "AIza-1"}, dialects=dialects) as remote:
        await remote.defer(line, "k")

    ((_, sent, _),) = desk.requests
    assert sent["Authorization"] == "Bearer AIza-1"
    assert "x-goog-api-key" not in sent


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_what_is_only_busy_is_sent_again(desk, status):
    busy = (status, {"Retry-After": "0"}, b"{}")
    desk.answers = [busy, busy, (200, {"X-Deferrable-Job": "job_1"}, b"{}")]
    async with desk.open() as remote:
        assert await remote.defer(LINE, "k") == "job_1"

    assert {headers["Idempotency-Key"] for _, headers, _ in desk.requests} == {"k"}
    assert desk.troubles == []


async def test_what_does_not_pass_is_told_while_it_lasts_and_waited_for_no_longer_than_helps(desk):
    desk.answers = [(503, {}, b'{"error": {"message": "full"}}')] * 10
    async with desk.open() as remote:
        with pytest.raises(SendError, match=r"no answer from .*: HTTP 503: full"):
            await remote.defer(LINE, "k")

    assert len(desk.requests) == 10
    # Between the tries, and not behind the last one.
    assert desk.pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30]
    (trouble,) = set(desk.troubles)
    assert trouble.endswith(" yet: HTTP 503: full")


FOUND = (202, {"X-Deferrable-Job": "job_1"}, b"{}")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_proxy_that_has_answered_may_be_away_for_most_of_an_hour(desk, status):
    desk.answers = [FOUND, *[(status, {}, b"{}")] * 129, FOUND]
    async with desk.open() as remote:
        await remote.defer(LINE, "k1")
        assert await remote.defer(LINE, "k2") == "job_1"

    assert 3000 < sum(desk.pauses) < 3700
    assert len(set(desk.troubles)) == 1


async def test_a_proxy_that_has_answered_and_went_for_good_is_given_up_after_an_hour(desk):
    desk.answers = [FOUND]
    async with desk.open() as remote:
        await remote.defer(LINE, "k1")
        await desk.leave()
        with pytest.raises(SendError, match="no answer from"):
            await remote.defer(LINE, "k2")

    assert 3000 < sum(desk.pauses) < 3700


async def test_a_call_at_which_a_known_proxy_fails_is_waited_for_no_longer_than_helps(desk):
    desk.answers = [FOUND, *[(500, {}, b"{}")] * 10]
    async with desk.open() as remote:
        await remote.defer(LINE, "k1")
        with pytest.raises(SendError, match="HTTP 500"):
            await remote.defer(LINE, "k2")

    assert len(desk.requests) == 11


async def test_a_proxy_that_does_not_run_is_told_in_the_words_of_the_system(desk):
    url = f"http://127.0.0.1:{free_port()}"
    async with aiohttp.ClientSession() as session:
        hooks = {"sleep": desk.sleep, "on_trouble": desk.troubles.append}
        remote = Remote(session, url, keys=KEYS, headers={}, **hooks)
        with pytest.raises(SendError) as failed:
            await remote.defer(LINE, "k")

    assert str(failed.value) == f"no answer from {url}: Connection refused"
    assert set(desk.troubles) == {f"no answer from {url} yet: Connection refused"}


async def test_a_certificate_that_is_not_trusted_is_told_at_once(desk, tmp_path):
    certificate = write_certificate(tmp_path / "own.pem")
    async with desk.open(certificate=certificate) as remote:
        with pytest.raises(SendError, match="CERTIFICATE_VERIFY_FAILED"):
            await remote.defer(LINE, "k")

    assert desk.pauses == []


@pytest.mark.parametrize(
    ("status", "headers", "body", "pauses"),
    [
        (200, {}, b'{"status": "completed"}', []),
        (200, {}, b'{"status": "in_progress"}', [1]),
        (429, {"Retry-After": "5"}, b"{}", [5]),
        (429, {"Retry-After": "0"}, b"{}", [1]),
        (503, {"Retry-After": "3600"}, b"away", [30]),
        (503, {}, b'{"status": "completed"}', [1]),
        (200, {}, b"<html>", [1]),
    ],
)
async def test_who_waits_asks_no_sooner_than_it_is_told_to(desk, status, headers, body, pauses):
    desk.answers = [(status, headers, body)]
    async with desk.open() as remote:
        await remote.wait("openai", "job_1", for_s=30)

    assert desk.pauses == pauses
    assert desk.requests[0][0] == "/v1/jobs/job_1"


async def test_a_proxy_that_is_away_is_asked_again_after_a_second(desk):
    async with aiohttp.ClientSession() as session:
        remote = Remote(session, "http://127.0.0.1:1", keys=KEYS, headers={}, sleep=desk.sleep)
        await remote.wait("openai", "job_1", for_s=30)

    assert desk.pauses == [1]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"error": {"message": "no"}}'),
        (404, b'{"error": {"message": "no such model"}}'),
        (413, b"too large"),
    ],
)
async def test_a_line_that_is_refused_keeps_the_refusal(desk, status, body):
    desk.answers = [(status, {}, body)]
    async with desk.open() as remote:
        assert await remote.defer(LINE, "k") == Refusal(status, body)


@pytest.mark.parametrize("status", [401, 403, 421])
async def test_a_refusal_that_would_meet_every_line_ends_it(desk, status):
    desk.answers = [(status, {}, b'{"error": {"message": "bad key"}}')]
    async with desk.open() as remote:
        with pytest.raises(SendError, match=r"openai: HTTP \d+: bad key"):
            await remote.defer(LINE, "k")

    assert len(desk.requests) == 1


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (404, b"default backend")])
async def test_something_else_that_listens_there_is_no_proxy(desk, status, body):
    desk.answers = [(status, {}, body)]
    async with desk.open() as remote:
        with pytest.raises(SendError, match="is this an offramp"):
            await remote.defer(LINE, "k")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}"])
async def test_what_are_no_results_come_from_no_proxy(desk, body):
    desk.answers = [(200, {}, body)]
    async with desk.open() as remote:
        with pytest.raises(SendError, match="is this an offramp"):
            await remote.results("openai", ["job_1"])


async def test_a_proxy_shows_that_it_collects_answers_before_it_is_given_calls(desk):
    nobody = {"id": "job_of_nobody", "status": None}
    desk.answers = [(200, {}, json.dumps(nobody).encode() + b"\n")]
    async with desk.open() as remote:
        await remote.meet("anthropic")

    ((path, headers, body),) = desk.requests
    assert path == "/v1/jobs/results"
    assert headers["x-api-key"] == "sk-ant-2"
    assert json.loads(body) == {"ids": ["job_of_nobody"]}


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, b'{"error": {"message": "Invalid URL"}}', "is this an offramp"),
        (200, b'{"id": "something else"}', "is this an offramp"),
        (401, b'{"error": {"message": "no such client"}}', "openai: HTTP 401: no such client"),
    ],
)
async def test_who_collects_no_answers_is_given_no_call(desk, status, body, words):
    desk.answers = [(status, {}, body)]
    async with desk.open() as remote:
        with pytest.raises(SendError, match=words):
            await remote.meet("openai")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_key_goes_where_a_redirect_points(desk, status):
    async with desk.open() as remote:
        elsewhere = {"Location": f"http://localhost:{desk.port}/elsewhere"}
        desk.answers = [(status, elsewhere, b"")] * 3
        for send in (remote.defer(LETTER, "k"), remote.results("anthropic", ["job_1"])):
            with pytest.raises(SendError, match=f"HTTP {status}"):
                await send
        await remote.wait("anthropic", "job_1", for_s=30)

    paths = [path for path, _, _ in desk.requests]
    assert paths == ["/v1/messages", "/v1/jobs/results", "/v1/jobs/job_1"]


async def test_results_tell_pending_failed_and_forgotten_jobs_apart(desk):
    lines = [
        {"id": "a", "status": "completed", "response": {"status_code": 200, "body": {}}},
        {"id": "b", "status": "in_progress", "response": None, "error": None},
        {
            "id": "c",
            "status": "failed",
            "response": {"status_code": 400, "body": {"error": {"message": "no"}}},
        },
        {"id": "d", "status": "expired", "response": None, "error": {"message": "too\x07late"}},
        {"id": "e", "status": None, "response": None, "error": {"message": "unknown"}},
        {"id": "f", "status": "completed", "response": None, "error": {"message": "unreadable"}},
    ]
    body = "\n".join(map(json.dumps, lines)).encode() + b"\n"
    desk.answers = [(200, {}, body), (200, {}, body)]
    async with desk.open() as remote:
        found = await remote.results("openai", list("abcdef"))
        with pytest.raises(SendError, match="asked for 4 results, got 6"):
            await remote.results("openai", list("abcd"))

    assert [one.is_pending for one in found] == [False, True, False, False, False, False]
    assert [one.is_lost for one in found] == [False, False, False, False, True, True]
    assert [one.status_code for one in found] == [200, None, 400, None, None, None]
    assert [one.message for one in found] == [None, None, "no", "too late", "unknown", "unreadable"]
    assert found[4].status is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "a\\nb"}}', "a b"),
        (b'[{"error": {"message": "a list"}}]', "a list"),
        (b"plain \x1b[31m", "plain  [31m"),
        (b'{"error": "x"}', '{"error": "x"}'),
    ],
)
def test_a_message_is_one_line_that_no_terminal_obeys(body, message):
    assert message_of(body) == message
