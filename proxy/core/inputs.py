"""How many embedding calls may share a batch whose inputs are counted together.

One call may carry thousands of texts, and the queue counts calls. So a batch is filled in
parts: what the part before it carried tells how large the next one may be.
"""

from typing import Final

from proxy.core.loose_json import loose_json

CALL_INPUTS_MAX: Final = 2_048
"""Texts of one call (OpenAI API, createEmbedding, `input`)."""

_GROWTH: Final = 4
"""How much larger than all before it a part may be: the first ones may differ from the rest, and
for each part all before it are read again."""

_SHARE: Final = 0.9
"""How much of the room is given to calls that are like those before."""

_WORTH: Final = 0.1
"""The least part, as a share of all before it, for which these are read once more."""


def inputs_of(body: bytes) -> int:
    """Return how many inputs an admitted embeddings body carries; one if it does not tell."""
    try:
        fields = loose_json(body)
    except ValueError:
        return 1
    given = fields.get("input") if isinstance(fields, dict) else None
    # A list of numbers is one input: the tokens of a text.
    if not isinstance(given, list) or not given or isinstance(given[0], int | float):
        return 1
    return len(given)


def first_part(max_inputs: int) -> int:
    """Return how many calls fit whatever they carry; at least one."""
    return max(max_inputs // CALL_INPUTS_MAX, 1)


def next_part(count: int, inputs: int, max_inputs: int) -> int:
    """Return how many calls more to take beside `count`, which carry `inputs`; 0: it is full."""
    room = max_inputs - inputs
    alike = int(room * _SHARE * count / max(inputs, 1))
    more = max(min(alike, count * _GROWTH), room // CALL_INPUTS_MAX)
    return more if more >= max(count * _WORTH, 1) else 0
