"""The price list on disk."""

import resource
from datetime import date
from pathlib import Path

import pytest

from proxy.app.adapters import price_reader
from proxy.core.errors import ConfigError
from proxy.settings import Settings
from proxy.stores.price_file import read_prices

DAY = date(2026, 11, 26)


def test_the_shipped_list_is_there_and_says_as_of_when() -> None:
    prices = read_prices()

    assert prices.as_of >= "2026-11-26"
    assert "genai-prices" in prices.source
    assert prices.find("openai", "gpt-5.4-mini", on=DAY) is not None


def test_the_shipped_list_needs_no_file_when_it_is_first_asked() -> None:
    prices = price_reader(Settings())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        found = prices()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert found.find("openai", "gpt-5.4-mini", on=DAY) is not None


def test_an_operators_list_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text('{"as_of": "2020-01-01", "source": "me", "providers": {}}')

    assert read_prices(path).as_of == "2020-01-01"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"as_of": 1, "source": 2, "providers": 3}'])
def test_what_is_no_list_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"prices\.file: .*prices\.json is no price list"):
        read_prices(path)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_prices(tmp_path / "none.json")


def test_a_provider_that_the_list_has_not_is_refused_and_told_those_it_has() -> None:
    settings = Settings.model_validate({"prices": {"providers": {"openai": "opnai"}}})

    with pytest.raises(ConfigError, match=r"providers\.openai: 'opnai' is no provider .* openai, "):
        price_reader(settings)


def test_a_provider_that_the_list_has_is_taken() -> None:
    settings = Settings.model_validate({"prices": {"providers": {"openai": "groq"}}})

    assert price_reader(settings)().find("groq", "llama-3.1-8b-instant", on=DAY) is not None
