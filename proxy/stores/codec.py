"""Records as compact JSON, with the number of the schema that wrote them.

The fields are read off the dataclasses, so that a record cannot gain a field that
a store forgets. A field that holds its default is left out: most of a job's do.
A field that is added, renamed or retyped needs a new `RECORD_SCHEMA`, since an
older instance must refuse what it would truncate.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from types import UnionType
from typing import Any, Final, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic_core import from_json

from proxy.core.batch import Batch
from proxy.core.compact_json import compact_json
from proxy.core.errors import StoreCorruptError
from proxy.core.job import ENDED, Job, JobState
from proxy.core.lanes import BatchKey
from proxy.core.records import Maker

RECORD_SCHEMA: Final = 2

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_REQUIRED: Final = object()

Convert = Callable[[Any], Any]
Record = TypeVar("Record")
Made = TypeVar("Made")
Absent = TypeVar("Absent")


def to_micros(at: datetime) -> int:
    """Return `at` as microseconds since 1970: exact, ordered, and short."""
    return (at - _EPOCH) // _MICROSECOND


def to_micros_or(at: datetime | None, absent: Absent) -> int | Absent:
    """Return `to_micros(at)`, or `absent`, which is how the store writes that there is no time."""
    return absent if at is None else to_micros(at)


def from_micros(micros: int) -> datetime:
    """Return the time, in UTC, that `to_micros` was given.

    Raises:
        StoreCorruptError: if there is no such time.
    """
    try:
        # A product is exact, and takes a quarter of what making the interval takes.
        return _EPOCH + micros * _MICROSECOND
    except OverflowError:
        raise StoreCorruptError("a stored time cannot be read") from None


def encode_job(job: Job) -> str:
    """Return the job as text."""
    return _JOBS.encode(job)


def encode_ending(job: Job) -> str:
    """Return what the end of a job changed of its record, as text."""
    return _ending(job)


def decode_job(
    text: str | bytes, claimed_by: str | None = None, ending: str | bytes | None = None
) -> Job:
    """Return the job that `encode_job` was given, as a claim or its end have changed it.

    Raises:
        StoreCorruptError: if a text is none, or a newer version's.
    """
    return _JOBS.read(
        lambda: _job(_loads(text), claimed_by, None if ending is None else _loads(ending))
    )


def decode_jobs(text: str) -> list[Job]:
    """Return what `decode_job` does, of many at once: of a list of its three parameters each.

    Raises:
        StoreCorruptError: as `decode_job`, if one cannot be read.
    """
    return _JOBS.read(lambda: [_job(*parts) for parts in _loads(text)])


def encode_batch(batch: Batch) -> str:
    """Return the batch as text."""
    return _BATCHES.encode(batch)


def decode_batch(text: str | bytes) -> Batch:
    """Return the batch that `encode_batch` was given.

    Raises:
        StoreCorruptError: if the text is none, or a newer version's.
    """
    return _BATCHES.decode(text)


@lru_cache(maxsize=4096)
def encode_key(key: BatchKey) -> str:
    """Return the batch key as text; equal keys give equal texts."""
    return _dumps(_key_to_list(key))


@lru_cache(maxsize=4096)
def decode_key(text: str | bytes) -> BatchKey:
    """Return the batch key that `encode_key` was given.

    Raises:
        StoreCorruptError: if the text is none.
    """
    return _read("BatchKey", lambda: _key_from_list(json.loads(text)))


def _read(what: str, make: Callable[[], Made]) -> Made:
    """Return what `make` makes of something stored, whose failures are the store's."""
    try:
        return make()
    except (AttributeError, KeyError, TypeError, ValueError):
        # Without the cause: it would show contents.
        raise StoreCorruptError(f"a stored {what} cannot be read") from None


