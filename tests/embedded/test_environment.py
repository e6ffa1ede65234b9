"""SDKs are sent to the proxy, and the proxy to where the user's variables point."""

import pytest

from proxy.core.errors import ConfigError
from proxy.embedded.environment import child_environment, upstream_urls

PROXY = "http://127.0.0.1:5000"


def test_every_sdk_is_told_the_proxy_in_its_own_form():
    environment = child_environment({"PATH": "/bin"}, PROXY)

    assert environment == {
        "PATH": "/bin",
        "OPENAI_BASE_URL": f"{PROXY}/openai/v1",
        "OPENAI_API_BASE": f"{PROXY}/openai/v1",
        "ANTHROPIC_BASE_URL": f"{PROXY}/anthropic",
        "ANTHROPIC_API_BASE": f"{PROXY}/anthropic",
        "GOOGLE_GEMINI_BASE_URL": f"{PROXY}/gemini",
    }


@pytest.mark.parametrize(
    ("own", "both"),
    [
        ({}, ("127.0.0.1", "127.0.0.1")),
        ({"NO_PROXY": "corp"}, ("corp,127.0.0.1", "corp,127.0.0.1")),
        ({"no_proxy": "corp"}, ("corp,127.0.0.1", "corp,127.0.0.1")),
        ({"NO_PROXY": "a", "no_proxy": "b"}, ("a,127.0.0.1", "b,127.0.0.1")),
    ],
)
def test_a_proxy_for_the_web_is_not_asked_for_this_machine_nor_for_the_others(own, both):
    environment = child_environment({"HTTP_PROXY": "http://proxy.corp:3128", **own}, PROXY)

    assert (environment["NO_PROXY"], environment["no_proxy"]) == both


def test_base_urls_of_the_user_are_where_calls_go():
    assert upstream_urls(
        {
            "OPENAI_BASE_URL": "https://llm.corp/openai/v1/",
            "OPENAI_API_BASE": "https://other/v1",
            "ANTHROPIC_BASE_URL": "https://llm.corp/anthropic",
            "GOOGLE_GEMINI_BASE_URL": " ",
        }
    ) == {"openai": "https://llm.corp/openai", "anthropic": "https://llm.corp/anthropic"}
    assert upstream_urls({"OPENAI_API_BASE": "http://localhost:1234"}) == {
        "openai": "http://localhost:1234"
    }
    assert upstream_urls({}) == {}


def test_a_base_url_that_cannot_be_stood_in_for_is_named():
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL is https://x/deployments/y"):
        upstream_urls({"OPENAI_BASE_URL": "https://x/deployments/y"})


@pytest.mark.parametrize(
    ("name", "url", "shown"),
    [
        ("OPENAI_BASE_URL", "localhost:8000/v1", "localhost:8000"),
        ("OPENAI_API_BASE", "http://me:canary@x/v1", "http://***@x"),
        ("OPENAI_BASE_URL", "http://me:canary@x/y", "http://***@x/y"),
        ("ANTHROPIC_BASE_URL", "https://x:99999", "https://x:99999"),
        ("GOOGLE_GEMINI_BASE_URL", "https://x?key=canary", "https://x?***"),
    ],
)
def test_a_base_url_that_is_none_is_named_by_its_variable_and_without_secrets(name, url, shown):
    with pytest.raises(ConfigError) as raised:
        upstream_urls({name: url})

    assert raised.value.message.startswith(f"{name} is {shown}")
    assert "canary" not in raised.value.message
