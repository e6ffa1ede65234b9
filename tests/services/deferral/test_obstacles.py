"""What the head of a call says about whether it can run later."""

from dataclasses import replace

import pytest

from proxy.core.dialects import DIALECTS
from proxy.core.upstream import Upstream
from proxy.services.deferral.obstacles import HeadFacts, obstacle, place_at

OPENAI = DIALECTS["openai"]
CHAT = HeadFacts(
    method="POST",
    upstream=Upstream.parse("claude", "anthropic", "https://x.example"),
    endpoint=OPENAI.endpoints["/v1/chat/completions"],
    content_type="application/json",
    length=10,
)


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_an_ordinary_call_can_run_later(encoding):
    assert obstacle(replace(CHAT, content_encoding=encoding), max_body_bytes=10) is None


@pytest.mark.parametrize(
    ("difference", "why"),
    [
        ({"method": "GET"}, "it is no POST"),
        ({"endpoint": None}, "of paths at 'claude' only /v1/messages can be deferred"),
        ({"content_type": "multipart/form-data"}, "its body is not `application/json`"),
        ({"content_encoding": "gzip"}, "its body is compressed"),
        ({"length": None}, "the length of its body is not announced"),
        ({"length": 11}, "its body has 11 bytes, more than 10"),
    ],
)
def test_what_bars_a_call_is_said_in_words(difference, why):
    assert obstacle(replace(CHAT, **difference), max_body_bytes=10) == why


def test_a_body_of_unknown_length_is_read_for_a_caller_who_asked():
    assert obstacle(replace(CHAT, length=None, tagged=True), max_body_bytes=10) is None


@pytest.mark.parametrize(
    ("base", "target", "path"),
    [
        ("", "/v1/embeddings?x=1", "/v1/embeddings"),
        ("/serving/v1", "/serving/v1/embeddings", "/v1/embeddings"),
        ("/openai", "/openai/v1/embeddings", "/v1/embeddings"),
        ("", "/v1/files", None),
    ],
)
def test_an_endpoint_is_found_behind_any_base_url(base, target, path):
    upstream = Upstream.parse("x", "openai", f"https://api.example{base}")

    found = place_at(upstream, target)

    assert (found.endpoint.path if found else None) == path
