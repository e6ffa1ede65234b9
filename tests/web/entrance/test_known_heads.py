import json
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
from aiohttp.http import HttpVersion10, HttpVersion11
from hypothesis import event, given
from hypothesis import strategies as st

from policies.conditions import Rule
from policies.headers import NOTHING_ASKED, Asked
from policies.policy import Policy
from proxy.core.dialects import credential_hash
from proxy.core.fields import request_head
from proxy.core.job import AnswerMode
from proxy.core.routing import Route
from proxy.core.shapes import HeadWriter
from proxy.core.upstream import Upstream
from proxy.services.callers.clients import HeldKey
from proxy.telemetry.metrics import Metrics
from proxy.web.entrance.calls import Calls
from proxy.web.entrance.heads import FirstLook
from proxy.web.entrance.known_heads import KNOWN_HEADS_MAX, KnownHeads
from tests.helpers.factories import T0
from tests.helpers.fakes import FakeClock
from tests.helpers.raw_upstream import RawCaller, wait_until
from tests.web.house import CHAT, CHAT_BODY, COMPLETION, KEY, House, Reply, open_house

UPSTREAM = Upstream.parse("up", "openai", "http://there:81/base")
ROUTE = Route(UPSTREAM, "/base/v1/x?q=%41")
TARGET = "/up/v1/x?q=%41"
PLAIN = (
    (b"Host", b"here"),
    (b"Connection", b"keep-alive"),
    (b"Authorization", b"Bearer sk-canary"),
    (b"content-length", b"12"),
    (b"X-Request-ID", b"one"),
)


class Stage:
    """Known heads, and what they ask, for a test to change."""

    def __init__(self, *, annotate: bool = False) -> None:
        self.policy = Policy()
        self.repeats = SimpleNamespace(expects_any=False)
        self.accounts = SimpleNamespace(wants_news_of=lambda _caller: False)
        self.known_heads = KnownHeads(
            policy=lambda: self.policy,
            repeats=cast("Any", self.repeats),
            accounts=cast("Any", self.accounts),
            calls=Calls(metrics=Metrics(), clock=FakeClock(T0)),
            annotate=annotate,
            forward=lambda *call: cast("Any", call),
            defer=None,
        )

    def learn(self, headers: Any = PLAIN, asked: Asked = NOTHING_ASKED, **facts: Any) -> None:
        request = {
            "method": "POST",
            "version": HttpVersion11,
            "keep_alive": True,
            "raw_path": TARGET,
            "raw_headers": headers,
        }
        request |= facts
        look = FirstLook(ROUTE, T0, asked, unasked, exchange=None)
        self.known_heads.learn(cast("Any", SimpleNamespace(**request)), look)

    def sent(self, head: bytes) -> bytes | None:
        """Return the head that goes upstream, if the call takes the shortcut."""
        begun = self.begun(head)
        return None if begun is None else begun[0].template % tuple(begun[1])

    def begun(self, head: bytes) -> Any:
        """Return with what a call with that head is begun, if it takes the shortcut."""
        call = self.known_heads.find(head)
        return None if call is None else call.begin(b"", cast("Any", None))


def unasked() -> NoReturn:
    raise AssertionError("a token is hashed though that matters to nobody")


def head(headers: Any = PLAIN, target: str = TARGET) -> bytes:
    return request_head("POST", target, headers)


def with_value(name: bytes, value: bytes) -> Any:
    return tuple((one, value if one == name else was) for one, was in PLAIN)


def test_a_head_that_came_is_known_and_goes_where_it_went():
    stage = Stage()
    assert stage.known_heads.find(head()) is None
    stage.learn()

    assert stage.sent(head()) == (
        b"POST /base/v1/x?q=%41 HTTP/1.1\r\nHost: there:81\r\n"
        b"Authorization: Bearer sk-canary\r\ncontent-length: 12\r\nX-Request-ID: one\r\n\r\n"
    )
    call = stage.known_heads.find(head())
    assert call is not None
    assert call.body_bytes == 12


@pytest.mark.parametrize(
    ("name", "value"), [(b"content-length", b"34567"), (b"X-Request-ID", b"a b %s \\0")]
)
def test_values_that_differ_from_call_to_call_are_put_in(name, value):
    stage = Stage()
    stage.learn()

    assert name + b": " + value + b"\r\n" in (stage.sent(head(with_value(name, value))) or b"")


