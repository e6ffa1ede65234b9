"""What goes wrong on purpose, programmable while the sandbox runs.

Three kinds, each a frozen record: `HttpFault` acts on one exchange, `BatchFault` on a whole
batch, `LineFault` on lines inside batches. `FaultBook` holds those in force and answers
which one applies; every match uses up one of its `count`.
"""

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

HttpAction = Literal["status", "delay", "reset_before", "reset_after", "truncate", "stall"]
LineOutcome = Literal["status", "missing", "unparsable", "duplicate", "foreign"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFault:
    """Break matching exchanges: the `nth` match and the `count - 1` after it.

    `status` refuses without doing anything. `reset_before` drops the connection with nothing
    done; `reset_after` drops it when all is done and billed. `truncate` and `stall` send
    `after_bytes` of the body, then cut the connection, or send nothing more; the work is done
    and billed in full.
    """

    action: HttpAction
    method: str = "*"
    path: str = "*"
    """Glob over the path, e.g. `/v1/batches` or `/v1/files/*/content`."""
    key_id: str | None = None
    model: str | None = None
    """Glob over the request's `model`; a body that is not JSON never matches."""
    nth: int = 1
    count: int | None = 1
    """How many matches are hit; None: all from the nth on."""
    status: int = 500
    code: str | None = None
    error_type: str | None = None
    message: str = "The sandbox was told to refuse this request."
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    """Sent instead of an error envelope, verbatim."""
    delay_s: float = 0.0
    """Waited before everything else, for any action."""
    after_bytes: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFault:
    """Spoil matching batches from their creation on, or one existing batch (`batch_id`)."""

    batch_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    """Glob over the model of the first line."""
    nth: int = 1
    count: int | None = 1
    stick_in: Literal["validating", "in_progress", "finalizing", "cancelling"] | None = None
    """Never leave that status until the fault is removed, not even at `expires_at`.

    A batch that is released after its window expires then, with what is finished.
    """
    vanish: Literal["not_found", "error_body"] | None = None
    """Not listed; retrieved as 404, or as 200 with an `error` member only."""
    shown_status: str | None = None
    """A status string to show instead of the true one."""
    file_ids: Literal["empty_absent", "empty_all"] | None = None
    """Once terminal, show `""` for file ids that are null, or for all."""
    expire: bool = False
    """Expire as soon as the fault is seen, with what is finished by then."""
    fail_code: str | None = None
    """End as `failed` with this error code instead of starting."""
    fail_message: str = "The sandbox was told to fail this batch."
    fail_line: int | None = None
    stop_after: int | None = None
    """Finish only so many lines, then make no progress until cancel or expiry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFault:
    """Spoil matching lines inside batches.

    `status` refuses the line (not executed, not billed). The others bill it: `missing` loses its
    result, `unparsable` breaks it, `duplicate` writes it twice, `foreign` adds a line with
    a custom_id that nobody sent.
    """

    outcome: LineOutcome
    custom_id: str = "*"
    key_id: str | None = None
    model: str | None = None
    nth: int = 1
    count: int | None = 1
    every: int = 1
    """Of the matches in force, hit each `every`-th only."""
    status: int = 500
    code: str | None = None
    error_type: str | None = None
    message: str = "The server had an error processing your request."


Fault = HttpFault | BatchFault | LineFault


@dataclass(slots=True)
class Armed:
    """A fault in force, with how often it matched and hit."""

    id: str
    fault: Fault
    seen: int = 0
    hits: int = 0

    def strike(self) -> bool:
        """Count one match; return whether it is hit."""
        self.seen += 1
        if self.seen < self.fault.nth:
            return False
        if self.fault.count is not None and self.hits >= self.fault.count:
            return False
        every = self.fault.every if isinstance(self.fault, LineFault) else 1
        if (self.seen - self.fault.nth) % every:
            return False
        self.hits += 1
        return True


class FaultBook:
    """The faults in force, oldest first; the first that hits wins."""

    def __init__(self) -> None:
        self._armed: dict[str, Armed] = {}
        self._issued = 0
        self._listeners: list[Callable[[], None]] = []
        self.version = 0
        """Grows with every change, so that what waits on a fault sees that it must look again."""

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change."""
        self._listeners.append(listener)

    def add(self, fault: Fault) -> str:
        """Put a fault in force; return the ID under which it can be removed."""
        self._issued += 1
        identity = f"fault_{self._issued}"
        self._armed[identity] = Armed(identity, fault)
        self._announce()
        return identity

    def remove(self, identity: str) -> bool:
        """Lift one fault; batches that it holds go on. Return whether it was in force."""
        lifted = self._armed.pop(identity, None) is not None
        self._announce()
        return lifted

    def clear(self) -> None:
        """Lift all faults."""
        self._armed.clear()
        self._announce()

    def armed(self) -> list[Armed]:
        """Return all faults in force, with their counts."""
        return list(self._armed.values())

    def for_exchange(
        self, *, method: str, path: str, key_id: str, model: str | None
    ) -> HttpFault | None:
        """Return the fault that hits this exchange, if any."""
        for armed in self.armed():
            fault = armed.fault
            if (
                isinstance(fault, HttpFault)
                and _globs(method, fault.method)
                and _globs(path, fault.path)
                and _suits(fault, key_id, model)
                and armed.strike()
            ):
                return fault
        return None

    @property
    def asks_for_models(self) -> bool:
        """Whether any exchange fault looks into bodies; else they need not be parsed."""
        return any(isinstance(a.fault, HttpFault) and a.fault.model for a in self.armed())

    def for_new_batch(self, *, key_id: str, model: str | None) -> tuple[str, ...]:
        """Return the IDs of the batch faults that hit a batch with this key and model."""
        return tuple(
            armed.id
            for armed in self.armed()
            if isinstance(armed.fault, BatchFault)
            and armed.fault.batch_id is None
            and _suits(armed.fault, key_id, model)
            and armed.strike()
        )

    def of_batch(self, batch_id: str, attached: tuple[str, ...]) -> Iterator[BatchFault]:
        """Yield what is in force for a batch: attached at creation, or naming it."""
        for armed in self._armed.values():
            fault = armed.fault
            if isinstance(fault, BatchFault) and (
                armed.id in attached or fault.batch_id == batch_id
            ):
                yield fault

    def for_line(self, *, custom_id: str, key_id: str, model: str | None) -> LineFault | None:
        """Return the fault that hits this line, if any."""
        for armed in self.armed():
            fault = armed.fault
            if (
                isinstance(fault, LineFault)
                and _globs(custom_id, fault.custom_id)
                and _suits(fault, key_id, model)
                and armed.strike()
            ):
                return fault
        return None

    def _announce(self) -> None:
        self.version += 1
        for listener in self._listeners:
            listener()


def _suits(fault: Fault, key_id: str, model: str | None) -> bool:
    if fault.key_id not in (None, key_id):
        return False
    return fault.model is None or (model is not None and _globs(model, fault.model))


def _globs(value: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(value, pattern)
