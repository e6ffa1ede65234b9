import pytest

from proxy.core.errors import ConfigError
from proxy.core.upstream import RESERVED_NAMES, Upstream, check_upstream_name
from tests.core.routed import UPSTREAMS


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://api.openai.com", ("https", "api.openai.com", 443, "", b"api.openai.com")),
        ("https://h:443/", ("https", "h", 443, "", b"h")),
        ("http://h:8000/a/b/", ("http", "h", 8000, "/a/b", b"h:8000")),
        ("http://[::1]:9", ("http", "::1", 9, "", b"[::1]:9")),
        ("HTTP://HOST", ("http", "host", 80, "", b"host")),
    ],
)
def test_a_base_url_is_split_once(base_url, expected):
    upstream = Upstream.parse("x", "openai", base_url)

    assert (
        upstream.scheme,
        upstream.host,
        upstream.port,
        upstream.base_path,
        upstream.host_header,
    ) == expected


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.openai.com",
        "ftp://h",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://u:p@h",
        "http://u@h",
        "http://h?q",
        "http://h/#f",
        "http://h:99999",
        "http://h:x",
        "http://h/a b",
        "http://h\r\nX: y",
        "http://hé",
        "http://[::1",
    ],
)
def test_a_base_url_that_is_more_or_less_than_one_is_refused(base_url):
    with pytest.raises(ConfigError):
        Upstream.parse("x", "openai", base_url)


def test_geminis_openai_api_is_where_its_own_is_beside_it():
    at = "https://gateway.example/google"

    assert Upstream.parse("x", "gemini-openai", f"{at}/v1beta/openai/").base_path.endswith("openai")
    with pytest.raises(ConfigError, match="'x': base_url must end with /v1beta/openai"):
        Upstream.parse("x", "gemini-openai", f"{at}/v1")


@pytest.mark.parametrize("name", ["v1", "v1beta", "jobs", "upload", "chat", "messages"])
def test_reserved_names_are_refused(name):
    assert name in RESERVED_NAMES
    with pytest.raises(ConfigError, match="reserved"):
        check_upstream_name(name)


@pytest.mark.parametrize("name", ["", "a/b", "A", "a b", "é", ".", "..", "-x", "a?b", "x" * 65])
def test_names_that_are_no_path_segment_are_refused(name):
    with pytest.raises(ConfigError):
        check_upstream_name(name)


@pytest.mark.parametrize(
    ("name", "target", "path"),
    [
        ("openai", "/v1/models", "/v1/models"),
        ("groq", "/openai/v1/models", "/v1/models"),
        ("azure-v1", "/openai/v1/models", "/v1/models"),
        ("deepinfra", "/v1/openai/models", "/v1/models"),
        ("openrouter", "/api/v1/models", "/v1/models"),
        ("vllm", "/v1/models", "/v1/models"),
        ("based", "/base/v1/models", "/v1/models"),
        ("groq", "/openai/v1/chat/completions?q=1", "/v1/chat/completions?q=1"),
    ],
)
def test_a_path_of_the_dialect_and_its_target_at_the_host_are_one_thing(name, target, path):
    upstream = UPSTREAMS[name]

    assert upstream.target_of(path) == target
    assert upstream.path_of(target) == path


def test_the_origin_of_an_upstream_is_its_url_without_the_path():
    assert UPSTREAMS["vllm"].origin == "http://10.0.0.5:8000"
    assert UPSTREAMS["azure-v1"].origin == "https://res.openai.azure.com"
