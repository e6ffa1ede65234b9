import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.routing import Refusal, Route, resolve
from proxy.core.upstream import Upstream
from tests.core.routed import BEARER, UPSTREAMS, VERSION, refused, routed

PREFLIGHT = b"Access-Control-Request-Headers"


@pytest.mark.parametrize(
    ("target", "name", "upstream_target"),
    [
        ("/openai/v1/chat/completions", "openai", "/v1/chat/completions"),
        ("/openai/v1", "openai", "/v1"),
        ("/openai/v1?a", "openai", "/v1?a"),
        ("/openai/v1/v1/responses", "openai", "/v1/responses"),
        ("/openai/v1/", "openai", "/v1/"),
        ("/openai/v1//x%2F..%0A/?", "openai", "/v1//x%2F..%0A/?"),
        ("/anthropic/v1/messages?beta=true", "anthropic", "/v1/messages?beta=true"),
        ("/anthropic/v1/v1/messages", "anthropic", "/v1/messages"),
        ("/anthropic/messages", "anthropic", "/v1/messages"),
        ("/anthropic/messages/batches", "anthropic", "/v1/messages/batches"),
        ("/anthropic/messagesx", "anthropic", "/messagesx"),
        ("/anthropic/other/v1/v1/x", "anthropic", "/other/v1/v1/x"),
        ("/anthropic", "anthropic", "/"),
        ("/anthropic?x", "anthropic", "/?x"),
        ("/anthropic//v1/messages", "anthropic", "//v1/messages"),
        ("/gemini/v1beta/models/m:generateContent", "gemini", "/v1beta/models/m:generateContent"),
        ("/gemini/v1/v1/x", "gemini", "/v1/v1/x"),
        ("/gemini/v1beta/openai/models?a", "gemini-openai", "/v1beta/openai/models?a"),
        ("/gemini/v1beta/openaix", "gemini", "/v1beta/openaix"),
        ("/gemini-openai/v1/embeddings", "gemini-openai", "/v1beta/openai/embeddings"),
        ("/gemini-openai/v1beta/openai/models", "gemini-openai", "/v1beta/openai/models"),
        ("/groq/v1/chat/completions", "groq", "/openai/v1/chat/completions"),
        ("/groq/openai/v1/chat/completions", "groq", "/openai/v1/chat/completions"),
        ("/groq/chat/completions", "groq", "/openai/v1/chat/completions"),
        ("/groq/openai/v1/v1/models", "groq", "/openai/v1/v1/models"),
        ("/azure/v1/responses", "azure", "/openai/v1/responses"),
        ("/azure/openai/v1/files?a", "azure", "/openai/v1/files?a"),
        ("/azure/openai/files?api-version=1", "azure", "/openai/files?api-version=1"),
        (
            "/azure/openai/deployments/d/chat/completions",
            "azure",
            "/openai/deployments/d/chat/completions",
        ),
        ("/azure-v1/v1/responses", "azure-v1", "/openai/v1/responses"),
        ("/azure-v1/responses", "azure-v1", "/openai/v1/responses"),
        ("/azure-v1/openai/v1/responses?a", "azure-v1", "/openai/v1/responses?a"),
        ("/openrouter/api/v1/chat/completions", "openrouter", "/api/v1/chat/completions"),
        ("/deepinfra/v1/embeddings", "deepinfra", "/v1/openai/embeddings"),
        ("/deepinfra/v1/openai/embeddings", "deepinfra", "/v1/openai/embeddings"),
        ("/deepinfra/embeddings", "deepinfra", "/v1/openai/embeddings"),
        ("/openrouter/v1/chat/completions", "openrouter", "/api/v1/chat/completions"),
        ("/xai/v1/responses", "xai", "/v1/responses"),
        ("/mine/messages", "mine", "/v1/messages"),
        ("/based/x", "based", "/base/x"),
        ("/based", "based", "/base"),
        ("/based?q", "based", "/base?q"),
        ("/based//x/../%2e", "based", "/base//x/../%2e"),
        # A base URL that ends in /v1, as SDKs want it, and callers that add theirs.
        ("/vllm/chat/completions", "vllm", "/v1/chat/completions"),
        ("/vllm/v1/chat/completions", "vllm", "/v1/chat/completions"),
        ("/vllm/v1x", "vllm", "/v1/v1x"),
    ],
)
def test_a_prefix_names_the_upstream(target, name, upstream_target):
    assert routed(target) == (name, upstream_target)


@pytest.mark.parametrize("base", ["/groq/openai", "/groq/openai/v1"])
@pytest.mark.parametrize("path", ["/v1/models", "/openai/v1/models"])
def test_behind_a_gateway_both_forms_of_a_path_lead_to_the_same_place(base, path):
    upstream = Upstream.parse("groq", "groq", f"https://gateway.example{base}")

    route = resolve(f"/groq{path}", (), {"groq": upstream})

    assert isinstance(route, Route)
    assert route.upstream_target == "/groq/openai/v1/models"


