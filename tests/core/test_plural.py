import pytest

from proxy.core.plural import plural


@pytest.mark.parametrize(
    ("amount", "words"),
    [(0, "0 jobs"), (1, "1 job"), (2, "2 jobs"), (1_000, "1,000 jobs")],
)
def test_one_is_one_and_all_else_many(amount: int, words: str) -> None:
    assert plural(amount, "job") == words


def test_a_noun_may_have_a_plural_of_its_own() -> None:
    assert (plural(1, "batch", "batches"), plural(2, "batch", "batches")) == (
        "1 batch",
        "2 batches",
    )