@pytest.mark.parametrize(
    "other",
    [
        head(with_value(b"Authorization", b"Bearer sk-other")),
        head(target="/up/v1/y"),
        head((*PLAIN, (b"X-Deferrable", b"true"))),
        head((*PLAIN, (b"Content-Length", b"12"))),
        head((*PLAIN, (b"Transfer-Encoding", b"chunked"))),
        head().replace(b"content-length: 12", b"content-length:  12"),
        head().replace(b"content-length: 12", b"content-length: 12 "),
        head().replace(b"content-length: 12", b"content-length: +12"),
        head().replace(b"content-length: 12", b"content-length: 1_2"),
        head().replace(b"content-length: 12", b"content-length: 12, 12"),
        head().replace(b"content-length: 12", b"content-length: " + b"1" * 5000),
        head().replace(b"one\r\n", b"one\x00\r\n"),
        head().replace(b"one\r\n", b"one\n\r\n"),
        head().replace(b"one\r\n", b"one\r\n two\r\n"),
        head().replace(b"one\r\n", b"\xc3\xa9\r\n"),
        head().replace(b"Host: here", b"Host:here"),
        head().replace(b"HTTP/1.1", b"HTTP/1.0"),
        b"\r\n" + head(),
    ],
)
def test_a_head_with_another_letter_is_not_known(other):
    stage = Stage()
    stage.learn()

    assert stage.sent(other) is None


@pytest.mark.parametrize(
    "facts",
    [
        {"method": "GET"},
        {"version": HttpVersion10},
        {"keep_alive": False},
        {"headers": PLAIN[:3]},
        {"headers": (*PLAIN[:3], (b"Transfer-Encoding", b"chunked"))},
        {"headers": (*PLAIN, (b"Expect", b"100-continue"))},
        {"headers": (*PLAIN, (b"Connection", b"x-request-id"))},
        {"headers": (*PLAIN, (b"A", b"a" * 9000))},
        {"headers": with_value(b"X-Request-ID", b"\xff")},
        {"headers": with_value(b"X-Request-ID", b"")},
        {"asked": Asked(retry_count=1)},
        {"asked": Asked(deadline=T0)},
    ],
)
def test_a_call_out_of_the_ordinary_is_not_kept(facts):
    stage = Stage()
    stage.learn(**facts)

    assert not stage.known_heads._known


names = st.sampled_from(
    [
        b"X-A",
        b"x-request-id",
        b"Connection",
        b"TE",
        b"Proxy-Authorization",
        b"Traceparent",
        b"Cookie",
    ]
)
values = st.text("ab %\\,;=", max_size=8).map(lambda text: text.strip().encode())
fields = st.lists(st.tuples(names, values), max_size=6)


@given(fields, st.integers(0, 999), st.booleans())
def test_what_passes_goes_as_it_would_on_the_usual_path(more, length, begins):
    own = ((b"Host", b"here"), (b"Content-Length", b"%d" % length))
    headers = (*own, *more) if begins else (*more, *own)
    stage = Stage()
    stage.learn(headers)

    sent = stage.sent(head(headers))

    usual, read = HeadWriter().request(
        "POST", ROUTE.upstream_target, headers, host=UPSTREAM.host_header
    )
    assert sent is None or (sent == usual and read.has_body and not read.chunked)
    event("passes" if sent else "does not")


class Ruled:
    """Rules that concern a call by a field whose value varies."""

    def __len__(self) -> int:
        return 1

    def concerns(self, *, headers: Any, path: str, upstream: str, **_: object) -> bool:
        assert (path, upstream) == ("/base/v1/x", "up")
        return (b"X-Request-ID", b"night-job") in headers

    def listed(self) -> list[Rule]:
        return []


def test_new_rules_are_asked_about_each_call():
    stage = Stage()
    stage.learn()
    stage.policy = Policy(rules=cast("Any", Ruled()), generation=1)

    assert stage.sent(head()) is not None
    assert stage.sent(head(with_value(b"X-Request-ID", b"night-job"))) is None


def test_an_answer_says_how_its_call_was_decided_where_that_is_wanted():
    for annotate in (False, True):
        stage = Stage(annotate=annotate)
        stage.learn()
        plan = stage.begun(head())[0]
        assert (plan.lines == b"X-Deferrable-Decision: forward; by=default\r\n") is (annotate)


def test_ever_new_heads_do_not_fill_the_memory():
    stage = Stage()
    for number in range(KNOWN_HEADS_MAX + 10):
        stage.learn((*PLAIN, (b"X-New", b"%d" % number)))

    assert len(stage.known_heads._known) == KNOWN_HEADS_MAX
    assert stage.sent(head((*PLAIN, (b"X-New", b"9")))) is None
    assert stage.sent(head((*PLAIN, (b"X-New", b"10")))) is not None


