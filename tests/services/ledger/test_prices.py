"""Whose prices hold where."""

from datetime import timedelta
from typing import Any

from proxy.core.price_list import PriceList, parse_list, parse_price
from proxy.core.prices import ModelPrice
from proxy.services.ledger.prices import PriceBook
from tests.helpers.factories import T0
from tests.helpers.fakes import FakeClock

LISTED = {"standard": {"input": 2, "output": 8}, "batch": {"input": 1, "output": 4}}
STATED = parse_price({"standard": {"input": 20, "output": 80}})


def book(**stated: Any) -> tuple[PriceBook, list[int]]:
    reads: list[int] = []

    def read() -> PriceList:
        reads.append(1)
        cheap = {"match": [["=gpt-sale"]], "standard": {"input": 1, "output": 4}}
        models = [
            {**cheap, "until": (T0 + timedelta(days=1)).date().isoformat()},
            {"match": [["^gpt-"]], **LISTED},
        ]
        return parse_list(
            {
                "as_of": "2026-11-26",
                "source": "here",
                "providers": {
                    "openai": {"address": r"https://api\.openai\.com", "models": models},
                    "deepinfra": {"address": "-", "batch_share": 0.8, "models": []},
                },
            }
        )

    made = PriceBook(
        read,
        base_urls={"openai": "https://api.openai.com", "mine": "http://10.0.0.1:8000"},
        providers=stated.get("providers", {}),
        models=stated.get("models", {}),
        clock=stated.get("clock", FakeClock(T0)),
    )
    return made, reads


def test_the_list_is_read_once_and_not_before_a_price_is_asked_for() -> None:
    prices, reads = book()
    assert reads == []

    for _ in range(3):
        assert prices.price("openai", "gpt-5") == parse_price(LISTED)
        assert prices.price("openai", "unknown") is None
    assert prices.list.as_of == "2026-11-26"

    assert reads == [1]


def test_a_price_that_ends_is_not_remembered_beyond_its_last_day() -> None:
    clock = FakeClock(T0)
    prices, _ = book(clock=clock)
    assert prices.price("openai", "gpt-sale") != parse_price(LISTED)

    clock.advance(days=1)

    assert prices.price("openai", "gpt-sale") == parse_price(LISTED)


def test_a_name_without_end_is_neither_tried_nor_kept() -> None:
    prices, reads = book(models={"mine/*": STATED})

    assert prices.price("mine", "m" * 201) is None
    assert prices.price("mine", "m" * 200) == STATED
    assert reads == [1]


def test_a_server_that_only_speaks_alike_has_no_known_prices() -> None:
    prices, _ = book()

    assert prices.price("mine", "gpt-5") is None
    assert prices.price("nobody", "gpt-5") is None


def test_an_operator_says_whose_prices_hold() -> None:
    prices, _ = book(providers={"mine": "openai"})

    assert prices.price("mine", "gpt-5") == parse_price(LISTED)


def test_what_an_operator_states_goes_before_the_list() -> None:
    prices, _ = book(models={"openai/gpt-5": STATED})

    assert prices.price("openai", "gpt-5") == STATED
    assert prices.price("openai", "gpt-4") == parse_price(LISTED)


def test_the_longest_beginning_holds() -> None:
    other = parse_price({"standard": {"input": 1}})
    prices, _ = book(models={"mine/*": STATED, "mine/llama-*": other})

    assert prices.price("mine", "llama-3") == other
    assert prices.price("mine", "qwen") == STATED


def test_a_providers_rule_for_batches_holds_for_stated_prices() -> None:
    prices, _ = book(providers={"mine": "deepinfra"}, models={"mine/llama": STATED})

    price = prices.price("mine", "llama")

    assert isinstance(price, ModelPrice)
    assert price.batch == parse_price({"standard": {"input": 16, "output": 64}}).standard
