"""One start of `offramp send`, from the check of its file to the last thing that is said."""

import asyncio
import errno
import hashlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Final

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from proxy.app import Running, SystemClock, serving
from proxy.core.errors import CallerError, StoreError
from proxy.core.plural import plural
from proxy.embedded.bill import bill_of, print_bill
from proxy.embedded.environment import upstream_urls
from proxy.embedded.folder import Folder, Folders
from proxy.embedded.settings import embedded_settings
from proxy.embedded.standing import standing
from proxy.runtime import allow_files
from proxy.send.address import normal_url
from proxy.send.credentials import Credentials
from proxy.send.errors import KeyRefusedError, SendError
from proxy.send.files import not_written
from proxy.send.journal import Journal
from proxy.send.keys import key_names, read_key
from proxy.send.lines import CHAT, read_line
from proxy.send.output import Output
from proxy.send.recovery import recover
from proxy.send.remote import Remote
from proxy.send.work import Tally, Work
from proxy.telemetry import set_up_logging

_TROUBLES_EVERY_S: Final = 5.0
_COMPLAINTS_MAX: Final = 20
_KEEP: Final = timedelta(days=30)
_RESULTS_KEPT: Final = 2 * _KEEP
"""By a proxy that runs along: longer than the folder, the only thing that knows them."""

_IDENTITY_CHARS: Final = 16

_DISK_TROUBLES: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOptions:
    """What the user said beside the file."""

    output: Path
    endpoint: str = CHAT
    url: str | None = None
    """A running proxy, as `proxy_url` returns it; without one a proxy runs along."""

    api_key_env: str | None = None
    deadline: str | None = None
    concurrency: int = 32
    buy_again: bool = False
    """Whether lines whose answers cannot be had any more may be bought once more."""

    config: Path | None = None
    base_urls: Mapping[str, str] = field(default_factory=dict)
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """A file in which every line is a call."""

    count: int
    keys: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Kept:
    """What came of the file so far."""

    journal: Journal
    output: Output
    tally: Tally


def send_file(file: Path, options: SendOptions) -> Tally:
    """Send every line that has no answer yet; return what the new answers came to.

    Raises:
        CallerError: if a line is no call, or has changed since it was sent; then
            nothing was sent.
        SendError: if it could not go on, or only by buying lines again. What was sent
            and answered is kept.
    """
    if not file.is_file():
        raise CallerError(
            f"{file} is no file: it is read again for answers, and by the start that goes on",
            hint="write to a file what comes through a pipe",
        )
    identity = _identity(file, options)
    folders = Folders("sends", os.environ)
    folder = folders.get_or_new(identity)
    with (
        _disk_told(folder),
        folder.locked(),
        folder.log.open("ab") as log,
        ExitStack() as opened,
    ):
        folders.prune(now=SystemClock().now(), keep=_KEEP)
        journal = opened.enter_context(Journal(folder.path / "journal"))
        checked = check(file, options, journal)
        output = opened.enter_context(Output(options.output))
        recover(file, endpoint=options.endpoint, journal=journal, output=output)
        credentials = Credentials(folder.path / "credentials.json", salt=identity)
        if not options.buy_again:
            _refuse_exchanged(credentials, checked, options)
        kept = _Kept(journal, output, Tally(failed_before=output.errors()))
        # Each line that is on its way takes two: the proxy runs along.
        allow_files()
        with (
            set_up_logging(level="info", form="json", stream=log),
            _noted(credentials, checked.keys, kept.tally),
        ):
            asyncio.run(_send(file, options, checked, folder, kept))
        return kept.tally


