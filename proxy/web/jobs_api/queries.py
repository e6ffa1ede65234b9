"""What callers of the jobs API may ask for, read strictly: a typo is no empty answer. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from proxy.core.errors import CallerError, JobNotFoundError
from proxy.core.ids import JOB_ID_PATTERN, JobId, is_job_id
from proxy.core.job import JobState
from proxy.core.loose_json import loose_json
from proxy.ports.jobs import JobFilter
from proxy.web.answering.job_object import STATUS_WORDS

MAX_LIMIT: Final = 1_000
DEFAULT_LIMIT: Final = 20
"""As in OpenAI's listings."""

MAX_WAIT_S: Final = 240.0
"""Longer waits are cut to this: Node's `fetch` gives up after 300 s of silence."""

MAX_IDS: Final = 10_000

_STATES: Final[Mapping[str, frozenset[JobState]]] = {
    word: frozenset(state for state, told in STATUS_WORDS.items() if told == word)
    for word in STATUS_WORDS.values()
}

# Gemini's API takes the credential in the query, so it may stand in ours.
_CREDENTIAL: Final = "key"


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of an owner's jobs."""

    where: JobFilter
    after: JobId | None
    limit: int


@dataclass(frozen=True, slots=True)
class BulkQuery:
    """Which results to stream: of these jobs, or of all that match."""

    ids: tuple[str, ...] | None
    """As the caller wrote them: one that is no ID names no job."""

    where: JobFilter


def read_listing(target: str) -> Listing:
    """Read the query of a listing.

    Raises:
        CallerError: naming the parameter at fault.
        JobNotFoundError: if `after` looks like an ID and can be none.
    """
    query = _query(target, {"status", "tag", "after", "limit"})
    after = query.get("after")
    if after is not None and not JOB_ID_PATTERN.fullmatch(after):
        raise _bad("after", "the ID of a job")
    if after is not None and not is_job_id(after):
        raise JobNotFoundError(after)
    limit = query.get("limit", str(DEFAULT_LIMIT))
    if not _is_number(limit) or not 1 <= int(limit) <= MAX_LIMIT:
        raise _bad("limit", f"a number from 1 to {MAX_LIMIT}")
    where = _filter(query.get("status"), query.get("tag"))
    return Listing(where, None if after is None else JobId(after), int(limit))


def read_wait(target: str) -> float:
    """Read `?wait=`, in seconds and at most `MAX_WAIT_S`.

    Raises:
        CallerError: if it is no number of seconds.
    """
    wait = _query(target, {"wait"}).get("wait", "0")
    if not _is_number(wait):
        raise _bad("wait", "a whole number of seconds")
    return min(float(wait), MAX_WAIT_S)


def check_whole(target: str) -> None:
    """Check that a Response is not asked for as a stream of events.

    An SDK that asks for one finds no event in a whole Response, and does not complain.

    Raises:
        CallerError: if it is.
    """
    _, _, query = target.partition("?")
    if dict(parse_qsl(query)).get("stream", "false").lower() != "false":
        raise CallerError(
            "the Response of a job is told whole: retrieve it without `stream`,"
            " or make the call with `X-Deferrable: wait` and `stream: true`",
            param="stream",
            code="invalid_parameter",
        )


def read_bulk(body: bytes) -> BulkQuery:
    """Read the body of a request for many results.

    Raises:
        CallerError: naming the member at fault.
    """
    try:
        content = loose_json(body)
    except ValueError as exc:
        message = f"the body cannot be read as JSON: {exc}"
        raise CallerError(message, code="invalid_json") from exc
    if not isinstance(content, dict) or not content:
        raise _bad("body", "an object with `ids`, or with `tag` or `status` or both")
    for name in content:
        if name not in {"ids", "tag", "status"}:
            raise _bad(str(name)[:64], "absent: only `ids`, `tag` and `status` are known")
        if content[name] is None:
            # Read as absent, it would ask for everything that the caller has.
            raise _bad(name, "something; leave it out instead of sending null")
    ids, tag, status = content.get("ids"), content.get("tag"), content.get("status")
    if ids is not None and (tag is not None or status is not None):
        raise _bad("ids", "alone, without `tag` or `status`")
    if ids is None:
        return BulkQuery(None, _filter(status, tag))
    if not isinstance(ids, list) or not 1 <= len(ids) <= MAX_IDS:
        raise _bad("ids", f"a list of 1 to {MAX_IDS} IDs")
    if not all(isinstance(each, str) and len(each) <= 64 for each in ids):
        raise _bad("ids", "a list of IDs, each a string")
    return BulkQuery(tuple(dict.fromkeys(ids)), JobFilter())


def _filter(status: object, tag: object) -> JobFilter:
    states = None
    if status is not None:
        names = status if isinstance(status, list) else str(status).split(",")
        if not names or not all(isinstance(name, str) and name in _STATES for name in names):
            raise _bad("status", f"one or several of {', '.join(_STATES)}")
        states = frozenset().union(*(_STATES[name] for name in names))
    pair = None
    if tag is not None:
        name, equals, value = str(tag).partition("=")
        if not (name and equals and value):
            raise _bad("tag", "name=value")
        pair = (name, value)
    return JobFilter(states=states, tag=pair)


def _query(target: str, known: Collection[str]) -> dict[str, str]:
    _, _, text = target.partition("?")
    found: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name == _CREDENTIAL:
            continue
        if name not in known:
            raise _bad(name[:64], f"absent: the query may hold {', '.join(sorted(known))}")
        if found.setdefault(name, value) != value:
            raise _bad(name, "given once")
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 9


def _bad(param: str, allowed: str) -> CallerError:
    return CallerError(f"`{param}` must be {allowed}", param=param, code="invalid_parameter")
