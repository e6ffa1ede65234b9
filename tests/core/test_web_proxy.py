import pytest

from proxy.core.errors import ConfigError
from proxy.core.web_proxy import WebProxy


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("http://squid:3128", WebProxy("squid", 3128)),
        ("http://squid:3128/", WebProxy("squid", 3128)),
        ("squid.example:8080", WebProxy("squid.example", 8080)),
        ("http://10.0.0.1", WebProxy("10.0.0.1", 80)),
        ("http://[fd00::1]:3128", WebProxy("fd00::1", 3128)),
        ("http://me:p%40ss@squid:1", WebProxy("squid", 1, "Basic bWU6cEBzcw==")),
        ("http://me@squid:1", WebProxy("squid", 1, "Basic bWU6")),
    ],
)
def test_a_web_proxy_is_read_as_other_programs_read_it(url, read):
    assert WebProxy.parse(url, said_by="HTTPS_PROXY") == read


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@squid:3128",
        "socks5://me:secret@squid:1080",
        "http://me:secret@squid:port",
        "http://me:secret@:3128",
        "http://me:secret@[squid",
    ],
)
def test_one_of_another_kind_is_refused_without_telling_its_password(url):
    with pytest.raises(ConfigError, match="HTTPS_PROXY must be http://") as refused:
        WebProxy.parse(url, said_by="HTTPS_PROXY")

    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_who_asks_is_not_shown():
    assert "Basic" not in repr(WebProxy("squid", 3128, "Basic bWU6cHc="))
