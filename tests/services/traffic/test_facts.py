"""Recorded facts: enough to try rules on, never a prompt or a key, never on a call's path."""

import json
import threading
from typing import Any

import pytest

from policies.load import load_policies
from policies.model import CallFacts
from policies.policy import Policy
from proxy.core.errors import CallerError, StoreUnavailableError
from proxy.services.traffic import facts as facts_module
from proxy.services.traffic.facts import (
    NOT_RECORDED,
    Recorder,
    Seen,
    Sighting,
    line_of,
    recorded_call,
)
from proxy.services.traffic.replay import Scene, tell_facts
from proxy.telemetry import Metrics
from tests.helpers.factories import T0
from tests.policies.facts import raw
from tests.web.house import CHAT, CHAT_BODY, KEY, open_house

SECRET = "sk-canary-0123456789"
BODY = json.dumps(
    {"model": "gpt-5", "messages": [{"role": "user", "content": "canary prompt"}], "tools": [{}]}
).encode()


def sighting(body=BODY, **differences):
    headers = {
        "User-Agent": f"etl/1 {SECRET}",
        "Authorization": f"Bearer {SECRET}",
        "X-Job": "canary job",
    }
    facts: dict[str, Any] = {
        "method": "POST",
        "upstream": "openai",
        "path": CHAT,
        "headers": raw(headers),
        "now": T0,
        "obstacle": None,
        "tags": {"team": "etl"},
        "body_bytes": len(body or b""),
    } | differences
    return Sighting(
        seen=Seen(facts=CallFacts(**facts), owner="owner-1", credential="cred-1", body=body),
        decided_by="default",
        shadow=None,
        status=200,
        duration_s=0.12342,
    )


class Sink:
    """Keeps lines, and the thread that brought them."""

    def __init__(self, failure=None):
        self.lines = []
        self.threads = set()
        self.failure = failure

    def append(self, lines):
        self.threads.add(threading.current_thread())
        if self.failure is not None:
            raise self.failure
        self.lines += [json.loads(line) for line in lines]


@pytest.fixture
def metrics():
    return Metrics(strict=True)


def read(line):
    call = recorded_call(json.loads(line))
    assert call is not None
    return call


def recorder(sink, metrics, **options):
    usual: dict[str, Any] = {"sample": 1.0, "draw": lambda: 0.5}
    return Recorder(sink, tally=metrics, **(usual | options))


