"""Prices of answers, to the nano-dollar."""

from typing import Any

import pytest

from proxy.core.prices import (
    Cost,
    ModelPrice,
    PriceList,
    Processing,
    cost_of,
    parse_list,
    parse_price,
    usd,
)
from proxy.core.usage import Tokens

SIMPLE = {"standard": {"input": 2, "output": 8}, "batch": {"input": 1, "output": 4}}
MILLION = 1_000_000


def tokens(given: int = 0, made: int = 0, **others: int) -> Tokens:
    return Tokens(input=given, output=made, **others)


def dollars(price: ModelPrice, counted: Tokens, processing: Processing) -> float | None:
    cost = cost_of(price, counted, processing)
    return None if cost is None else cost.paid_nano / 1e9


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


def test_a_price_is_exact_to_the_nano_dollar() -> None:
    price = parse_price({"standard": {"input": 0.0375, "output": 0.13}})

    cost = cost_of(price, tokens(1, 1), Processing.STANDARD)

    # 37,500 and 130,000 pico-dollars.
    assert cost == Cost(list_nano=168, paid_nano=168)


def test_a_saving_is_the_standard_price_of_the_same_tokens_less_what_was_paid() -> None:
    cost = cost_of(parse_price(SIMPLE), tokens(MILLION, MILLION), Processing.BATCH)

    assert cost == Cost(list_nano=10 * 10**9, paid_nano=5 * 10**9)
    assert cost.saved_nano == 5 * 10**9


@pytest.mark.parametrize("processing", [Processing.BATCH, Processing.FLEX])
def test_processing_without_a_known_price_has_none(processing: Processing) -> None:
    price = parse_price({"standard": {"input": 2, "output": 8}})

    assert cost_of(price, tokens(5, 5), processing) is None


def test_a_batch_at_full_price_saves_nothing() -> None:
    price = parse_price({"standard": {"input": 1, "output": 2}, "batch": {"input": 1, "output": 2}})

    cost = cost_of(price, tokens(MILLION, MILLION), Processing.BATCH)

    assert cost is not None
    assert cost.saved_nano == 0


def test_the_share_of_the_standard_price_is_known_where_both_prices_are() -> None:
    price = parse_price(SIMPLE)

    assert price.share(Processing.BATCH) == 0.5
    assert price.share(Processing.STANDARD) == 1
    assert price.share(Processing.FLEX) is None
    assert parse_price({"standard": {"input": 0, "output": 0}}).share(Processing.STANDARD) is None


def test_a_long_prompt_makes_the_whole_call_dearer() -> None:
    price = parse_price(
        {
            "standard": {
                "input": 2,
                "output": 10,
                "cached": 0.5,
                "above": [{"tokens": 200_000, "input": 4, "output": 15}],
            }
        }
    )

    assert dollars(price, tokens(200_000, 1_000), Processing.STANDARD) == 0.41
    assert dollars(price, tokens(200_001, 0), Processing.STANDARD) == 0.800004
    assert dollars(price, tokens(300_000, 1_000), Processing.STANDARD) == 1.215
    # Cached tokens make a prompt long, too; what the tier does not say stays as it was.
    assert dollars(price, tokens(300_000, 0, cached=300_000), Processing.STANDARD) == 0.15


def test_cached_tokens_without_a_price_of_their_own_cost_what_others_do() -> None:
    price = parse_price({"standard": {"input": 2, "cached": 1}, "batch": {"input": 1}})

    cost = cost_of(price, tokens(MILLION, cached=MILLION), Processing.BATCH)

    # In an ordinary call they are at half, and in the batch not at half of that.
    assert cost == Cost(10**9, 10**9, cache_lost_nano=5 * 10**8)


def test_cached_tokens_that_are_not_halved_once_more_lose_what_that_would_save() -> None:
    price = parse_price(
        {"standard": {"input": 2, "cached": 0.2}, "batch": {"input": 1, "cached": 0.2}}
    )

    cost = cost_of(price, tokens(MILLION, cached=MILLION), Processing.BATCH)

    assert cost == Cost(2 * 10**8, 2 * 10**8, cache_lost_nano=10**8)


def test_reductions_that_stack_lose_nothing() -> None:
    price = parse_price(
        {
            "standard": {
                "input": 3,
                "output": 15,
                "cached": 0.3,
                "cache_write": 3.75,
                "cache_write_1h": 6,
            },
            "batch": {
                "input": 1.5,
                "output": 7.5,
                "cached": 0.15,
                "cache_write": 1.875,
                "cache_write_1h": 3,
            },
        }
    )
    counted = tokens(
        4 * MILLION, MILLION, cached=MILLION, cache_write=MILLION, cache_write_1h=MILLION
    )

    cost = cost_of(price, counted, Processing.BATCH)

    assert cost == Cost(28_050_000_000, 14_025_000_000, 0)


def test_an_unknown_model_has_no_price() -> None:
    prices = a_list({"models": [model("=known")]})

    assert prices.find("acme", "known-2") is None
    assert prices.find("nobody", "known") is None


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

    assert prices.find("acme", fits) is not None
    assert prices.find("acme", not_fits) is None


def test_all_patterns_of_a_group_must_fit_and_one_group_is_enough() -> None:
    both = {"match": [["^m-", "$-tts"], ["=other"]], **SIMPLE}
    prices = a_list({"models": [both]})

    assert prices.find("acme", "m-1-tts")
    assert prices.find("acme", "other")
    assert prices.find("acme", "m-1") is None


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
    assert a_list({"models": [model("=Big-Model")]}).find("acme", "big-MODEL") is not None


def test_a_seller_of_others_models_takes_their_price() -> None:
    prices = a_list({"also": ["maker"]}, maker={"models": [model("=m-1")]})

    assert prices.find("acme", "m-1") == parse_price(SIMPLE)


def test_a_rule_for_all_batches_fills_in_what_is_not_listed() -> None:
    listed = model("=listed")
    other = model("=other", standard={"input": 10, "output": 20, "cached": 1})
    prices = a_list({"models": [listed, other], "batch_share": 0.8})

    assert prices.find("acme", "listed") == parse_price(SIMPLE)
    price = prices.find("acme", "other")
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


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0"),
        (168_000, "0.000168"),
        (-500_000_000, "-0.5"),
        (12 * 10**9, "12"),
        (1, "0.000000001"),
    ],
)
def test_amounts_in_dollars_are_exact(nano: int, text: str) -> None:
    assert usd(nano) == text
