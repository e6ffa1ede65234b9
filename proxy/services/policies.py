"""The rules in force: read at start, and again whenever their file changes.

A set of rules is replaced as a whole or not at all. A file that cannot be used
keeps the rules that are in force; what is wrong with it is logged and counted.
The YAML library is imported with the first file, so never where there is none.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from policies.model import Answer
from policies.policy import Policy
from proxy.core.errors import ConfigError
from proxy.settings.checks import A_PIPE, is_named_pipe
from proxy.telemetry import Metrics

if TYPE_CHECKING:
    from policies.load import PolicyFile

log = structlog.get_logger()

_BYTES_MAX: Final = 1 << 20
"""How long a file may be: as many characters as the loader takes, at four bytes each."""

_COMPLAINTS_LOGGED: Final = 20
"""A line of the log must not become a page; `offramp policy test` shows all."""

_HINT: Final = (
    "`offramp policy test FILE` shows them again, `offramp policy schema` what is allowed"
)

Signature = tuple[int, ...]
"""What shows that a file may have changed; empty if there is none."""


class BadPoliciesError(ConfigError):
    """A rule file cannot be used; `complaints` says why, one `file:line:column: text` each."""

    code = "bad_policies"

    def __init__(self, complaints: Sequence[str]) -> None:
        self.complaints = tuple(complaints)
        super().__init__("\n".join(self.complaints), hint=_HINT)


def read_policies(file: Path) -> "PolicyFile":
    """Return what stands in a rule file; `-` is no special name here.

    Raises:
        BadPoliciesError: with everything that is wrong with it.
    """
    return _parse(_content(file), file)


def _refuse_pipe(file: Path) -> None:
    # It can be read once, and a service that stops would wait for the pass that waits for it.
    if file.is_fifo():
        raise BadPoliciesError([f"{file}: {A_PIPE}"])


def _content(file: Path) -> bytes:
    try:
        if is_named_pipe(file):
            raise BadPoliciesError([f"{file}: {A_PIPE}"])
        with file.open("rb") as opened:
            return opened.read(_BYTES_MAX + 1)
    except OSError as exc:
        raise BadPoliciesError([f"{file}: cannot be read: {exc.strerror}"]) from exc


def _parse(content: bytes, file: Path) -> "PolicyFile":
    from policies.load import PolicyError, load_policies  # noqa: PLC0415 - see the module

    try:
        return load_policies(content.decode("utf-8-sig"), str(file))
    except UnicodeDecodeError as exc:
        raise BadPoliciesError([f"{file}: byte {exc.start} is no UTF-8"]) from exc
    except PolicyError as exc:
        raise BadPoliciesError(str(exc).splitlines()) from exc


@dataclass(frozen=True, slots=True)
class _Read:
    """One reading of the file, and what came of it."""

    digest: str
    policies: "PolicyFile | None" = None
    error: BadPoliciesError | None = None


class Policies:
    """Holds the policy in force. `run_once` is a pass of about a second.

    A changed file is read by the pass after the one that first sees the change:
    whoever writes it in two strokes is not met in between.
    """

    def __init__(self, file: Path, policy: Policy, digest: str, *, metrics: Metrics) -> None:
        """`policy` is what the file says; made by `open_policies`."""
        self._file = file
        self._policy = policy
        self._metrics = metrics
        self._in_force = digest
        self._refused: str | None = None
        self._asked = False
        self._seen: Signature | None = None
        self._settled: Signature | None = None
        self._show()

    def current(self) -> Policy:
        """Return the policy in force; a call asks once and keeps it to its end."""
        return self._policy

    def ask(self) -> None:
        """Let the next pass read the file, whether or not it looks changed (SIGHUP)."""
        self._asked = True

    async def run_once(self) -> int:
        """Read the file if it changed; return whether its rules are in force since now.

        What it says decides: a file that is only touched, or swapped for an equal
        one, is no news. Works in a thread, as parsing takes long.
        """
        asked, self._asked = self._asked, False
        seen = await asyncio.to_thread(_signature, self._file)
        if not asked and (seen == self._settled or seen != self._seen):
            self._seen = seen
            return 0
        read = await asyncio.to_thread(self._read, asked=asked)
        self._seen = await asyncio.to_thread(_signature, self._file)
        # Two changes within one tick of the file system's clock look like one. So
        # a file is taken for known only if it had been quiet before it was read.
        self._settled = seen if seen == self._seen and not asked else None
        return self._take(read, asked=asked)

    def _read(self, *, asked: bool) -> _Read:
        try:
            _refuse_pipe(self._file)
            content = _content(self._file)
        except BadPoliciesError as error:
            return _Read(digest=error.message, error=error)
        digest = _digest(content)
        if digest == self._in_force or (digest == self._refused and not asked):
            return _Read(digest)
        try:
            return _Read(digest, policies=_parse(content, self._file))
        except BadPoliciesError as error:
            return _Read(digest, error=error)

    def _take(self, read: _Read, *, asked: bool) -> int:
        if read.policies is not None:
            self._policy = Policy(
                read.policies.rules,
                default_answer=self._policy.default_answer,
                generation=self._policy.generation + 1,
            )
            self._in_force, self._refused = read.digest, None
            self._metrics.count("policies_loaded")
            _log_loaded(self._policy, read.digest)
        elif read.error is not None and (asked or read.digest != self._refused):
            self._refused = read.digest
            self._metrics.count("policies_kept")
            log.warning(
                "policies.kept",
                generation=self._policy.generation,
                problems=len(read.error.complaints),
                complaints=read.error.complaints[:_COMPLAINTS_LOGGED],
            )
        elif read.digest == self._in_force and (asked or self._refused is not None):
            self._refused = None
            log.info("policies.unchanged", generation=self._policy.generation)
        self._show()
        return int(read.policies is not None)

    def _show(self) -> None:
        self._metrics.gauge("policies_generation", self._policy.generation)
        self._metrics.gauge("policies_refused", int(self._refused is not None))


def open_policies(file: Path, *, default_answer: Answer, metrics: Metrics) -> Policies:
    """Return the policies of a service that starts.

    Raises:
        BadPoliciesError: if the file cannot be used.
    """
    content = _content(file)
    rules = _parse(content, file).rules
    policy = Policy(rules, default_answer=default_answer, generation=1)
    _log_loaded(policy, _digest(content))
    return Policies(file, policy, _digest(content), metrics=metrics)


def _log_loaded(policy: Policy, digest: str) -> None:
    """Tell that rules are in force; equal digests are equal files, on whichever instance."""
    log.info(
        "policies.loaded",
        generation=policy.generation,
        rules=len(policy.rules),
        digest=digest[:12],
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _signature(file: Path) -> Signature:
    """Return what changes with the file; through links, as Kubernetes swaps those."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)
