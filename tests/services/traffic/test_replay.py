"""What is said of a described call is what happens to it."""

import json

import pytest
from structlog.testing import capture_logs

from policies.cases import written_body
from policies.load import load_policies
from policies.policy import Policy
from proxy.core.dialects import credential_hash
from proxy.core.upstream import Upstream
from proxy.services.traffic.replay import Scene, read_call, tell
from tests.helpers.factories import T0
from tests.web.house import KEY, MAX_BODY, open_house

OWNER = credential_hash(KEY)
RULES = f"""
rules:
  - {{name: web, when: {{headers: {{x-user-facing: "*"}}}}, then: interactive}}
  - {{name: mine, when: {{owner: "{OWNER}", path: /v1/embeddings}}, then: interactive}}
  - {{name: quarter, when: {{model: sampled}}, then: interactive, sample: 50%}}
  - {{name: attached, when: {{tokens: {{min: 900}}}}, then: interactive}}
  - {{name: long, when: {{tokens: {{min: 40}}}}, then: interactive}}
  - {{name: everything, then: defer, mode: shadow}}
"""
SCENE = Scene(
    upstreams={
        "openai": Upstream.parse("openai", "openai", "https://api.openai.com"),
        "anthropic": Upstream.parse("anthropic", "anthropic", "https://api.anthropic.com"),
        "based": Upstream.parse("based", "openai", "https://x.example/serving/v1"),
    },
    max_body_bytes=MAX_BODY,
)
CHAT = "/v1/chat/completions"


def chat(**fields):
    return {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}


CALLS = [
    {"path": CHAT, "body": chat()},
    {"path": CHAT, "body": chat(), "headers": {"X-User-Facing": "1"}},
    {"path": CHAT, "body": chat(stream=True)},
    {"path": CHAT, "body": chat(n="é" * 90)},
    # Base64, whose tokens have nothing to do with its length.
    {"path": CHAT, "body": chat(n="A" * 2_000)},
    {"path": CHAT, "body": chat(n="x" * MAX_BODY)},
    {"path": CHAT, "body": chat(), "headers": {"Content-Type": "text/plain"}},
    {"path": CHAT, "body": chat(), "headers": {"X-Deferrable": "false"}},
    {"path": CHAT, "body": [1]},
    {"path": "/openai/v1/embeddings", "body": {"model": "m", "input": "x"}},
    {"path": "/based/chat/completions", "body": chat()},
    {"path": "/v1/responses", "body": {"model": "m", "input": "x", "background": True}},
    {"path": "/v1/responses?include=a", "body": {"model": "m", "input": "x"}},
    {"path": "/v1/audio/speech", "body": {"model": "m"}},
    {"path": "/anthropic/v1/messages", "body": chat()},
    *({"path": CHAT, "body": chat(model="sampled", seed=seed)} for seed in range(8)),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: json.dumps(call)[:60])
async def test_an_explanation_agrees_with_live_traffic(call):
    rules = load_policies(RULES, "p.yaml").rules
    # Anthropic takes its key by another name.
    key = {"x-api-key": KEY} if "anthropic" in call["path"] else {"Authorization": f"Bearer {KEY}"}
    headers = {"Content-Type": "application/json", **key, **call.get("headers", {})}
    described = read_call(json.dumps({**call, "headers": headers}), "call.json", SCENE)
    told = tell(rules, described, SCENE, now=T0)

    async with open_house(policy=Policy(rules)) as house:
        body = written_body(call["body"])
        with capture_logs() as logs:
            await house.send("POST", call["path"], key=None, headers=headers, data=body)

    (line,) = [line for line in logs if line["event"] == "call.forwarded"]
    shadow = told.decision.shadow
    assert line["decided_by"] == told.decision.decided_by
    assert line.get("shadow") == (f"defer by {shadow.decided_by}" if shadow else None)


def test_the_calls_of_that_comparison_are_decided_in_many_ways():
    rules = load_policies(RULES, "p.yaml").rules
    headers = {"Authorization": f"Bearer {KEY}"}
    told = [
        tell(
            rules,
            read_call(json.dumps({**c, "headers": headers | c.get("headers", {})}), "c", SCENE),
            SCENE,
            now=T0,
        ).decision
        for c in CALLS
    ]

    deciders = {one.decided_by for one in told}
    assert deciders >= {
        "default",
        "rule:web",
        "rule:mine",
        "rule:quarter",
        "rule:long",
        "rule:attached",
    }
    assert {one.shadow is None for one in told if one.decided_by == "default"} == {True, False}


def test_a_call_without_a_key_goes_to_openai_and_others_where_they_show():
    def place(**call):
        read = read_call(json.dumps(call), "call.json", SCENE)
        return read.upstream, read.path

    assert place(path="/v1/x?y=1") == ("openai", "/v1/x")
    assert place(path="/anthropic/v1/x") == ("anthropic", "/v1/x")
    assert place(path="/x", upstream="based") == ("based", "/x")
    assert place(path="/v1/x", headers={"anthropic-version": "1"}) == ("anthropic", "/v1/x")


def test_a_body_may_be_the_text_that_was_captured():
    read = read_call(json.dumps({"body": json.dumps(chat())}), "call.json", SCENE)
    odd = read_call(json.dumps({"body": "no json"}), "call.json", SCENE)

    assert read.body == chat()
    assert odd.body == "no json"


def test_whose_call_it_is_follows_from_a_credential_unless_it_is_said():
    scene = Scene(upstreams=SCENE.upstreams, max_body_bytes=1, owners={credential_hash(KEY): "etl"})
    shown = {"path": CHAT, "headers": {"authorization": f"Bearer {KEY}"}}

    known = read_call(json.dumps(shown), "call.json", scene)
    said = read_call(json.dumps({**shown, "owner": "web"}), "call.json", scene)

    assert known.owner == ("etl", credential_hash(KEY))
    assert known.credential == (credential_hash(KEY),)
    assert (said.owner, said.credential) == (("web",), ())


def test_a_key_in_the_query_says_whose_a_call_is_at_gemini_alone():
    gemini = Upstream.parse("gemini", "gemini", "https://g.example")
    scene = Scene(upstreams={**SCENE.upstreams, "gemini": gemini}, max_body_bytes=1)

    at_gemini = {"path": f"/v1beta/models/g:generateContent?key={KEY}"}
    elsewhere = {"path": f"{CHAT}?key={KEY}", "upstream": "openai"}

    assert read_call(json.dumps(at_gemini), "call.json", scene).owner == (OWNER,)
    assert read_call(json.dumps(elsewhere), "call.json", scene).owner == ()
