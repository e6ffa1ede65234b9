"""Token counts, as results report them."""

import pytest

from proxy.core.ledger import usage_of


def test_nested_counts_stand_under_dotted_names() -> None:
    body = {
        "usage": {
            "prompt_tokens": 12,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 8, "kind": "text"},
        }
    }

    assert usage_of(body) == {
        "prompt_tokens": 12,
        "total_tokens": 15,
        "prompt_tokens_details.cached_tokens": 8,
    }


@pytest.mark.parametrize("body", [{}, {"usage": None}, {"usage": "12"}, {"usage": [1]}])
def test_unknown_usage_is_nothing_and_never_zero(body: dict[str, object]) -> None:
    assert usage_of(body) is None


@pytest.mark.parametrize("value", [True, False, 1.5, "7", None, [1], {"x": True}])
def test_only_whole_numbers_are_counts(value: object) -> None:
    assert usage_of({"usage": {"tokens": value, "real": 0}}) == {"real": 0}
