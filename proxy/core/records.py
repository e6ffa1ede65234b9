"""Records that are made and copied by the ten thousand.

The generated `__init__` of a frozen record sets each field by `object.__setattr__`, and
`dataclasses.replace` reads each by its name besides. For a record of thirty fields that
is most of what reading a result costs. Without slots a record is a dict, which is
filled and copied in one step.
"""

from dataclasses import fields
from typing import Any, Generic, TypeVar

Record = TypeVar("Record")


class Maker(Generic[Record]):
    """Makes records of one dataclass that has no slots and no `__post_init__`."""

    def __init__(self, kind: type[Record]) -> None:
        self._kind = kind
        self._names = frozenset(field.name for field in fields(kind))  # type: ignore[arg-type]
        assert not hasattr(kind, "__post_init__"), "it would not be called"
        assert not hasattr(kind, "__slots__"), "it has no dict to be filled"

    def make(self, values: dict[str, Any]) -> Record:
        """Return the record with these values, one for each field, which are its own now.

        Raises:
            KeyError: if there is another number of them, or one for no field.
        """
        if values.keys() != self._names:
            raise KeyError(f"these are not the fields of a {self._kind.__name__}")
        return self._filled(values)

    def changed(self, record: Record, **changes: Any) -> Record:
        """Return a copy of `record` with other values in the fields that are named.

        Raises:
            KeyError: if one is for no field.
        """
        if not self._names.issuperset(changes):
            raise KeyError(f"these are not fields of a {self._kind.__name__}")
        return self._filled(vars(record) | changes)

    def _filled(self, values: dict[str, Any]) -> Record:
        made = object.__new__(self._kind)
        # Past the record's own `__setattr__`, which refuses.
        object.__setattr__(made, "__dict__", values)
        return made
