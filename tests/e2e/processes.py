"""The real thing: `offramp serve` in a process of its own, beside a sandbox provider."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from openai import AsyncOpenAI

from proxy.sandbox import Running as Provider
from proxy.sandbox import Sandbox, SandboxSettings, answer_text, body_hash
from tests.helpers.raw_upstream import wait_until

QUICK: dict[str, Any] = {
    "listen": "127.0.0.1:0",
    "admin": {"listen": "127.0.0.1:0"},
    "batching": {
        "linger": "200ms",
        "linger_max": "200ms",
        # Most tests have a handful of jobs and are about their batch.
        "worth": 1,
        "poll_interval": "200ms",
        "create_timeout": "500ms",
        "search_pause": "500ms",
    },
    "instance": {"lease": "3s", "drain_timeout": "10s"},
    "log": {"level": "debug", "format": "json"},
}
"""A configuration that hurries in everything that waits by design."""

KEY = "sk-canary-e2e"
MODEL = "gpt-4o-mini"

START_S = 60
"""Within this an instance must take calls, however busy the machine is."""

CHECKOUT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "proxy")


def environment(folder: Path) -> dict[str, str]:
    """Return all that an instance may know of this machine: nothing of who runs the tests.

    It runs the code that stands beside these tests, whichever checkout is installed.
    """
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(CHECKOUT),
    }


def with_files(most: int | None, *, soft: bool = False) -> tuple[str, ...]:
    """Return what to put before a command so that it may open so many files.

    It may allow itself more if that is a `soft` limit.
    """
    if most is None:
        return ()
    return ("sh", "-c", f'ulimit {"-S" if soft else ""} -n {most} && exec "$@"', "sh")


@dataclass(frozen=True)
class Ended:
    """A command that has run."""

    code: int
    stdout: str
    stderr: str


async def run(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> Ended:
    """Run the command line in a process of its own, to its end."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(folder) | dict(env or {}),
    )
    async with asyncio.timeout(30):
        stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, stdout.decode(), stderr.decode())


@dataclass
class Proxy:
    """One instance; it may be killed and started again over the same folder."""

    folder: Path
    settings: dict[str, Any]
    files: int | None = None
    """How many files it may have open, if not as many as these tests."""

    process: asyncio.subprocess.Process | None = None
    base_url: str = ""
    admin_url: str = ""
    logs: list[dict[str, Any]] = field(default_factory=list)
    raw_logs: list[str] = field(default_factory=list)
    _reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and wait until it takes calls."""
        config = self.folder / "offramp.yaml"
        # JSON is YAML.
        config.write_text(json.dumps(self.settings))
        self.process = await asyncio.create_subprocess_exec(
            *with_files(self.files),
            *COMMAND,
            "serve",
            "--config",
            str(config),
            stderr=asyncio.subprocess.PIPE,
            # A traceback is one line of the log, and may be long.
            limit=1 << 24,
            env=environment(self.folder) | {"PYTHONFAULTHANDLER": "1"},
        )
        started = asyncio.get_running_loop().create_future()
        self._reader = asyncio.get_running_loop().create_task(self._read(started))
        try:
            async with asyncio.timeout(START_S):
                event = await started
        except TimeoutError:
            # It then writes down where each of its threads stands.
            await self.end(signal.SIGABRT)
            raise
        self.base_url, self.admin_url = event["listen"], event["admin"]

    async def _read(self, started: "asyncio.Future[dict[str, Any]]") -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            text = line.decode()
            self.raw_logs.append(text)
            try:
                event = json.loads(text)
            except ValueError:
                continue
            self.logs.append(event)
            if event["event"] == "instance.started" and not started.done():
                started.set_result(event)
        if not started.done():
            started.set_exception(AssertionError("".join(self.raw_logs[-20:])))

    async def kill(self) -> None:
        """End it as a power cut would: no handler of ours runs."""
        await self.end(signal.SIGKILL)

    async def terminate(self) -> int:
        """End it as a supervisor would; return its exit code."""
        return await self.end(signal.SIGTERM)

    async def end(self, number: signal.Signals) -> int:
        """Send it a signal and wait for its end; return its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(30):
            code = await self.process.wait()
        if self._reader is not None:
            await self._reader
        return code

    def sdk(self, key: str = KEY, **options: Any) -> AsyncOpenAI:
        """Return a stock client of this proxy, as it is now; give it a retry to get one."""
        usual: dict[str, Any] = {"base_url": f"{self.base_url}/v1", "max_retries": 0}
        return AsyncOpenAI(api_key=key, **(usual | options))

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what was logged under a name, by all lives of the instance."""
        return [event for event in self.logs if event.get("event") == name]

    async def event(self, name: str) -> dict[str, Any]:
        """Return the only line under a name; it comes through a pipe, so later than an answer."""
        await wait_until(lambda: self.events(name), name)
        (line,) = self.events(name)
        return line

    async def metric(self, name: str, labels: str = "") -> float:
        """Return a number as `/metrics` shows it, 0 if it is not there."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.admin_url}/metrics") as answer,
        ):
            for line in (await answer.text()).splitlines():
                if line.startswith(name) and labels in line:
                    return float(line.rpartition(" ")[2])
        return 0.0


