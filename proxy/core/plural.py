"""Numbers with their nouns, for people."""


def plural(amount: int, one: str, many: str | None = None) -> str:
    """Return a number, its thousands apart, and its noun: `1 job`, `2,000 jobs`, `2 batches`."""
    return f"{amount:,} {one if amount == 1 else many or one + 's'}"
