"""Set up structured logging: one JSON line an event, or a form for people.

Lines are written by a thread of their own from a bounded queue. A pipe that its
reader lets fill up would otherwise stop the event loop, and every call with it;
so lines are dropped then, counted, and the count is logged once it flows again.
"""

import atexit
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import BinaryIO, Final, Generic, Literal, Self, TypeVar

import structlog
from pydantic_core import to_json
from structlog.typing import EventDict, Processor, WrappedLogger

from proxy.core.compact_json import compact_json
from proxy.telemetry.events import UNLISTED, UnlistedEventError, is_listed
from proxy.telemetry.redact import redact_facts

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]

T = TypeVar("T")

_LINES_MAX: Final = 10_000
"""About 5 MB: seconds of a busy instance, for a reader that pauses."""

_GATHER_S: Final = 0.02
"""Waking the thread once for many lines keeps it out of the event loop's way."""


class LineWriter:
    """Writes lines to a stream without ever keeping their maker waiting.

    As a context it is flushed at the end of the block.
    """

    def __init__(self, stream: BinaryIO, *, lines_max: int = _LINES_MAX) -> None:
        self._stream = stream
        self._lines: deque[str | partial[bytes]] = deque()
        self._lines_max = lines_max
        self._dropped = 0
        self._wanted = threading.Event()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def write(self, line: "str | partial[bytes]") -> None:
        """Queue one line, or what makes it, or count it as dropped if too many wait already."""
        if len(self._lines) >= self._lines_max:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._wanted.is_set():
            self._wanted.set()
            if self._thread is None:
                # Started late: a process that forks before it logs stays whole.
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()

    debug = info = warning = error = critical = msg = write

    def flush(self) -> None:
        """Write what is queued, in the caller's own thread."""
        with self._writing:
            waiting = [self._lines.popleft() for _ in range(len(self._lines))]
            made = [_made(line) for line in waiting]
            lines = [line for line in made if line is not None]
            dropped, self._dropped = self._dropped + len(made) - len(lines), 0
            if dropped:
                facts: EventDict = {"event": "log.dropped", "lines": dropped}
                lines.append(compact_json(_stamped(facts, "warning", _moment())))
            if not lines:
                return
            try:
                self._stream.write(b"\n".join(lines) + b"\n")
                self._stream.flush()
            except (OSError, ValueError):
                # The reader is gone or the stream closed. Nobody is left to tell.
                return

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            time.sleep(_GATHER_S)
            self._wanted.clear()
            self.flush()


def _made(line: "str | partial[bytes]") -> bytes | None:
    if isinstance(line, str):
        # What a caller wrote may hold half a surrogate pair.
        return line.encode("utf-8", "replace")
    try:
        return line()
    except Exception:  # noqa: BLE001 - a fact that cannot be written must not end the log
        return None


