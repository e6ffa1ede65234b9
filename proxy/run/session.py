"""One start of a command, from the first to the last thing that is said about it."""

import asyncio
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from proxy.app import Running, SystemClock, serving
from proxy.core.fields import RawHeaders
from proxy.core.job import JobState
from proxy.core.plural import plural
from proxy.embedded.bill import bill_of, print_bill
from proxy.embedded.environment import child_environment, upstream_urls
from proxy.embedded.folder import Folder, Folders
from proxy.embedded.line import write_if_heard
from proxy.embedded.progress import Progress
from proxy.embedded.settings import embedded_settings
from proxy.embedded.standing import Standing, standing
from proxy.ports.jobs import JobFilter
from proxy.run.child import Child
from proxy.runtime import FileLimits, allow_files
from proxy.settings import Settings
from proxy.telemetry import Metrics, set_up_logging

_RANDOM_BYTES: Final = 2
_PAGE: Final = 100
_UNSUCCESSFUL: Final = frozenset({JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the user said beside the command."""

    config: Path | None = None
    base_urls: Mapping[str, str] = field(default_factory=dict)
    """Upstreams by name, which count more than the user's variables."""

    answer: str = "wait"
    deadline: str | None = None
    resume: str | None = None
    """The ID of an earlier run, or `last`."""

    as_json: bool = False
    live: bool | None = None


def run_command(command: Sequence[str], options: RunOptions) -> int:
    """Run the command and return its exit code.

    Raises:
        ProxyError: if it could not be started.
    """
    folders = Folders("runs", os.environ)
    if options.resume is not None:
        session = _Session(command, options, folders.find(options.resume))
        return _run(session, options, folders)
    name = f"{SystemClock().now():%m%d-%H%M%S}-{os.urandom(_RANDOM_BYTES).hex()}"
    session = _Session(command, options, folders.new(name))
    try:
        return _run(session, options, folders)
    finally:
        # A mistyped command must not become the run that `--resume last` goes on with:
        # what the one before it has answers of would be bought again.
        if not session.has_jobs:
            session.folder.set_aside()


def _run(session: "_Session", options: RunOptions, folders: Folders) -> int:
    folder = session.folder
    urls = upstream_urls(os.environ) | dict(options.base_urls)
    settings = embedded_settings(options.config, folder, urls, os.environ)
    with folder.locked(), folder.log.open("ab") as log:
        folders.prune(now=SystemClock().now(), keep=settings.retention.results)
        with set_up_logging(level=settings.log.level, form="json", stream=log):
            files = FileLimits.now()
            # Each call of the command takes two.
            allow_files()
            return asyncio.run(session.run(settings, files))


class _Session:
    def __init__(self, command: Sequence[str], options: RunOptions, folder: Folder) -> None:
        self.folder = folder
        self._command = command
        self._options = options
        self._metrics: Metrics | None = None

    @property
    def has_jobs(self) -> bool:
        """Whether this start may have left jobs: a call was deferred, or meant to be."""
        known = {} if self._metrics is None else self._metrics.snapshot().values
        deferred = any(labels[0] == "defer" for labels in known.get("calls", {}))
        return deferred or bool(known.get("job_accepted"))

    async def run(self, settings: Settings, files: FileLimits) -> int:
        async with serving(settings, usual=self._headers()) as proxy:
            self._metrics = proxy.metrics
            if self._options.resume is not None:
                await _forget_failures(proxy)
            environment = child_environment(os.environ, proxy.base_url)
            child = Child()
            progress = Progress(proxy, sys.stderr, now=_now, live=self._options.live)
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(progress.run(stop))
                code = await child.run(self._command, environment, files)
                stop.set()
            left = await standing(proxy)
            bill = await bill_of(proxy)
            if child.failure is not None:
                _say(child.failure)
            elif left.pending or (left.answered and (child.interrupted or code)):
                self._say_how_to_go_on(left, bill.total.answers, interrupted=child.interrupted)
            elif not code and not left.answered and not left.forwarded:
                _say(
                    "no call came through the proxy before the command ended.",
                    "Does it set a base URL itself, or go on in the background without the proxy?",
                )
        print_bill(bill, sys.stderr, as_json=self._options.as_json)
        return code

    def _headers(self) -> RawHeaders:
        headers = {
            "X-Deferrable": self._options.answer,
            "X-Deferrable-Run": self.folder.name,
            "X-Deferrable-Deadline": self._options.deadline,
        }
        return tuple((name.encode(), value.encode()) for name, value in headers.items() if value)

    def _say_how_to_go_on(self, left: Standing, answers: int, *, interrupted: bool) -> None:
        what = "interrupted" if interrupted else "the command has ended"
        # Those of the ledger: that calls were answered may mean no more than a job or an error.
        kept = f"{plural(answers, 'answer')} kept"
        going = f", {plural(left.pending, 'call')} still without one" if left.pending else ""
        again = f"offramp run --resume {self.folder.name} -- {shlex.join(self._command)}"
        _say(
            f"{what}; {kept}{going}.",
            *(left.troubles if left.pending else ()),
            "It goes on where it was, and buys nothing twice, with",
            f"  {again}",
        )


async def _forget_failures(proxy: Running) -> None:
    """Let calls be made again that an earlier start got no good answer for."""
    jobs = proxy.house.ground.jobs
    owners = {one.owner for one in await proxy.house.ground.credentials.all()}
    for owner in owners:
        where = JobFilter(states=_UNSUCCESSFUL)
        while found := await jobs.list_jobs(owner, where, after=None, limit=_PAGE):
            for job in found:
                await jobs.erase(job.id)


def _now() -> datetime:
    return SystemClock().now()


def _say(*lines: str) -> None:
    text = "\n         ".join(lines)
    write_if_heard(sys.stderr, f"offramp: {text}\n")
