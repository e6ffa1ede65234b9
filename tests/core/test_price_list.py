"""Price lists as they are read, and what they say of a model."""

from datetime import date, timedelta
from typing import Any

import pytest

from proxy.core.price_list import PriceList, parse_list, parse_price

SIMPLE = {"standard": {"input": 2, "output": 8}, "batch": {"input": 1, "output": 4}}
MILLION = 1_000_000
DAY = date(2026, 11, 26)


def a_list(provider: dict[str, Any], **others: dict[str, Any]) -> PriceList:
    return parse_list(
        {
            "as_of": "2026-11-26",
            "source": "here",
            "providers": {"acme": {"address": r"https://api\.acme\.com", "models": [], **provider}}
            | {name: {"address": "-", "models": [], **one} for name, one in others.items()},
        }
    )


def model(*match: str, **price: Any) -> dict[str, Any]:
    return {"match": [[pattern] for pattern in match], **(price or SIMPLE)}


def test_an_unknown_model_has_no_price() -> None:
    prices = a_list({"models": [model("=known")]})

    assert prices.find("acme", "known-2", on=DAY) is None
    assert prices.find("nobody", "known", on=DAY) is None


def test_a_price_holds_until_the_day_from_which_on_another_one_does() -> None:
    dearer = {"standard": {"input": 4, "output": 16}}
    now, then = {**model("=m-1"), "until": "2026-12-01"}, model("=m-1", **dearer)
    prices = a_list({"models": [now, then]})
    change = date(2026, 12, 1)

    assert prices.find("acme", "m-1", on=change - timedelta(days=1)) == parse_price(SIMPLE)
    assert prices.find("acme", "m-1", on=change) == parse_price(dearer)


@pytest.mark.parametrize(
    ("pattern", "fits", "not_fits"),
    [
        ("=m-1", "M-1", "m-10"),
        ("^m-", "m-1", "x-m-1"),
        ("$-mini", "m-mini", "m-mini-2"),
        ("*-m-", "x-m-y", "xmy"),
        (r"~^m-\d+$", "m-123", "m-x"),
    ],
)
def test_each_kind_of_pattern(pattern: str, fits: str, not_fits: str) -> None:
    prices = a_list({"models": [model(pattern)]})

    assert prices.find("acme", fits, on=DAY) is not None
    assert prices.find("acme", not_fits, on=DAY) is None


def test_all_patterns_of_a_group_must_fit_and_one_group_is_enough() -> None:
    both = {"match": [["^m-", "$-tts"], ["=other"]], **SIMPLE}
    prices = a_list({"models": [both]})

    assert prices.find("acme", "m-1-tts", on=DAY)
    assert prices.find("acme", "other", on=DAY)
    assert prices.find("acme", "m-1", on=DAY) is None


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ({"models": [model("m-1")]}, "no pattern"),
        ({"models": [model("~(")]}, "no regular expression"),
        ({"models": [{"match": [[]], **SIMPLE}]}, "no patterns"),
        ({"models": [{"match": ["=m-1"], **SIMPLE}]}, "no pattern"),
        ({"address": "("}, "no regular expression"),
        ({"also": ["somebody"]}, "'somebody', who is not in it"),
        ({"batch_share": -1}, "no share"),
        ({"batch_share": "half"}, "no share"),
    ],
)
def test_a_mistake_in_a_list_shows_when_it_is_read(provider: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        a_list(provider)


def test_a_name_is_known_however_the_list_spells_it() -> None:
    assert a_list({"models": [model("=Big-Model")]}).find("acme", "big-MODEL", on=DAY) is not None


def test_a_name_is_known_with_the_collection_that_gemini_lists_it_in() -> None:
    assert a_list({"models": [model("=m")]}).find("acme", "models/m", on=DAY) is not None


def test_a_seller_of_others_models_takes_their_price() -> None:
    prices = a_list({"also": ["maker"]}, maker={"models": [model("=m-1")]})

    assert prices.find("acme", "m-1", on=DAY) == parse_price(SIMPLE)


def test_a_rule_for_all_batches_fills_in_what_is_not_listed() -> None:
    listed = model("=listed")
    other = model("=other", standard={"input": 10, "output": 20, "cached": 1})
    prices = a_list({"models": [listed, other], "batch_share": 0.8})

    assert prices.find("acme", "listed", on=DAY) == parse_price(SIMPLE)
    price = prices.find("acme", "other", on=DAY)
    assert price is not None
    assert (
        price.batch
        == parse_price(
            {"standard": {"input": 8, "output": 16, "cached": 0.8, "cache_write": 8}}
        ).standard
    )
    assert prices.completed("acme", price) is price
    assert prices.completed("nobody", price) is price


def test_only_a_providers_own_address_is_its_own() -> None:
    prices = a_list({})

    assert prices.provider_at("https://api.acme.com/v1") == "acme"
    assert prices.provider_at("http://127.0.0.1:8000") is None


@pytest.mark.parametrize(
    "price",
    [
        {},
        {"standard": {"input": -1}},
        {"standard": {"input": float("inf")}},
        {"standard": {"output": 1}},
    ],
)
def test_a_list_that_makes_no_sense_is_refused(price: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError)):
        a_list({"models": [model("=m", **price) if price else {"match": [["=m"]]}]})
