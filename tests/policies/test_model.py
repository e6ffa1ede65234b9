import pytest

from policies.model import NOBODY, CallFacts, Forward, Once, Reject, beside
from tests.policies.facts import NOW, make_facts, raw, unread

HERE = Forward(decided_by="a", reason="a")


def test_a_shadow_stands_beside_the_decision():
    refusal = Reject(status=400, message="m", decided_by="rule:x")

    assert beside(HERE, None) is HERE
    assert beside(HERE, refusal) == Forward(decided_by="a", reason="a", shadow=refusal)


def test_what_is_computed_once_is_computed_when_first_asked_for():
    calls = []
    once = Once(lambda: calls.append("computed"))
    assert calls == []

    once(), once()

    assert calls == ["computed"]


def test_facts_that_nobody_supplied_are_unknown():
    facts = CallFacts(method="POST", upstream="u", path="/", headers=(), now=NOW, obstacle=None)

    assert facts.identity() is NOBODY
    assert (facts.body(), facts.tokens(), facts.digest(), facts.model()) == (None,) * 4


def test_a_header_is_found_in_any_case_with_all_its_values():
    headers = (*raw({"X-Job": "a", "X-Jobs": "b"}), (b"x-job", b"c"))

    assert make_facts(headers=headers).header(b"x-job") == [b"a", b"c"]
    assert make_facts(headers=headers).header(b"x-none") == []


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/v1/responses", {"model": "gpt-5"}, "gpt-5"),
        ("/v1/responses", {"model": 5}, None),
        ("/v1/responses", {}, None),
        ("/v1/responses", None, None),
        ("/v1beta/models/gemini-3-flash:generateContent", unread, "gemini-3-flash"),
        ("/v1/projects/p/models/g:streamGenerateContent", unread, "g"),
        ("/v1beta/tunedModels/t:embedContent", unread, "t"),
        ("/v1/models/ft:gpt-5:acme", {"model": "other"}, "other"),
    ],
)
def test_the_model_stands_in_the_path_or_in_the_body(path, body, model):
    assert make_facts(body, path=path).model() == model


@pytest.mark.parametrize(
    ("path", "body", "streams"),
    [
        ("/v1/responses", {"stream": True}, True),
        ("/v1/responses", {"stream": "true"}, False),
        ("/v1/responses", {}, False),
        ("/v1/responses", None, None),
        ("/v1beta/models/g:streamGenerateContent", unread, True),
        ("/v1beta/models/g:generateContent", {}, False),
    ],
)
def test_a_stream_is_asked_for_in_the_path_or_in_the_body(path, body, streams):
    assert make_facts(body, path=path).streams() is streams


def test_the_head_bars_a_call_before_its_body_is_read():
    assert make_facts(unread, obstacle="no").bar() == "no"
    assert make_facts({"background": False}).bar() is None