@pytest.mark.parametrize(
    ("target", "headers", "name", "upstream_target"),
    [
        ("/v1beta/models", (), "gemini", "/v1beta/models"),
        ("/v1beta/openai/models", (), "gemini-openai", "/v1beta/openai/models"),
        ("/upload/v1beta/files?a", (), "gemini", "/upload/v1beta/files?a"),
        ("/download/v1beta/files/x:download", (), "gemini", "/download/v1beta/files/x:download"),
        ("/v1/models/g-2:generateContent", (), "gemini", "/v1/models/g-2:generateContent"),
        ("/v1/models/g:streamGenerateContent?alt=sse", (), "gemini", None),
        ("/v1/anything", ((b"X-Goog-Api-Key", b"k"),), "gemini", None),
        ("/v1/anything?key=k", (), "gemini", None),
        ("/v1/anything?a=b&key=k", (), "gemini", None),
        ("/v1/messages", (), "anthropic", "/v1/messages"),
        ("/v1/v1/messages", (), "anthropic", "/v1/messages"),
        ("/messages", (), "anthropic", "/v1/messages"),
        ("/v1/messages?beta=true", BEARER, "anthropic", "/v1/messages?beta=true"),
        ("/v1/messages/batches/x/results", (), "anthropic", "/v1/messages/batches/x/results"),
        ("/v1/messages/count_tokens", (), "anthropic", "/v1/messages/count_tokens"),
        ("/v1/models", VERSION, "anthropic", "/v1/models"),
        ("/v1/v1/models", VERSION, "anthropic", "/v1/models"),
        ("/v1/models", ((b"x-api-key", b"k"),), "anthropic", "/v1/models"),
        ("/v1/chat/completions", BEARER, "openai", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", BEARER, "openai", "/v1/chat/completions"),
        ("/chat/completions", BEARER, "openai", "/v1/chat/completions"),
        ("/embeddings?a=b", BEARER, "openai", "/v1/embeddings?a=b"),
        ("/v1/new/things", BEARER, "openai", "/v1/new/things"),
        ("/v1/threads/t/messages", BEARER, "openai", "/v1/threads/t/messages"),
        # The model's own name has colons.
        ("/v1/models/ft:gpt-4o:acme::abc", BEARER, "openai", "/v1/models/ft:gpt-4o:acme::abc"),
        ("/v1/chat/completions", ((b"AUTHORIZATION", b"bEARER x"),), "openai", None),
        (
            "/v1/realtime?model=x",
            ((b"Sec-WebSocket-Protocol", b"realtime, openai-insecure-api-key.sk-x"),),
            "openai",
            None,
        ),
        # Preflights of browsers, which show no token.
        ("/v1/models", ((PREFLIGHT, b"authorization,content-type"),), "openai", None),
        ("/v1/models", ((PREFLIGHT, b"content-type, X-Api-Key"),), "anthropic", None),
        ("/v1/models", ((PREFLIGHT, b"anthropic-version"),), "anthropic", None),
        ("/v1/models", ((PREFLIGHT, b"x-goog-api-key"),), "gemini", None),
    ],
)
def test_without_a_prefix_the_call_itself_names_the_upstream(
    target, headers, name, upstream_target
):
    assert routed(target, headers) == (name, upstream_target or target)


def test_a_dialect_is_served_by_the_only_upstream_that_speaks_it():
    only = {"mine": Upstream.parse("mine", "openai", "http://h")}

    route = resolve("/v1/chat/completions", BEARER, only)

    assert isinstance(route, Route)
    assert route.upstream.name == "mine"


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/", ()),
        ("/v1/chat/completions", ()),
        ("/chat/completions", ()),
        ("/healthz", BEARER),
        ("/openai/deployments/x/chat/completions", BEARER),
        ("/openai//v1/x", BEARER),
        ("/openai", BEARER),
        ("/openai/v10/x", BEARER),
        ("/OpenAI/v1/x", BEARER),
        ("/%6fpenai/v1/x", BEARER),
        ("//anthropic/x", ()),
        ("/v1beta1/models", ()),
        ("/v1betax", ()),
        ("/messages2", ()),
        ("/v1/messages/other", ()),
        ("/v1/models/x:", ()),
        ("/x?monkey=1", ()),
        ("/v1/x", ((PREFLIGHT, b"x-authorization"),)),
        ("/x", ((PREFLIGHT, b"authorization"),)),
    ],
)
def test_a_call_that_names_nobody_is_a_404_with_the_prefixes(target, headers):
    refusal = refused(target, headers)

    assert refusal.status == 404
    for prefix in ("/openai/v1", "/anthropic", "/gemini", "/groq", "/vllm"):
        assert prefix in refusal.message


def test_a_call_whose_key_was_forgotten_is_told_so():
    target = "/v1/chat/completions"

    assert "has no `Authorization: Bearer KEY`" in refused(target, ()).message
    assert "has no `Authorization" in refused(target, ((b"authorization", b"Basic eA"),)).message
    assert "Authorization" not in refused("/nowhere", ()).message
    assert "Authorization" not in refused("/healthz", BEARER).message


@pytest.mark.parametrize("target", ["*", "http://api.openai.com/v1/x", "api.openai.com:443", ""])
def test_only_origin_form_targets_are_served(target):
    refusal = refused(target, BEARER)

    assert refusal.status == 400
    assert refusal.error().http_status == 400
    assert refusal.error().code == "bad_request_target"


def test_geminis_openai_api_is_an_upstream_only_where_it_is_one_at_the_same_host():
    target = "/v1beta/openai/models"
    own = Upstream.parse("gemini", "gemini", "http://10.0.0.9")
    other = Upstream.parse("gemini-openai", "gemini-openai", "http://10.0.0.8")

    for upstreams in ({"gemini": own}, {"gemini": own, "gemini-openai": other}):
        assert resolve(target, BEARER, upstreams) == Route(own, target)


@given(
    st.text(alphabet=string.printable.replace(" ", ""), max_size=30), st.sampled_from([(), BEARER])
)
def test_what_is_after_a_prefix_is_never_changed(rest, headers):
    route = resolve("/based/" + rest, headers, UPSTREAMS)

    if isinstance(route, Route):
        assert route.upstream_target == "/base/" + rest


@given(st.text(max_size=40))
def test_any_target_is_routed_or_refused(target):
    assert isinstance(resolve(target, BEARER, UPSTREAMS), Route | Refusal)
