"""Each provider's key is found where its SDKs look for it, or named as missing."""

import pytest

from proxy.core.errors import CallerError
from proxy.send.keys import read_key


@pytest.mark.parametrize(
    ("provider", "variable"),
    [
        ("openai", "OPENAI_API_KEY"),
        ("my-azure", "MY_AZURE_API_KEY"),
        ("gemini", "GEMINI_API_KEY"),
        ("gemini", "GOOGLE_API_KEY"),
        ("gemini-openai", "GEMINI_API_KEY"),
    ],
)
def test_a_key_stands_under_its_providers_name(provider: str, variable: str) -> None:
    assert read_key(provider, {variable: " sk-canary-1\n", "OTHER_API_KEY": "x"}) == "sk-canary-1"


def test_a_variable_that_is_named_is_the_only_one() -> None:
    environ = {"OPENAI_API_KEY": "sk-canary-1", "MINE": "sk-canary-2"}

    assert read_key("openai", environ, "MINE") == "sk-canary-2"
    with pytest.raises(CallerError, match="THEIRS is not set"):
        read_key("openai", environ, "THEIRS")


def test_a_missing_key_is_told_by_every_name_that_it_could_have() -> None:
    with pytest.raises(CallerError, match="GEMINI_API_KEY or GOOGLE_API_KEY is not set"):
        read_key("gemini", {"GEMINI_API_KEY": " "})


def test_what_no_header_can_carry_is_not_sent_and_not_shown() -> None:
    with pytest.raises(CallerError, match="OPENAI_API_KEY holds characters") as raised:
        read_key("openai", {"OPENAI_API_KEY": "sk-cänary"})

    assert "cänary" not in str(raised.value)