@contextmanager
def _disk_told(folder: Folder) -> Iterator[None]:
    """Say of a disk that takes no more what it is: nobody's bug, and it passes.

    Raises:
        SendError: in place of it.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno not in _DISK_TROUBLES:
            raise
        raise not_written(Path(exc.filename or folder.path), exc) from exc


def check(file: Path, options: SendOptions, journal: Journal) -> Checked:
    """Read the whole file once, before anything of it is bought.

    Raises:
        CallerError: naming up to 20 lines that are no calls, or the first that is
            another one than was sent or is missing, or the variable in which a key is missing.
    """
    complaints: list[str] = []
    keys: dict[str, str] = {}
    count = 0
    with file.open("rb") as texts:
        for count, text in enumerate(texts, start=1):
            try:
                line = read_line(text, count, file=file, endpoint=options.endpoint)
            except CallerError as exc:
                complaints.append(exc.message)
                if len(complaints) == _COMPLAINTS_MAX:
                    break
                continue
            if line.provider not in keys:
                keys[line.provider] = read_key(line.provider, os.environ, options.api_key_env)
            if count <= journal.count and journal.read(count, 1)[0][1] != line.digest:
                raise CallerError(
                    f"{file}:{count}: has changed since it was sent, or --endpoint has",
                    hint="put back what was sent; or name another output, and all is bought anew",
                )
    if complaints:
        raise CallerError("\n".join(complaints))
    if count < journal.count:
        raise CallerError(
            f"{file} has {plural(count, 'line')}; {journal.count:,} were sent before",
            hint="put back what was sent, or name another output",
        )
    return Checked(count, keys)


async def _send(
    file: Path, options: SendOptions, checked: Checked, folder: Folder, kept: _Kept
) -> None:
    headers = {"X-Deferrable-Deadline": options.deadline} if options.deadline else {}
    async with (
        _proxy(options, folder) as (url, proxy, dialects),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        with _progress(kept, checked.count, quiet=options.quiet) as (console, show):
            remote = Remote(
                session,
                url,
                keys=checked.keys,
                headers=headers,
                dialects=dialects,
                on_trouble=_told_once(console),
            )
            work = Work(
                file=file,
                count=checked.count,
                endpoint=options.endpoint,
                identity=folder.name,
                remote=remote,
                journal=kept.journal,
                output=kept.output,
                concurrency=options.concurrency,
                buy_again=options.buy_again,
                tally=kept.tally,
            )
            if proxy is None:
                for provider in islice(checked.keys, 1):
                    await remote.meet(provider)
                await work.run(show)
            else:
                await _beside(work.run(show), _tell_troubles(proxy, console))
        if proxy is not None and work.tally.answered and not options.quiet:
            print_bill(await bill_of(proxy), sys.stderr, as_json=False)


async def _beside(
    work: Coroutine[object, object, None], other: Coroutine[object, object, None]
) -> None:
    """Do the work, and something else for as long as it takes."""
    try:
        async with asyncio.TaskGroup() as tasks:
            telling = tasks.create_task(other)
            await work
            telling.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def _tell_troubles(proxy: Running, console: Console) -> None:
    """Say once of each trouble what keeps the answers away."""
    tell = _told_once(console)
    while True:
        found: tuple[str, ...] = ()
        with suppress(StoreError):
            found = (await standing(proxy)).troubles
        for trouble in found:
            tell(trouble)
        await asyncio.sleep(_TROUBLES_EVERY_S)


def _told_once(console: Console) -> Callable[[str], None]:
    """Return what shows each trouble once."""
    told: set[str] = set()

    def tell(trouble: str) -> None:
        # Without the time that passes in it.
        kind = trouble.partition(" for ")[0]
        if kind not in told:
            told.add(kind)
            console.print(f"offramp: {trouble}", highlight=False, markup=False)

    return tell


@asynccontextmanager
async def _proxy(
    options: SendOptions, folder: Folder
) -> AsyncIterator[tuple[str, Running | None, Mapping[str, str]]]:
    """Run a proxy, or take the one that the user named; with the dialects that are known."""
    if options.url is not None:
        yield options.url, None, {}
        return
    urls = upstream_urls(os.environ) | dict(options.base_urls)
    settings = embedded_settings(
        options.config, folder, urls, os.environ, results_kept=_RESULTS_KEPT
    )
    async with serving(settings) as proxy:
        dialects = {name: upstream.dialect for name, upstream in settings.upstreams.items()}
        yield proxy.base_url, proxy, dialects


@contextmanager
def _progress(
    kept: _Kept, count: int, *, quiet: bool
) -> Iterator[tuple[Console, Callable[[], None]]]:
    """Show how far it is; yield where else to write meanwhile, and what to call on progress."""
    console = Console(file=sys.stderr, quiet=quiet)
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        sent = bars.add_task("sent", total=count)
        answered = bars.add_task("answered", total=count)

        def show() -> None:
            bars.update(sent, completed=kept.journal.count)
            bars.update(answered, completed=kept.output.count)

        show()
        yield console, show


def _identity(file: Path, options: SendOptions) -> str:
    """Return the same name for the same file, output and proxy, wherever it is started."""
    url = options.url and normal_url(options.url)
    parts = (str(file.resolve()), str(options.output.resolve()), url or "")
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:_IDENTITY_CHARS]


def _refuse_exchanged(credentials: Credentials, checked: Checked, options: SendOptions) -> None:
    for provider in credentials.exchanged(checked.keys):
        names = " or ".join(key_names(provider, options.api_key_env))
        raise SendError(
            f"{names} holds another key than the one that lines were sent with before: "
            "their answers are given to that one only",
            hint="set the earlier key again; or buy anew, by --buy-again, "
            "every line whose answer this one is not given",
        )


@contextmanager
def _noted(credentials: Credentials, keys: Mapping[str, str], tally: Tally) -> Iterator[None]:
    """Keep in mind with which keys it is sent for as long as answers may be owed to them."""
    had_any = bool(credentials)
    credentials.note(keys)
    try:
        yield
    except KeyRefusedError:
        if not (had_any or tally.sent):
            # The right one comes next, and nothing was sent with this one.
            credentials.forget()
        raise
    credentials.forget()
