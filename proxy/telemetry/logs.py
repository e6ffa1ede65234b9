"""Set up structured logging: one JSON line an event, or a form for people.

Lines are written by a thread of their own from a bounded queue. A pipe that its
reader lets fill up would otherwise stop the event loop, and every call with it;
so lines are dropped then, counted, and the count is logged once it flows again.
"""

import atexit
import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import BinaryIO, Final, Literal

import structlog
from pydantic_core import to_json
from structlog.typing import EventDict, Processor, WrappedLogger

from proxy.telemetry.events import UNLISTED, UnlistedEventError, is_listed
from proxy.telemetry.redact import redact_facts

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]

_LINES_MAX: Final = 10_000
"""About 5 MB: seconds of a busy instance, for a reader that pauses."""

_GATHER_S: Final = 0.02
"""Waking the thread once for many lines keeps it out of the event loop's way."""


class LineWriter:
    """Writes lines to a stream without ever keeping their maker waiting."""

    def __init__(self, stream: BinaryIO, *, lines_max: int = _LINES_MAX) -> None:
        self._stream = stream
        self._lines: deque[bytes] = deque()
        self._lines_max = lines_max
        self._dropped = 0
        self._wanted = threading.Event()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None

    def write(self, line: bytes | str) -> None:
        """Queue one line, or count it as dropped if too many wait already."""
        if len(self._lines) >= self._lines_max:
            self._dropped += 1
            return
        # What a caller wrote may hold half a surrogate pair.
        self._lines.append(line.encode("utf-8", "replace") if isinstance(line, str) else line)
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
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            dropped, self._dropped = self._dropped, 0
            if dropped:
                lines.append(b'{"event": "log.dropped", "level": "warning", "lines": %d}' % dropped)
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


def set_up_logging(
    *,
    level: Level = "info",
    form: Format = "auto",
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
    structlog.configure(
        processors=processors(for_people=for_people, strict=strict),
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


def processors(*, for_people: bool, strict: bool) -> list[Processor]:
    """Return what an event passes through; the last one makes the line."""
    render: Processor = render_json
    if for_people:
        render = structlog.dev.ConsoleRenderer(
            exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
        )
    return [
        check_listed(strict=strict),
        # Before redaction: an exception's text may quote what it failed on.
        structlog.processors.format_exc_info,
        _redact,
        # After it: no stamp is like another, so that looking through them would be dear.
        stamp,
        render,
    ]


def stamp(_logger: WrappedLogger, method: str, facts: EventDict) -> EventDict:
    """Add the level and the time to an event."""
    facts["level"] = method
    # The clock of the log alone: what is decided by time has a clock that tests set.
    facts["timestamp"] = datetime.now(UTC).isoformat()[:-6] + "Z"  # noqa: TID251
    return facts


def render_json(_logger: WrappedLogger, _method: str, facts: EventDict) -> bytes:
    """Return an event as one line of JSON."""
    try:
        return to_json(facts, fallback=repr)
    except ValueError:
        # Bytes of a target that are no text are kept as surrogates, which are no UTF-8.
        return json.dumps(facts, default=repr).encode()


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