class _RecordCodec(Generic[Record]):
    """Encodes and decodes one dataclass."""

    def __init__(self, record: type[Record]) -> None:
        hints = get_type_hints(record)
        self._record = record
        self._make = Maker(record).make
        members = fields(record)  # type: ignore[arg-type]
        both_ways = {member.name: _converters(hints[member.name]) for member in members}
        self._plan = [
            (member.name, _default(member), both_ways[member.name][0]) for member in members
        ]
        self._defaults = {
            name: default for name, default, _ in self._plan if default is not _REQUIRED
        }
        self._back = [(name, back) for name, (_, back) in both_ways.items() if back is not None]

    def encode(self, record: Record) -> str:
        return _dumps({"v": RECORD_SCHEMA} | self.to_dict(record))

    def encoder_of(self, names: Collection[str]) -> Callable[[Record], str]:
        """Return what encodes fields of these names alone, whatever they hold."""
        plan = [(name, convert) for name, _, convert in self._plan if name in names]

        def encode(record: Record) -> str:
            values = vars(record)
            data: dict[str, Any] = {"v": RECORD_SCHEMA}
            for name, convert in plan:
                value = values[name]
                data[name] = value if convert is None or value is None else convert(value)
            return _dumps(data)

        return encode

    def to_dict(self, record: Record) -> dict[str, Any]:
        values = vars(record)
        data = {}
        for name, default, convert in self._plan:
            value = values[name]
            # Most are their default itself, and comparing records and times is slow.
            if value is not default and (default is _REQUIRED or value != default):
                data[name] = value if convert is None or value is None else convert(value)
        return data

    def decode(self, text: str | bytes) -> Record:
        return self.read(lambda: self.from_stored(_loads(text)))

    def read(self, make: Callable[[], Made]) -> Made:
        """Return what `make` makes of stored records, whose failures are the store's."""
        return _read(self._record.__name__, make)

    def from_stored(self, data: dict[str, Any]) -> Record:
        """Return the record of what `encode` wrote; takes its schema off."""
        schema = data.pop("v")
        if schema > RECORD_SCHEMA:
            raise StoreCorruptError(
                f"a {self._record.__name__} was written by a newer version (schema {schema})",
                hint="start the newer version again",
            )
        return self.from_dict(data)

    def from_dict(self, data: Mapping[str, Any]) -> Record:
        values = {**self._defaults, **data}
        for name, convert in self._back:
            if (value := data.get(name)) is not None:
                values[name] = convert(value)
        return self._make(values)


def _dumps(data: Any) -> str:
    return compact_json(data).decode()


def _loads(text: str | bytes) -> Any:
    try:
        return from_json(text)
    except ValueError:
        # Slower by half, and takes half a surrogate pair.
        return json.loads(text)


def _default(member: Field[Any]) -> object:
    if member.default is not MISSING:
        return member.default
    if member.default_factory is not MISSING:
        return member.default_factory()
    return _REQUIRED


def _converters(hint: Any) -> tuple[Convert | None, Convert | None]:
    """Return how a field goes to JSON and comes back; nothing where it goes as it is."""
    if get_origin(hint) in {UnionType, Union}:
        (hint,) = (one for one in get_args(hint) if one is not type(None))
    hint = getattr(hint, "__supertype__", hint)
    if hint is datetime:
        return to_micros, from_micros
    if hint is BatchKey:
        return _key_to_list, _key_from_list
    if get_origin(hint) is Mapping:
        return dict, None
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        return None, _pairs if get_origin(inner) is tuple else tuple
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        # The encoder takes members, too, but needs over a microsecond for each.
        return str, {one.value: one for one in hint}.__getitem__
    if is_dataclass(hint) and isinstance(hint, type):
        nested = _RecordCodec(hint)
        return nested.to_dict, nested.from_dict
    assert hint in {str, int, float, bool}, f"no way to store a {hint}"
    return None, None


def _job(
    data: dict[str, Any], claimed_by: str | None = None, ending: dict[str, Any] | None = None
) -> Job:
    if ending is not None:
        data |= {**ending, "v": max(data["v"], ending["v"])}
    elif claimed_by is not None:
        _claim(data, claimed_by)
    return _JOBS.from_stored(data)


def _claim(job: dict[str, Any], batch_id: str) -> None:
    # What `advance(job, Assigned(batch_id))` does, before the record is made: a batch
    # of 50,000 is read often, and frozen records are dear to copy.
    job["state"] = _BATCHED
    job["batch_id"] = batch_id
    job["attempt"] = job.get("attempt", 0) + 1
    job["version"] = job.get("version", 0) + 1


@lru_cache(maxsize=4096)
def _key_to_list(key: BatchKey) -> tuple[Any, ...]:
    values = [getattr(key, name) for name in _KEY_FIELDS]
    return tuple(str(value) if isinstance(value, StrEnum) else value for value in values)


def _key_from_list(values: list[Any]) -> BatchKey:
    lane, upstream, credential, endpoint, model, headers, urgency = values
    return _key(lane, upstream, credential, endpoint, model, _pairs(headers), urgency)


@lru_cache(maxsize=4096)
def _key(*values: Any) -> BatchKey:
    """Return one and the same key for the thousands of jobs that share it."""
    return _KEYS.from_dict(dict(zip(_KEY_FIELDS, values, strict=True)))


def _pairs(values: list[list[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(map(tuple, values))


_BATCHED: Final = JobState.BATCHED.value
_KEY_FIELDS: Final = tuple(member.name for member in fields(BatchKey))
_KEYS: Final = _RecordCodec(BatchKey)
_JOBS: Final = _RecordCodec(Job)
_ending: Final = _JOBS.encoder_of(ENDED)
_BATCHES: Final = _RecordCodec(Batch)