_HALF = {"batch_input": 1, "batch_output": 4, "flex_input": 1, "flex_output": 4}
PRICES: dict[str, Any] = {"models": {f"openai/{MODEL}": {"input": 2, "output": 8, **_HALF}}}
"""What the sandbox charges for `MODEL`, in dollars per million tokens."""


async def ledger(proxy: Proxy, **query: str) -> dict[str, Any]:
    """Return the ledger as operators read it."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{proxy.admin_url}/ledger", params=query) as answer,
    ):
        assert answer.status == 200, await answer.text()
        found = await answer.json()
        assert isinstance(found, dict)
        return found


@dataclass(frozen=True)
class Bill:
    """A ledger's sum beside the provider's own, in whole micro-dollars."""

    known: int
    """What we say was paid, for answers of use and others."""

    possible: int
    """What possible doubles may have cost on top, at most."""

    unpriced: int
    """Answers and possible doubles whose price is not known: in no amount."""

    list: int
    provider: int
    """What the provider's ledger says."""


async def bill(proxy: Proxy, provider: Provider) -> Bill:
    """Return what both say now."""
    total = (await ledger(proxy))["total"]
    usd = {
        "known": total["paid_usd"] + total["useless"]["usd"],
        "possible": total["possible_doubles"]["usd"],
        "list": total["list_usd"],
    }
    micro = {name: round(amount * 1_000_000) for name, amount in usd.items()}
    return Bill(
        **micro,
        unpriced=total["unpriced"] + total["possible_doubles"]["unpriced"],
        provider=provider.ledger.totals().paid_micro_usd,
    )


def settings_for(
    folder: Path, urls: Mapping[str, str], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a whole configuration over a store in `folder`."""
    settings = QUICK | {
        "store": f"sqlite://{folder}/offramp.db",
        "prices": PRICES,
        "upstreams": {name: {"dialect": "openai", "base_url": url} for name, url in urls.items()},
    }
    for name, change in changes.items():
        below = settings.get(name)
        settings[name] = below | change if isinstance(below, dict) else change
    return settings


@asynccontextmanager
async def proxy_and_provider(
    folder: Path,
    *,
    provider_settings: SandboxSettings | None = None,
    upstreams: Mapping[str, str] | None = None,
    changes: Mapping[str, Any] | None = None,
    files: int | None = None,
) -> AsyncIterator[tuple[Proxy, Provider]]:
    """Run a sandbox provider in this process and a proxy in its own, which may open `files`.

    `upstreams` are more base URLs by name; `changes` are laid over the settings,
    section by section.
    """
    settings = provider_settings or SandboxSettings(turnaround_s=0.5)
    async with Sandbox(settings).serve() as provider:
        urls = {"openai": provider.base_url, **(upstreams or {})}
        proxy = Proxy(folder, settings_for(folder, urls, changes or {}), files=files)
        await proxy.start()
        try:
            yield proxy, provider
        finally:
            await proxy.kill()


async def chat(
    proxy: Proxy,
    prompt: str,
    *,
    headers: Mapping[str, str] | None = None,
    key: str = KEY,
    model: str = MODEL,
) -> tuple[int, dict[str, Any]]:
    """Make a call by plain HTTP; return status and JSON."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{proxy.base_url}/v1/chat/completions",
            json=body_of(prompt, model=model),
            headers={"Authorization": f"Bearer {key}", **(headers or {})},
        ) as answer,
    ):
        return answer.status, await answer.json()


async def results(
    proxy: Proxy, job_ids: Sequence[str], *, key: str = KEY, wait_s: int = 60
) -> list[tuple[int, bytes]]:
    """Return status and exact body of each job's result, waiting for it."""

    async def one(session: aiohttp.ClientSession, job_id: str) -> tuple[int, bytes]:
        while True:
            async with session.get(
                f"{proxy.base_url}/v1/jobs/{job_id}/result?wait={wait_s}",
                headers={"Authorization": f"Bearer {key}"},
            ) as answer:
                if answer.status != 202:
                    return answer.status, await answer.read()

    async with aiohttp.ClientSession() as session, asyncio.timeout(90):
        return await asyncio.gather(*[one(session, job_id) for job_id in job_ids])


def body_of(prompt: str, *, model: str = MODEL) -> dict[str, Any]:
    """Return the body that `chat` sends."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}]}


def right_answer(prompt: str, *, model: str = MODEL) -> str:
    """Return what the sandbox answers to `chat`, by whatever lane."""
    return answer_text(body_hash(body_of(prompt, model=model)), prompt)


def bought(provider: Provider, prompt: str) -> int:
    """Return how often `chat` was executed, and so paid for, with that prompt."""
    return provider.ledger.bought(body_hash(body_of(prompt)))