def set_up_logging(
    *,
    level: Level = "info",
    form: Format,
    stream: BinaryIO | None = None,
    strict: bool = False,
    bridge: bool = True,
) -> LineWriter:
    """Configure structlog for the whole process; call once, before the first event.

    `form` `auto` is for people if `stream` (standard error) is a terminal. With
    `strict` an event that is not listed raises. With `bridge` the warnings of
    libraries that use `logging` arrive as `library.logged`, redacted like ours.
    """
    target = stream or sys.stderr.buffer
    for_people = form == "console" or (form == "auto" and target.isatty())
    writer = LineWriter(target)
    pipeline = processors(for_people=for_people, strict=strict)
    _direct.pipeline = pipeline
    _direct.writer = writer if level in {"debug", "info"} else None
    structlog.configure(
        processors=pipeline,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    if bridge:
        root = logging.getLogger()
        root.handlers[:] = [_Bridge()]
        root.setLevel(logging.WARNING)
        logging.captureWarnings(capture=True)
    atexit.register(writer.flush)
    return writer


class Line(Generic[T]):
    """An event that is logged with every call.

    Facts that are the same each time are looked through and written once; the others by the
    writer's thread, many at a time. It differs from other events in nothing but cost.
    """

    __slots__ = ("_event", "_facts", "_head", "_same")

    def __init__(
        self, event: str, facts: Callable[[T], Mapping[str, object]], **same: object
    ) -> None:
        """`facts` tells the others, by what is given to `info`, in another thread."""
        self._event = event
        self._facts = facts
        self._same = same
        self._head = to_json(redact_facts(same) | {"event": event})[:-1]

    def info(self, of: T) -> None:
        """Log it. `of` must not change any more."""
        writer = _direct.current()
        if writer is None:
            structlog.get_logger().info(self._event, **self._same, **self._facts(of))
        else:
            writer.write(partial(self._written, of, _moment()))

    def _written(self, of: T, at: float) -> bytes:
        facts = _stamped(redact_facts(self._facts(of)), "info", at)
        return b"%b,%b" % (self._head, compact_json(facts, fallback=repr)[1:])


@dataclass
class _Direct:
    """Where whole lines of JSON may go, past structlog, while it is set up as it was here."""

    pipeline: list[Processor] | None = None
    writer: LineWriter | None = None

    def current(self) -> LineWriter | None:
        """Return the writer, unless somebody else looks at events, as tests do."""
        pipeline: list[Processor] = structlog.get_config()["processors"]
        as_set_up = pipeline is self.pipeline and pipeline[-1] is render_later
        return self.writer if as_set_up else None


_direct: Final = _Direct()


def processors(*, for_people: bool, strict: bool) -> list[Processor]:
    """Return what an event passes through; the last one makes the line."""
    # Exceptions before redaction: the text of one may quote what it failed on.
    first: list[Processor] = [check_listed(strict=strict), structlog.processors.format_exc_info]
    if not for_people:
        return [*first, render_later]
    render = structlog.dev.ConsoleRenderer(
        exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
    )
    return [*first, _redact, _tame, stamp, render]


def stamp(_logger: WrappedLogger, method: str, facts: EventDict) -> EventDict:
    """Add the level and the time to an event."""
    return _stamped(facts, method, _moment())


def render_later(
    _logger: WrappedLogger, method: str, facts: EventDict
) -> tuple[tuple[partial[bytes]], dict[str, object]]:
    """Return what makes an event one line of JSON, for the writer's thread to call.

    Looking through the facts of one line at a time, with cold caches, would cost whoever logs it
    more; the thread does many at a time. The facts must not change any more.
    """
    return (partial(_rendered, facts, method, _moment()),), {}


def _rendered(facts: EventDict, level: str, at: float) -> bytes:
    # The stamp after redaction: none is like another, so that looking through them is dear.
    return compact_json(_stamped(redact_facts(facts), level, at), fallback=repr)


def _moment() -> float:
    # The clock of the log alone: what is decided by time has a clock that tests set.
    return time.time()  # noqa: TID251


def _stamped(facts: EventDict, level: str, at: float) -> EventDict:
    facts["level"] = level
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
    facts["timestamp"] = moment[:-6] + "Z"
    return facts


def check_listed(*, strict: bool) -> Callable[[WrappedLogger, str, EventDict], EventDict]:
    """Return a processor that knows the closed list of events.

    An unknown name raises if `strict`. Otherwise the line is kept, so that no
    news is lost, but without the name: it may hold anything.
    """

    def check(_logger: WrappedLogger, _method: str, facts: EventDict) -> EventDict:
        if not is_listed(facts["event"]):
            if strict:
                raise UnlistedEventError(facts["event"])
            facts["event"] = UNLISTED
        return facts

    return check


def _redact(_logger: WrappedLogger, _method: str, facts: EventDict) -> EventDict:
    return redact_facts(facts)


def _tame(_logger: WrappedLogger, _method: str, facts: EventDict) -> EventDict:
    """Take out of an event what a terminal would obey: names of models are their caller's."""
    return {name: _tamed(value) for name, value in facts.items()}


def _tamed(value: object) -> object:
    # What is no text is shown as `repr` has it, and a traceback has lines.
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}"
        for char in value
    )


class _Bridge(logging.Handler):
    """Hands the records of libraries on as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = structlog.get_logger()
            report = log.error if record.levelno >= logging.ERROR else log.warning
            report(
                "library.logged",
                logger=record.name,
                message=record.getMessage(),
                exc_info=record.exc_info or None,
            )
        except Exception:  # noqa: BLE001 - a library's broken record must not stop its caller
            self.handleError(record)
