"""Values as they are written, each kind by itself."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.settings import (
    Address,
    duration_text,
    parse_address,
    parse_duration,
)
from proxy.settings.values import hide_secrets, parse_size, parse_store


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("5m", 300), ("6h", 21_600), ("1d", 86_400), ("500ms", 0.5), ("1h30m", 5_400)],
)
def test_a_duration_is_a_number_and_a_unit(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", "5 s", "-5s", "5w", "1e3s", "5s!", 5, None, "\N{ARABIC-INDIC DIGIT FIVE}s"],
)
def test_anything_else_is_no_duration(text):
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36501d", "9" * 400 + "d"])
def test_more_than_a_century_is_no_duration(text):
    with pytest.raises(ValueError, match="at most 36500d"):
        parse_duration(text)


@given(st.integers(0, 10**12))
def test_a_duration_survives_being_written(milliseconds):
    value = timedelta(milliseconds=milliseconds)

    assert parse_duration(duration_text(value)) == value


@pytest.mark.parametrize(
    ("text", "size"), [("64MB", 64_000_000), ("1GiB", 1 << 30), ("5", 5), (7, 7), ("2 KiB", 2048)]
)
def test_a_size_is_bytes_or_a_number_and_a_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["-1", -1, "1.5MB", "x", True, None])
def test_anything_else_is_no_size(text):
    with pytest.raises(ValueError, match="number of bytes"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80), True),
        ("127.9.9.9:80", Address("127.9.9.9", 80), True),
        ("[::1]:0", Address("::1", 0), True),
        ("localhost:1", Address("localhost", 1), True),
        ("0.0.0.0:65535", Address("0.0.0.0", 65_535), False),
        ("[::]:1", Address("::", 1), False),
        ("host.example:1", Address("host.example", 1), False),
    ],
)
def test_an_address_knows_whether_others_can_reach_it(text, address, loopback):
    assert parse_address(text) == address
    assert parse_address(str(address)) == address
    assert address.is_loopback is loopback


@pytest.mark.parametrize("text", ["", "8080", ":8080", "host:", "host:65536", "::1:80", "h:-1", 80])
def test_anything_else_is_no_address(text):
    with pytest.raises(ValueError, match="host:port"):
        parse_address(text)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/x.db", "/var/lib/x.db"),
        ("sqlite:////var/lib/x.db", "/var/lib/x.db"),
        ("sqlite:x.db", "x.db"),
    ],
)
def test_a_sqlite_url_names_a_file(url, path):
    assert parse_store(url).path == Path(path)


@pytest.mark.parametrize(
    "url", ["redis://h:1/0", "rediss://h", "redis+sentinel://a:1,b:2/main/0", "redis+cluster://h:1"]
)
def test_a_redis_url_is_kept_as_it_is(url):
    store = parse_store(url)

    assert (store.url, store.path, store.is_redis) == (url, None, True)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p@ss@h:1/0?password=x", "redis://***@h:1/0?***"),
        ("redis://:pa/ss@h:1/0", "redis://***@h:1/0"),
        ("redis://:pa?ss@h:1/0", "redis://***"),
        ("redis://:p@a?ss@h:1/0", "redis://***"),
        ("https://h/path?key=x", "https://h/path?***"),
        ("redis:/u:pass@h:1/0", "***@h:1/0"),
        ("u:pass@h:1", "***@h:1"),
        ("name@h", "name@h"),
        ("gpt-?:free", "gpt-?:free"),
    ],
)
def test_a_password_is_hidden_whole_whatever_is_in_it(url, shown):
    assert hide_secrets(url) == shown


def test_a_password_that_is_not_encoded_is_refused_without_being_shown(complaints):
    (found,) = complaints("store: redis://:secret/canary@h:1/0")

    assert "must be percent-encoded: / is %2F" in found
    assert "secret" not in found
    assert "canary" not in found


@pytest.mark.parametrize("store", ["redis//:canary@h", "rediss:/:canary@h", "u:canary@h/0"])
def test_a_password_in_a_store_without_its_colon_or_slash_is_not_repeated(complaints, store):
    assert "canary" not in "".join(complaints(f"store: '{store}'"))