@pytest.mark.parametrize("defers", [False, True])
async def test_a_length_that_is_no_length_is_refused_though_its_head_is_known(defers, caplog):
    fields = f"Host: a\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    fields += "X-Deferrable: job\r\n" * defers
    known = f"POST {CHAT} HTTP/1.1\r\n{fields}Content-Length: ".encode()
    body = json.dumps(CHAT_BODY).encode()
    async with open_house(lean=True) as house, RawCaller(house.port) as caller:
        for _ in range(2):
            await caller.send(known + b"%d\r\n\r\n" % len(body) + body)
            assert b" 20" in (await caller.response()).start_line
        assert house.handled == 1

        await caller.send(known + b"9" * 5000 + b"\r\n\r\n" + body)
        refused = await caller.response()

    assert b" 400 " in refused.start_line
    assert "Traceback" not in caplog.text


# Whom it concerns that a job can be claimed, or that a credential is not proved.

OTHER = "sk-canary-other"


async def plain(house: House, key: str) -> Reply:
    return await house.send("POST", CHAT, json=CHAT_BODY, key=key)


async def is_short(house: House, sending: Awaitable[Reply]) -> bool:
    """Tell whether a call that is made only now, and forwarded, takes the shortcut."""
    usual = house.handled
    assert (await sending).json == {"up": True}
    return house.handled == usual


async def test_a_job_that_can_be_claimed_keeps_no_other_owner_from_the_shortcut():
    async with open_house(lean=True, policy=Policy(generation=1)) as house:
        for key in (KEY, OTHER):
            await plain(house, key)
        job = await house.finish(await house.diverted())

        assert await is_short(house, plain(house, OTHER))
        repeat = await plain(house, KEY)
        assert (repeat.body, repeat.headers["X-Deferrable-Job"]) == (COMPLETION, job.id)


async def test_without_rules_a_call_without_a_tag_takes_the_shortcut_whatever_can_be_claimed():
    async with open_house(lean=True) as house:
        await plain(house, KEY)
        await house.abandoned()
        # That one proves the key of the job, which the usual path notes.
        await plain(house, KEY)

        assert await is_short(house, plain(house, KEY))


async def test_heads_are_learned_though_another_owner_may_repeat_a_call():
    async with open_house(lean=True) as house:
        await house.abandoned()

        calls = [await is_short(house, plain(house, OTHER)) for _ in range(2)]

    assert calls == [False, True]


async def test_an_owner_takes_the_shortcut_again_when_nothing_can_be_claimed_any_more():
    async with open_house(lean=True, policy=Policy(generation=1)) as house:
        await plain(house, KEY)
        await house.finish(await house.diverted())
        await plain(house, KEY)
        assert not await is_short(house, plain(house, KEY))
        house.clock.advance(minutes=2)
        await house.repeats.run_once()

        assert await is_short(house, plain(house, KEY))


async def test_a_job_that_can_be_claimed_keeps_no_other_owner_from_deferring_shortly():
    async with open_house() as house:
        for key in (KEY, OTHER):
            await house.job(key=key, body={**CHAT_BODY, "user": key})
        sending = house.tasks.create_task(house.defer("wait"))
        await house.held()
        sending.cancel()
        await wait_until(lambda: house.repeats.expects_any, "the note")
        usual = house.handled

        await house.job(key=OTHER)
        assert house.handled == usual
        first, second = await house.job(), await house.job()

        assert house.handled == usual + 2
    assert (first.answer, second.answer) == (AnswerMode.WAIT, AnswerMode.JOB)


async def test_a_client_of_a_key_held_here_claims_its_job_though_its_head_is_known():
    clients = [credential_hash(KEY)]
    held = HeldKey.of("openai", "sk-canary-held", clients=clients)
    async with open_house(keys={"openai": held}) as house:
        await house.job(body={**CHAT_BODY, "user": "one"})
        sending = house.tasks.create_task(house.defer("wait"))
        await house.held()
        sending.cancel()
        await wait_until(lambda: house.repeats.expects_any, "the note")

        assert (await house.job()).answer is AnswerMode.WAIT


@pytest.mark.parametrize("why", ["unverified", "paused"])
async def test_a_credential_without_proof_keeps_no_other_from_the_shortcut(why):
    async with open_house(lean=True) as house:
        for key in (KEY, OTHER):
            await plain(house, key)
        await house.job(key=OTHER)
        if why == "paused":
            (credential,) = await house.stores.credentials.all()
            await house.stores.credentials.accepted(credential.id, at=T0)
            await house.stores.credentials.pause(credential.id, at=T0, status=401, body=b"")
            await house.accounts.run_once()
        assert house.accounts.wants_news

        assert await is_short(house, plain(house, KEY))
        assert house.accounts.wants_news
        assert not await is_short(house, plain(house, OTHER))

        assert not house.accounts.wants_news
        assert await is_short(house, plain(house, OTHER))


async def test_the_path_of_a_call_is_asked_anew_with_each_one():
    async with open_house(lean=True) as house:
        await plain(house, KEY)
        assert await is_short(house, plain(house, KEY))
        await house.job()
        assert not await is_short(house, plain(house, KEY))

        assert await is_short(house, plain(house, KEY))
