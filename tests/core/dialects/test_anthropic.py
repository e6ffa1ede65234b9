"""The rows of the Anthropic family."""

import pytest

from proxy.core.dialects import DIALECTS

ANTHROPIC = DIALECTS["anthropic"]


@pytest.mark.parametrize(
    ("query", "idle"), [("", True), ("beta=true", True), ("beta=true&x=1", False), ("x", False)]
)
def test_a_query_that_an_sdk_adds_to_every_call_says_nothing(query: str, idle: bool) -> None:
    assert ANTHROPIC.is_idle_query(query) is idle