def test_a_line_says_what_rules_ask_and_neither_prompt_nor_key():
    line = line_of(sighting())

    assert b"canary" not in line
    assert b"\n" not in line
    written = json.loads(line)
    assert written["headers"] == [
        ["user-agent", "etl/1 ***"],
        ["authorization", None],
        ["x-job", None],
    ]
    assert (written["model"], written["stream"], written["has_tools"]) == ("gpt-5", False, True)
    assert (written["body_bytes"], written["tokens"]) == (len(BODY), -(-len(BODY) // 4))
    assert (written["owner"], written["credential"]) == ("owner-1", "cred-1")
    assert (written["time"], written["duration_s"]) == ("2026-11-23T12:00:00Z", 0.1234)
    assert (written["status"], written["decided_by"]) == (200, "default")


def test_the_value_of_a_header_is_kept_if_the_operator_names_it():
    line = json.loads(line_of(sighting(), shown={"x-job"}))

    assert line["headers"][2] == ["x-job", "canary job"]


@pytest.mark.parametrize("body", [None, b"no json", b"[1]"])
def test_of_an_unreadable_body_nothing_is_known(body):
    line = json.loads(line_of(sighting(body)))

    assert (line["readable"], line["model"], line["stream"]) == (False, None, None)


def test_what_callers_make_long_is_cut():
    headers = raw({f"x-{n}": "v" for n in range(500)} | {"user-agent": "u" * 9000})
    line = line_of(sighting(path="/v1/" + "x" * 9000, headers=headers))

    assert len(line) < 8_000


def test_a_line_that_is_read_back_is_the_call_as_far_as_rules_can_tell():
    call = read(line_of(sighting()))

    facts = call.facts()
    assert (facts.method, facts.upstream, facts.path, facts.now) == ("POST", "openai", CHAT, T0)
    assert facts.header(b"x-job") == [NOT_RECORDED.encode()]
    assert facts.header(b"user-agent") == [b"etl/1 ***"]
    assert (facts.model(), facts.streams(), facts.bar()) == ("gpt-5", False, None)
    assert (facts.tags, facts.tokens()) == ({"team": "etl"}, -(-len(BODY) // 4))
    assert facts.identity().owner == {"owner-1"}
    later = T0.replace(hour=22)
    assert call.facts(now=later).now == later


@pytest.mark.parametrize("name", ["half-\ud83d", "\udfff", "a" * 511 + "\U0001f600"])
def test_a_name_with_half_a_surrogate_pair_can_be_read_back(name):
    body = json.dumps({"model": name, "messages": []}).encode()

    call = recorded_call(json.loads(line_of(sighting(body, path=f"/v1/{name}"))))

    assert call is not None
    assert call.model == name.encode("utf-8", "replace").decode()


def test_what_is_no_recorded_call_is_told_apart_from_one_that_is_broken():
    assert recorded_call({"path": "/v1"}) is None
    assert recorded_call([]) is None
    good = json.loads(line_of(sighting()))
    for broken in ({"kind": "offramp.call/2"}, {"kind": good["kind"]}, {**good, "time": "noon"}):
        with pytest.raises(CallerError, match="no recorded call"):
            recorded_call(broken)
    assert recorded_call({**good, "added": "later"}) is not None


async def test_lines_are_written_by_a_pass_in_a_thread(metrics):
    sink = Sink()
    recording = recorder(sink, metrics)
    for _ in range(3):
        recording.record(sighting())
    assert sink.lines == []

    assert await recording.run_once() == 3
    assert await recording.run_once() == 0

    assert len(sink.lines) == 3
    assert threading.main_thread() not in sink.threads
    assert metrics.value("facts_recorded") == 3


async def test_a_full_queue_drops_and_counts(metrics, monkeypatch):
    monkeypatch.setattr(facts_module, "QUEUE_MAX", 2)
    sink = Sink()
    recording = recorder(sink, metrics)
    for _ in range(5):
        recording.record(sighting())

    assert await recording.run_once() == 2
    assert metrics.value("facts_dropped", reason="queue_full") == 3
    recording.record(sighting())
    assert await recording.run_once() == 1


async def test_bodies_that_wait_are_bounded_by_their_bytes(metrics, monkeypatch):
    monkeypatch.setattr(facts_module, "QUEUE_BYTES_MAX", 2 * len(BODY))
    recording = recorder(Sink(), metrics)
    for _ in range(3):
        recording.record(sighting())

    assert await recording.run_once() == 2
    recording.record(sighting())
    assert metrics.value("facts_dropped", reason="queue_full") == 1


async def test_what_cannot_be_written_is_dropped_counted_and_no_burden(metrics):
    sink = Sink(StoreUnavailableError("the disk is full"))
    recording = recorder(sink, metrics)
    recording.record(sighting())

    with pytest.raises(StoreUnavailableError):
        await recording.run_once()
    sink.failure = None

    assert await recording.run_once() == 0
    assert metrics.value("facts_dropped", reason="unwritten") == 1


def test_a_sample_is_drawn(metrics):
    drawn = iter([0.1, 0.24, 0.25, 0.9])
    recording = recorder(Sink(), metrics, sample=0.25, draw=lambda: next(drawn))

    assert [recording.draws() for _ in range(4)] == [True, True, False, False]


# At the front.


async def test_every_way_to_end_a_call_is_recorded_once(metrics):
    sink = Sink()
    recording = recorder(sink, metrics)
    rules = load_policies(
        "rules: [{name: r, when: {path: /v1/x}, then: {reject: {message: m}}}]", "p"
    )
    async with open_house(policy=Policy(rules.rules), facts=recording) as house:
        await house.send("POST", CHAT, json=CHAT_BODY)
        await house.defer()
        await house.send("POST", "/v1/x", json={})
        await house.send("POST", "/v1/files", data=b"x" * 100_000)
        upload = house.seen[-1]
        await recording.run_once()

    assert [(line["path"], line["status"], line["decided_by"]) for line in sink.lines] == [
        (CHAT, 200, "default"),
        (CHAT, 202, "header:x-deferrable"),
        ("/v1/x", 403, "rule:r"),
        ("/v1/files", 200, "default"),
    ]
    models = [line["model"] for line in sink.lines]
    assert models == [CHAT_BODY["model"], CHAT_BODY["model"], None, None]
    assert len(upload.body) == 100_000
    assert "canary" not in json.dumps(sink.lines)
    assert KEY not in json.dumps(sink.lines)


async def test_a_recorded_call_is_forwarded_with_its_own_bytes_and_others_stay_unread(metrics):
    drawn = iter([0.0, 0.9])
    recording = recorder(Sink(), metrics, sample=0.5, draw=lambda: next(drawn))
    raw_body = b' {"model" :"m"} '
    async with open_house(facts=recording) as house:
        for _ in range(2):
            await house.send(
                "POST", CHAT, data=raw_body, headers={"Content-Type": "application/json"}
            )
        written = await recording.run_once()

    assert [seen.body for seen in house.seen] == [raw_body, raw_body]
    assert written == 1


async def test_a_rule_says_the_same_to_a_call_and_to_its_recorded_facts(metrics):
    text = (
        "rules: [{name: r, when: {headers: {user-agent: 'etl*'}, tokens: {min: 5}}, then: defer}]"
    )
    rules = load_policies(text, "p").rules
    sink = Sink()
    recording = recorder(sink, metrics)
    async with open_house(facts=recording) as house:
        for agent in ("etl/1", "web/1"):
            await house.send("POST", CHAT, json=CHAT_BODY, headers={"User-Agent": agent})
        await recording.run_once()

    scene = Scene(upstreams={}, max_body_bytes=1)
    told = [tell_facts(rules, read(json.dumps(line)).facts(), scene) for line in sink.lines]

    assert [one.decision.decided_by for one in told] == ["rule:r", "default"]


async def test_the_usage_of_an_answer_is_recorded_and_its_text_is_not(metrics):
    sink = Sink()
    recording = recorder(sink, metrics)
    answer = json.dumps(
        {
            "choices": [{"message": {"content": "canary answer"}}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 5},
            "service_tier": "default",
        }
    ).encode()
    async with open_house(facts=recording) as house:
        house.upstream_body = answer
        reply = await house.send("POST", CHAT, json=CHAT_BODY)
        house.upstream_status = 500
        await house.send("POST", CHAT, json=CHAT_BODY)
        await recording.run_once()

    assert reply.body == answer
    first, failed = sink.lines
    assert (first["usage"], first["tier"]) == (
        {"prompt_tokens": 12, "completion_tokens": 5},
        "default",
    )
    assert (failed["usage"], failed["tier"]) == (None, None)
    assert "canary" not in json.dumps(sink.lines)
    call = read(json.dumps(first))
    assert (call.usage, call.tier) == (first["usage"], "default")
