"""What a store URL says about Redis."""

import pytest

from proxy.core.errors import ConfigError
from proxy.stores.redis.address import RedisAddress


def test_a_plain_url_names_server_user_and_database():
    address = RedisAddress.parse("redis://al%40ice:p%3Aw@cache.example:7000/3")

    assert address.places == (("cache.example", 7000),)
    assert (address.username, address.password, address.database) == ("al@ice", "p:w", 3)
    assert not address.tls
    assert not address.is_cluster


def test_what_is_left_out_is_as_usual():
    address = RedisAddress.parse("redis://localhost")

    assert address.places == (("localhost", 6379),)
    assert (address.username, address.password, address.database) == (None, None, 0)
    assert address.acks == 0


def test_a_password_may_stand_without_a_user():
    address = RedisAddress.parse("redis://:pw@localhost")

    assert (address.username, address.password) == (None, "pw")


def test_sentinels_are_listed_with_the_service_and_the_database():
    address = RedisAddress.parse(
        "redis+sentinel://user:pass@h1:1,h2,[::1]:3/main/2"
        "?sentinel_username=s&sentinel_password=t%26u"
    )

    assert address.places == (("h1", 1), ("h2", 26379), ("::1", 3))
    assert (address.service, address.database) == ("main", 2)
    assert (address.username, address.password) == ("user", "pass")
    assert (address.sentinel_username, address.sentinel_password) == ("s", "t&u")


def test_a_plus_is_a_plus_in_a_password_and_in_a_path():
    address = RedisAddress.parse(
        "redis+sentinel://:a+b@s/main?sentinel_password=c+d&tls=true&ca=/etc/e+f.pem"
    )

    assert (address.password, address.sentinel_password) == ("a+b", "c+d")
    assert address.ca == "/etc/e+f.pem"


def test_a_cluster_is_known_by_any_of_its_nodes():
    address = RedisAddress.parse("redis+cluster://a:1,b:2?tls=true")

    assert address.places == (("a", 1), ("b", 2))
    assert address.is_cluster
    assert address.tls


def test_tls_and_its_authorities_are_options_of_the_url():
    address = RedisAddress.parse("rediss://h/0?ca=/etc/ca.pem&acks=2&acks_timeout=0.5&timeout=9")

    assert (address.tls, address.ca) == (True, "/etc/ca.pem")
    assert (address.acks, address.acks_timeout_s, address.timeout_s) == (2, 0.5, 9)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://h", "must begin with one of redis"),
        ("redis://h/0?sockettimeout=1", "unknown option 'sockettimeout'"),
        ("redis://h/x", "the database must be a number"),
        ("redis://h/0/1", "the database must be a number"),
        ("redis://h:port", "hosts must be host:port"),
        ("redis://h,,i", "hosts must be host:port"),
        ("redis://h:70000", "hosts must be host:port"),
        ("redis://h,i", "several hosts are redis\\+sentinel"),
        ("redis+sentinel://h:1", "must name the service"),
        ("redis+cluster://h:1/1", "database 0 only"),
        ("redis://h?tls=yes", "option tls must be true or false"),
        ("redis://h?ca=/etc/ca.pem", "option ca is for TLS"),
        ("redis://h?acks=many", "option acks must be a number from 0"),
        ("redis://h?timeout=0", "option timeout must be a number from 0.1"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_its_reason(url, problem):
    with pytest.raises(ConfigError, match=problem):
        RedisAddress.parse(url)


def test_neither_complaints_nor_the_address_show_a_password():
    address = RedisAddress.parse("redis://user:canary@h?sentinel_password=canary")
    for wrong in ("redis://user:canary@h/0?x=canary", "redis://:pass?canary@h/0"):
        with pytest.raises(ConfigError) as refused:
            RedisAddress.parse(wrong)
        assert "canary" not in refused.value.message

    assert "canary" not in repr(address)


def test_what_messages_show_of_it_has_no_credentials():
    address = RedisAddress.parse("redis+cluster://me:secret@one:7000,[::1]:7001?acks=1")

    assert address.shown == "redis+cluster://one:7000,[::1]:7001"
