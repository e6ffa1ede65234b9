import pytest

from proxy.core.authority import authority


@pytest.mark.parametrize(
    ("host", "port", "written"),
    [
        ("example.com", 8080, "example.com:8080"),
        ("example.com", None, "example.com"),
        ("::1", 443, "[::1]:443"),
        ("::1", None, "[::1]"),
        ("127.0.0.1", 0, "127.0.0.1:0"),
    ],
)
def test_only_an_ipv6_address_stands_in_brackets(host: str, port: int | None, written: str) -> None:
    assert authority(host, port) == written
