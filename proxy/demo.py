"""`offramp demo`: real SDK calls through the proxy to a provider in a sandbox.

Everything runs in this process on loopback addresses: the provider, the proxy
with a store of its own in a temporary folder, and the callers with the stock
`openai` SDK. Half of the calls go straight through; the other half carry one more
header, come back as jobs, and are fetched by their IDs.
"""

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from proxy.app import Running, serving
from proxy.core.errors import ProxyError
from proxy.sandbox import Running as Provider
from proxy.sandbox import Sandbox, SandboxSettings, answer_text, body_hash
from proxy.settings import Settings
from proxy.telemetry import set_up_logging

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletionMessageParam

_KEY: Final = "sk-demo-of-offramp"
_MODEL: Final = "gpt-4o-mini"
_AT_ONCE: Final = 32
"""Calls under way at the same time, as a script with a small pool makes them."""

_TURNAROUND_S: Final = 6.0
"""How long the sandbox takes for a batch; a real provider takes minutes to an hour."""

_MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Bill:
    """What the calls cost, by the provider's own ledger."""

    forwarded: int
    deferred: int
    batches: int
    list_usd: float
    """What all calls would have cost, had they gone straight through."""

    paid_usd: float
    wrong_answers: int
    """Results that differ from what a direct call is answered; must be 0."""

    @property
    def saved_usd(self) -> float:
        return self.list_usd - self.paid_usd


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
    console.print(f"A provider in a sandbox, the proxy, and {jobs} calls of the openai SDK.\n")
    bill = asyncio.run(_demo(jobs, console))
    if as_json:
        print(json.dumps(asdict(bill) | {"saved_usd": bill.saved_usd}))  # noqa: T201
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
            "upstreams": {"openai": {"dialect": "openai", "base_url": provider_url}},
            "batching": {"linger": timedelta(seconds=2), "poll_interval": timedelta(seconds=1)},
        }
    )


async def _calls(count: int, provider: Provider, proxy: Running, console: Console) -> Bill:
    from openai import AsyncOpenAI  # noqa: PLC0415 - half a second, when it is needed

    prompts = [f"Ticket {number}: refund, bug or praise?" for number in range(count)]
    at_once, later = prompts[: count // 2], prompts[count // 2 :]
    progress = Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    async with AsyncOpenAI(base_url=f"{proxy.base_url}/v1", api_key=_KEY) as client:
        with progress:
            crew = _Crew(client, progress)
            answers = await crew.each("forwarded at once", at_once, crew.complete)
            jobs = await crew.each("deferred: accepted as jobs", later, crew.defer)
            answers += await crew.each("deferred: fetched by ID", jobs, crew.fetch)
    right = [_right_answer(prompt) for prompt in prompts]
    entries = list(provider.ledger.entries())
    return Bill(
        forwarded=len(at_once),
        deferred=len(later),
        batches=len({entry.batch_id for entry in entries if entry.batch_id is not None}),
        list_usd=sum(entry.list_micro_usd for entry in entries) / _MICRO,
        paid_usd=sum(entry.paid_micro_usd for entry in entries) / _MICRO,
        wrong_answers=sum(got != want for got, want in zip(answers, right, strict=True)),
    )


def _messages(prompt: str) -> "list[ChatCompletionMessageParam]":
    return [{"role": "user", "content": prompt}]


def _right_answer(prompt: str) -> str:
    body = {"messages": _messages(prompt), "model": _MODEL}
    return answer_text(body_hash(body), prompt)


class _Crew:
    """Makes calls as an application would, some at a time, and shows how far it is."""

    def __init__(self, client: "AsyncOpenAI", progress: Progress) -> None:
        self._client = client
        self._progress = progress

    async def each(
        self, title: str, things: Sequence[str], work: Callable[[str], Awaitable[str]]
    ) -> list[str]:
        """Return what `work` gives for each thing, in order."""
        bar = self._progress.add_task(title, total=len(things))
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(thing: str) -> str:
            async with slots:
                result = await work(thing)
            self._progress.advance(bar)
            return result

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(thing)) for thing in things]
        return [task.result() for task in running]

    async def complete(self, prompt: str) -> str:
        """Make an ordinary call."""
        answer = await self._client.chat.completions.create(
            model=_MODEL, messages=_messages(prompt)
        )
        return answer.choices[0].message.content or ""

    async def defer(self, prompt: str) -> str:
        """Make the same call with one more header; return the job's ID."""
        job = await self._client.chat.completions.create(
            model=_MODEL, messages=_messages(prompt), extra_headers={"X-Deferrable": "true"}
        )
        return job.id

    async def fetch(self, job_id: str) -> str:
        """Fetch a result by the job's ID, with the SDK's own method."""
        answer = await self._client.chat.completions.retrieve(job_id)
        return answer.choices[0].message.content or ""


def _print_bill(bill: Bill, console: Console) -> None:
    table = Table(title="The bill, by the provider's own ledger", title_justify="left")
    table.add_column("")
    table.add_column("USD", justify="right")
    table.add_row(f"all {bill.forwarded + bill.deferred} calls at list price", _usd(bill.list_usd))
    table.add_row(
        f"paid: {bill.forwarded} forwarded, {bill.deferred} in {_batches(bill)}",
        _usd(bill.paid_usd),
    )
    table.add_row("[bold]saved", f"[bold]{_usd(bill.saved_usd)}")
    console.print()
    console.print(table)
    if not bill.wrong_answers:
        console.print("Every deferred result is the one that a direct call is answered.")


def _batches(bill: Bill) -> str:
    return f"{bill.batches} batch" if bill.batches == 1 else f"{bill.batches} batches"


def _usd(amount: float) -> str:
    return f"{amount:.6f}"
