"""Changed copies of records, where they are made by the ten thousand.

`dataclasses.replace` reads each field by its name, and the generated `__init__` of a
frozen record sets each by `object.__setattr__`. For a record of thirty fields that is
most of what reading a result costs.
"""

from dataclasses import fields
from operator import attrgetter
from typing import Any, Generic, TypeVar

Record = TypeVar("Record")


class Copier(Generic[Record]):
    """Copies records of one frozen, slotted dataclass without `__post_init__`."""

    def __init__(self, kind: type[Record]) -> None:
        names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
        assert not hasattr(kind, "__post_init__"), "it would not be called"
        self._kind = kind
        self._values = attrgetter(*names)
        # The slots themselves: a frozen record guards its attributes, not these.
        self._slots = {name: vars(kind)[name].__set__ for name in names}
        self._setters = tuple(self._slots.values())

    def __call__(self, record: Record, **changes: Any) -> Record:
        """Return a copy of `record` with other values in the fields that are named."""
        copy = object.__new__(self._kind)
        for put, value in zip(self._setters, self._values(record), strict=True):
            put(copy, value)
        for name, value in changes.items():
            self._slots[name](copy, value)
        return copy
