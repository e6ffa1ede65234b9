"""Which upstreams are reached through a web proxy."""

import pytest
import structlog

from proxy.app import serving
from proxy.core.errors import ConfigError
from proxy.core.upstream import Upstream
from proxy.core.web_proxy import WebProxy

WEB_PROXY = "http://me:secret@squid.example:3128"


@pytest.fixture
def way_to(configure):
    """Tell which web proxy an upstream is reached through."""

    def way_to(url, text=""):
        web_proxy_of = configure(text).settings.forwarding.web_proxy_of()
        return web_proxy_of(Upstream.parse("up", "openai", url))

    return way_to


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_upstreams_are_reached_through_the_web_proxy_of_the_environment(monkeypatch, way_to, name):
    monkeypatch.setenv(name, WEB_PROXY)
    monkeypatch.setenv("NO_PROXY", ".internal,10.0.0.7")

    assert way_to("https://api.openai.com") == WebProxy.parse(WEB_PROXY, said_by=name)
    for url in (
        "https://llm.internal:8443",
        "https://10.0.0.7",
        "https://127.0.0.1:8443",
        "https://localhost",
        "https://[::1]",
        "http://api.openai.com",
    ):
        assert way_to(url) is None, url


def test_without_a_word_of_the_environment_or_by_configuration_none_is_used(monkeypatch, way_to):
    monkeypatch.setenv("HTTP_PROXY", WEB_PROXY)
    assert way_to("https://api.openai.com") is None

    monkeypatch.setenv("HTTPS_PROXY", "")
    assert way_to("https://api.openai.com") is None

    monkeypatch.setenv("HTTPS_PROXY", "socks5://squid:1080")
    with pytest.raises(ConfigError, match=r"HTTPS_PROXY .* must be http://"):
        way_to("https://api.openai.com")
    assert way_to("https://api.openai.com", "forwarding: {web_proxy: none}\n") is None


async def test_a_start_tells_which_upstreams_go_through_a_web_proxy_and_no_password(
    monkeypatch, configure, tmp_path
):
    monkeypatch.setenv("HTTPS_PROXY", WEB_PROXY)
    monkeypatch.setenv("NO_PROXY", "llm.internal")
    text = (
        "listen: 127.0.0.1:0\nadmin: {listen: '127.0.0.1:0'}\n"
        f"store: sqlite://{tmp_path}/offramp.db\n"
        "upstreams:\n"
        "  openai: {base_url: 'https://api.openai.com'}\n"
        "  mine: {dialect: openai, base_url: 'https://llm.internal'}\n"
    )
    settings = configure(text).settings
    through = sorted(set(settings.upstreams) - {"mine"})

    with structlog.testing.capture_logs() as logs:
        async with serving(settings):
            pass

    (told,) = [line for line in logs if line["event"] == "web_proxy.used"]
    assert (told["web_proxy"], told["upstreams"]) == ("squid.example:3128", through)
    assert "secret" not in str(logs)
