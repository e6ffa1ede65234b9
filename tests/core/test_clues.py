import pytest

from proxy.core.clues import _TellingNames
from proxy.core.routing import Refusal, Route, resolve
from proxy.core.upstream import Upstream
from tests.core.routed import BEARER, VERSION, refused, routed


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/openai/v1/x", ((b"Authorization", b"Bearer sk-ant-abc"),)),
        ("/openai/v1/x", ((b"authorization", b"BEARER  sk-ant-abc"),)),
        ("/openai/v1/x", ((b"Authorization", b"sk-ant-abc"),)),
        ("/openai/v1/x", ((b"Authorization", b"Token\tsk-ant-abc"),)),
        # base64 of "u:sk-ant-abc" and of "sk-ant-abc:"
        ("/openai/v1/x", ((b"Authorization", b"Basic dTpzay1hbnQtYWJj"),)),
        ("/openai/v1/x", ((b"Authorization", b"basic c2stYW50LWFiYzo="),)),
        ("/openai/v1/x", ((b"X-Api-Key", b"sk-ant-abc"),)),
        ("/openai/v1/x", ((b"api-key", b"anything"),)),
        ("/openai/v1/x", ((b"X-Goog-Api-Key", b"anything"),)),
        ("/openai/v1/x?key=AIzaSy", ()),
        ("/openai/v1/x?a&%6Bey=AIzaSy", ()),
        ("/openai/v1/x?key=sk%2Dant%2Dx", ()),
        ("/openai/v1/x", ((b"Sec-WebSocket-Protocol", b"a, openai-insecure-api-key.sk-ant-x"),)),
        ("/openai/v1/x", (*BEARER, (b"Authorization", b"Bearer sk-ant-abc"))),
        ("/v1/chat/completions", ((b"Authorization", b"Bearer sk-ant-abc"),)),
        ("/anthropic/v1/messages", ((b"X-Api-Key", b"sk-proj-abc"),)),
        ("/anthropic/v1/messages", ((b"Authorization", b"Bearer AIzaSy"),)),
        ("/anthropic/v1/messages", ((b"x-goog-api-key", b"k"),)),
        ("/v1/messages", (*VERSION, (b"api-key", b"k"))),
        ("/gemini/v1beta/models", ((b"Authorization", b"Bearer sk-ant-abc"),)),
        ("/v1beta/models", ((b"x-goog-api-key", b"sk-svcacct-abc"),)),
        ("/v1/messages?key=x", ((b"x-api-key", b"sk-ant-abc"),)),
        ("/groq/x", ((b"Authorization", b"Bearer sk-admin-abc"),)),
        ("/vllm/x", ((b"Authorization", b"Bearer sk-ant-abc"),)),
        ("/mine/v1/messages", ((b"x-api-key", b"sk-ant-abc"),)),
        ("/based/x", ((b"api-key", b"sk-proj-abc"),)),
        ("/based/x", ((b"x-goog-api-key", b"abc"),)),
        ("/groq/v1/x", ((b"api-key", b"abc"),)),
        ("/openai/v1/x", ((b"Authorization", b"Bearer sk-or-v1-abc"),)),
        ("/openai/v1/x", ((b"Authorization", b"Bearer xai-abc"),)),
    ],
)
def test_a_credential_of_another_provider_goes_nowhere(target, headers):
    refusal = refused(target, headers)

    assert refusal.status == 421
    assert "abc" not in refusal.message
    assert "AIza" not in refusal.message


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/anthropic/v1/messages", ((b"Authorization", b"Bearer sk-ant-abc"),)),
        ("/anthropic/v1/messages", ((b"x-api-key", b"sk-ant-abc"),)),
        ("/gemini/v1beta/models?key=AIzaSy", ()),
        ("/gemini/v1beta/openai/chat/completions", ((b"Authorization", b"Bearer AIzaSy"),)),
        ("/openai/v1/x", ((b"Authorization", b"Bearer sk-proj-abc"),)),
        ("/openai/v1/x", BEARER),
        ("/openai/v1/x", ((b"Authorization", b"Basic !!!"),)),
        ("/groq/x", ((b"Authorization", b"Bearer gsk_abc"),)),
        ("/openrouter/v1/x", ((b"Authorization", b"Bearer sk-or-v1-abc"),)),
        ("/xai/v1/x", ((b"Authorization", b"Bearer xai-abc"),)),
        ("/azure/v1/x", ((b"api-key", b"abc"),)),
        ("/azure/v1/x", ((b"Authorization", b"Bearer eyJ.eyJ.x"),)),
        ("/based/x", BEARER),
        ("/based/x", ((b"api-key", b"abc"),)),
        ("/mine/v1/messages", ((b"x-api-key", b"abc"),)),
    ],
)
def test_a_providers_own_or_nobodys_credential_passes(target, headers):
    routed(target, headers)


def test_geminis_openai_api_takes_its_keys_at_any_host():
    upstreams = {"g": Upstream.parse("g", "gemini-openai", "http://10.0.0.9/v1beta/openai")}

    route = resolve("/g/v1/x", ((b"Authorization", b"Bearer AIzaSy"),), upstreams)

    assert isinstance(route, Route)


def test_an_openai_upstream_at_another_vendors_host_takes_that_vendors_keys():
    upstreams = {"fast": Upstream.parse("fast", "openai", "https://api.groq.com/openai")}

    route = resolve("/fast/v1/x", ((b"Authorization", b"Bearer gsk_abc"),), upstreams)

    assert isinstance(route, Route)


def test_a_host_that_only_ends_like_a_vendors_is_not_the_vendors():
    upstreams = {"evil": Upstream.parse("evil", "openai", "https://notanthropic.com")}

    route = resolve("/evil/v1/x", ((b"Authorization", b"Bearer sk-ant-abc"),), upstreams)

    assert isinstance(route, Refusal)


def test_ever_new_field_names_are_not_remembered_without_end():
    names = _TellingNames()
    for at in range(3 * names.MAX_NAMES):
        assert names[b"x-%d" % at] is None
    assert names[b"x" * 1000] is None
    assert names[b"AUTHORIZATION"] == b"authorization"

    assert len(names) <= names.MAX_NAMES
    assert b"x" * 1000 not in names
