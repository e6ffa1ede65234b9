"""`offramp demo`: real calls of three APIs through one port to a provider in a sandbox.

Everything runs in this process on loopback addresses: the provider, the proxy
with a store of its own in a temporary folder, and the callers. Half of the calls go
straight through; the other half carry one more header, come back as jobs, and are
fetched by their IDs.
"""

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from proxy.app import Running, serving
from proxy.core.errors import ProxyError
from proxy.core.plural import plural
from proxy.demo.callers import Caller, callers
from proxy.sandbox import Entry, Sandbox, SandboxSettings
from proxy.sandbox import Running as Provider
from proxy.settings import Settings
from proxy.telemetry import set_up_logging

_AT_ONCE: Final = 32
"""Calls under way at the same time, as a script with a small pool makes them."""

_TURNAROUND_S: Final = 6.0
"""How long the sandbox takes for a batch; a real provider takes minutes to an hour."""

_MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Share:
    """What the calls of one API cost, by the provider's own ledger."""

    api: str
    forwarded: int
    deferred: int
    batches: int
    list_usd: float
    """What the calls would have cost, had all of them gone straight through."""

    paid_usd: float

    @classmethod
    def of(cls, api: str, entries: Sequence[Entry]) -> "Share":
        """Return the sum of these entries."""
        return cls(
            api=api,
            forwarded=sum(entry.lane == "interactive" for entry in entries),
            deferred=sum(entry.lane != "interactive" for entry in entries),
            batches=len({entry.batch_id for entry in entries if entry.batch_id is not None}),
            list_usd=sum(entry.list_micro_usd for entry in entries) / _MICRO,
            paid_usd=sum(entry.paid_micro_usd for entry in entries) / _MICRO,
        )


@dataclass(frozen=True, slots=True)
class Bill:
    """What all calls cost, and whether they got what they asked for."""

    shares: tuple[Share, ...]
    total: Share
    wrong_answers: int
    """Results that differ from what a direct call is answered; must be 0."""

    @property
    def saved_usd(self) -> float:
        return self.total.list_usd - self.total.paid_usd

    def as_json(self) -> dict[str, object]:
        """Return the bill for programs: the sums, and each API's share below `apis`."""
        total = {name: value for name, value in asdict(self.total).items() if name != "api"}
        told = {"wrong_answers": self.wrong_answers, "saved_usd": self.saved_usd}
        return {**total, **told, "apis": [asdict(share) for share in self.shares]}


class DemoFailedError(ProxyError):
    """The demo did not show what it promises."""

    code = "demo_failed"


def run_demo(*, jobs: int, as_json: bool) -> None:
    """Run the demo with `jobs` calls and print the bill.

    Raises:
        DemoFailedError: if a result is not what a direct call gives.
    """
    console = Console(quiet=as_json)
    set_up_logging(level="error", form="console")
    calls = plural(jobs, "call")
    console.print(f"A provider in a sandbox, the proxy, and {calls} of three APIs to it.\n")
    bill = asyncio.run(_demo(jobs, console))
    if as_json:
        print(json.dumps(bill.as_json()))  # noqa: T201
    else:
        _print_bill(bill, console)
    if bill.wrong_answers:
        raise DemoFailedError(f"{bill.wrong_answers} results differ from a direct call's")


async def _demo(count: int, console: Console) -> Bill:
    provider_settings = SandboxSettings(turnaround_s=_TURNAROUND_S, latency_s=0.05)
    with tempfile.TemporaryDirectory(prefix="offramp-demo-") as folder:
        async with (
            Sandbox(provider_settings).serve() as provider,
            serving(_settings(provider.base_url, Path(folder))) as proxy,
        ):
            return await _calls(count, provider, proxy, console)


def _settings(provider_url: str, folder: Path) -> Settings:
    """Return settings that hurry: a demo cannot linger for a minute."""
    return Settings.model_validate(
        {
            "listen": "127.0.0.1:0",
            "admin": {"listen": "127.0.0.1:0"},
            "store": f"sqlite://{folder}/offramp.db",
            "upstreams": {
                name: {"dialect": name, "base_url": provider_url}
                for name in ("openai", "anthropic", "gemini")
            },
            # Its providers are here.
            "forwarding": {"web_proxy": "none"},
            "batching": {"linger": timedelta(seconds=2), "poll_interval": timedelta(seconds=1)},
        }
    )


async def _calls(count: int, provider: Provider, proxy: Running, console: Console) -> Bill:
    progress = Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    async with callers(proxy.base_url) as crew:
        asked = [
            (crew[number % len(crew)], f"Ticket {number}: refund, bug or praise?")
            for number in range(count)
        ]
        at_once, later = asked[: count // 2], asked[count // 2 :]
        with progress:
            answers = await _each(
                progress, "forwarded at once", at_once, lambda one, prompt: one.complete(prompt)
            )
            jobs = await _each(
                progress,
                "deferred: accepted as jobs",
                later,
                lambda one, prompt: one.defer(prompt),
            )
            who = [caller for caller, _ in later]
            answers += await _each(
                progress,
                "deferred: fetched by ID",
                list(zip(who, jobs, strict=True)),
                lambda one, job_id: one.fetch(job_id),
            )
        right = [caller.right_answer(prompt) for caller, prompt in asked]
        shares = [
            Share.of(caller.title, list(provider.ledger.entries(key=caller.key))) for caller in crew
        ]
    return Bill(
        shares=tuple(shares),
        total=Share.of("all", list(provider.ledger.entries())),
        wrong_answers=sum(got != want for got, want in zip(answers, right, strict=True)),
    )


async def _each(
    progress: Progress,
    title: str,
    things: Sequence[tuple[Caller, str]],
    work: Callable[[Caller, str], Awaitable[str]],
) -> list[str]:
    """Return what `work` gives for each thing, in order; some at a time, as applications call."""
    bar = progress.add_task(title, total=len(things))
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(caller: Caller, thing: str) -> str:
        async with slots:
            result = await work(caller, thing)
        progress.advance(bar)
        return result

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one(caller, thing)) for caller, thing in things]
    return [task.result() for task in running]


def _print_bill(bill: Bill, console: Console) -> None:
    table = Table(title="The bill, by the provider's own ledger", title_justify="left")
    table.add_column("")
    for name in ("forwarded", "deferred", "batches", "list USD", "paid USD"):
        table.add_column(name, justify="right")
    for share in (*bill.shares, bill.total):
        if share is bill.total:
            table.add_section()
        table.add_row(
            share.api,
            *(str(number) for number in (share.forwarded, share.deferred, share.batches)),
            _usd(share.list_usd),
            _usd(share.paid_usd),
        )
    table.add_row("[bold]saved", "", "", "", "", f"[bold]{_usd(bill.saved_usd)}")
    console.print()
    console.print(table)
    if not bill.wrong_answers:
        console.print("Every deferred result is the one that a direct call is answered.")


def _usd(amount: float) -> str:
    return f"{amount:.6f}"
