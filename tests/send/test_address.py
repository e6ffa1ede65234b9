"""A proxy is found however it is written, and nothing else is taken for one."""

import pytest

from proxy.send.address import normal_url, proxy_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        (" https://offramp.example/ \n", "https://offramp.example"),
        ("HTTP://host/v1", "HTTP://host"),
        ("http://host/llm/v1/", "http://host/llm"),
        ("http://[::1]:8080/v1", "http://[::1]:8080"),
    ],
)
def test_the_paths_of_calls_follow_it(text, url):
    assert proxy_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:8080",
        "localhost:8080",
        "ftp://host",
        "http://",
        "http://host:0",
        "http://host:99999",
        "http://[::1",
        "http://a b",
        "http://host\x1b",
        "http://host/?key=canary",
        "http://host/#canary",
        "http://user:canary@host",
    ],
)
def test_what_is_none_is_refused_without_being_shown(text):
    with pytest.raises(ValueError, match="must be http") as refused:
        proxy_url(text)

    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("other", ["HTTP://Host:80/", "http://host"])
def test_one_proxy_has_one_name(other):
    assert normal_url(other) == "http://host"


@pytest.mark.parametrize("other", ["https://host", "http://host:8080", "http://host/Llm"])
def test_another_one_has_another(other):
    assert normal_url(other) != "http://host"
