"""Play the scenes of a client through a real proxy, and judge what came of each."""

import asyncio
import base64
import json
import re
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.sandbox import Running as Provider
from proxy.sandbox import Sandbox, SandboxSettings, body_hash
from proxy.sandbox.answers import unit_vector
from proxy.sandbox.ledger import Entry
from tests.callers.clients import EVERY_SCENE, ROOT, Client
from tests.callers.counter import Counter
from tests.callers.drivers.stage import QUESTION
from tests.e2e.processes import Proxy, environment, results, settings_for

PROVIDERS = ("anthropic", "gemini")
"""What the sandbox speaks besides OpenAI's dialect."""

QUICK: dict[str, Any] = {
    "batching": {"linger": "50ms", "linger_max": "50ms", "poll_interval": "100ms"},
    # A call alone must make a batch: that is what is tested.
    "lanes": {"flex": {"enabled": False}},
    # So that every held answer begins with a few heartbeats.
    "deferral": {"heartbeat_after": "100ms", "heartbeat_every": "100ms"},
}
DRIVER_TIME_S = 240
DIMENSIONS = 16
"""Of the sandbox's vectors."""

_JOB = re.compile(r"job_\w+")


@dataclass(frozen=True)
class Stage:
    """A proxy, the provider behind it, and the counter before it."""

    proxy: Proxy
    provider: Provider
    counter: Counter
    folder: Path


@dataclass
class Played:
    """What a client did: versions, and of each scene what was wrong with it, if anything."""

    versions: dict[str, str] = field(default_factory=dict)
    runtime: str = ""
    failures: dict[str, str] = field(default_factory=dict)
    posts: dict[str, int] = field(default_factory=dict)
    bought: dict[str, int] = field(default_factory=dict)


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """Run a sandbox that speaks three dialects, a proxy in its own process, and the counter."""
    async with Sandbox(SandboxSettings(turnaround_s=0.4)).serve() as provider:
        upstreams = {name: {"dialect": name, "base_url": provider.base_url} for name in PROVIDERS}
        changes = QUICK | {"upstreams": upstreams}
        proxy = Proxy(folder, settings_for(folder, {"openai": provider.base_url}, changes))
        await proxy.start()
        try:
            async with Counter(proxy.base_url).serve() as counter:
                yield Stage(proxy, provider, counter, folder)
        finally:
            await proxy.kill()


async def played(on: Stage, client: Client) -> Played:
    """Play every scene of a client that is installed here."""
    command = client.command()
    assert command is not None, f"{client.name} is not installed: deploy/setup.sh callers"
    keys = {scene: _key(client, scene) for scene in client.scenes}
    words = [f"{scene}={key}" for scene, key in keys.items()]
    about, *lines = await _told(on, [*command, on.counter.base_url, *words])
    told = {line["scene"]: line for line in lines}
    assert list(told) == list(keys)
    seen = Played(versions=about["versions"], runtime=about["runtime"])
    for scene, key in keys.items():
        wrong = await what_is_wrong(on, scene, key, told[scene])
        if wrong:
            seen.failures[scene] = wrong
        seen.posts[scene] = len(on.counter.posts(key))
        seen.bought[scene] = len(_entries(on, key))
    return seen


def _key(client: Client, scene: str) -> str:
    return "caller-" + re.sub(r"\W+", "-", f"{client.name} {scene}")


async def _told(on: Stage, command: Sequence[str]) -> list[dict[str, Any]]:
    """Run a driver to its end; what it says besides its lines is shown if a test fails."""
    # Nothing of ours is in its environment, and no client may look for a provider itself.
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(on.folder),
    )
    async with asyncio.timeout(DRIVER_TIME_S):
        stdout, stderr = await process.communicate()
    print(stderr.decode(), end="", file=sys.stderr)
    assert process.returncode == 0, stderr.decode()[-2_000:]
    return [json.loads(line) for line in stdout.splitlines() if line.startswith(b"{")]


def _entries(on: Stage, key: str) -> list[Entry]:
    return list(on.provider.ledger.entries(key=key))


async def what_is_wrong(on: Stage, scene: str, key: str, told: dict[str, Any]) -> str:
    """Return what is not as the scene must be; nothing if all is right."""
    expected = EVERY_SCENE[scene]
    message = told.get("message", "")
    if expected.raises != ("raised" in told):
        return f"raised {told['raised']}: {message}" if message else "did not raise"
    if (posts := len(on.counter.posts(key))) != expected.posts:
        return f"{posts} POSTs, not {expected.posts}"
    answer = told.get("answer", "")
    if not expected.names_job:
        await _sold(on, key)
        return _purchase_wrong(_entries(on, key), expected.lane)
    if expected.raises and expected.lane is not None:
        found = _JOB.search(message)
        if found is None:
            return f"no job in the message: {message}"
        ((status, body),) = await results(on.proxy, [found[0]], key=key)
        answer = body.decode() if status == 200 else ""
    if "job" in told and not _JOB.fullmatch(told["job"].removeprefix("resp_")):
        return f"no job: {told['job']}"
    return _purchase_wrong(_entries(on, key), expected.lane, answer)


async def _sold(on: Stage, key: str) -> None:
    """Wait until a job that outlives its caller has been sold."""
    async with asyncio.timeout(30):
        while not _entries(on, key):
            await asyncio.sleep(0.02)


def _purchase_wrong(entries: list[Entry], lane: str | None, answer: str | None = None) -> str:
    if lane is None:
        return f"{len(entries)} were sold" if entries else ""
    if [entry.lane for entry in entries] != [lane]:
        return f"sold by the lanes {[entry.lane for entry in entries]}, not once by {lane}"
    if answer is None:
        return ""
    return "" if is_right(answer, entries[0]) else f"not the answer of its call: {answer!r}"


def is_right(answer: str, entry: Entry) -> bool:
    """Return whether an answer is that of the very body that was sold.

    Texts begin with a mark of it, generated values end in one, and the vector of
    a text depends on the text and the model alone.
    """
    if "embed" in entry.model:
        return vector_in(answer) in _right_vectors(entry)
    return f"[{entry.body_hash[:12]}/0]" in answer or f"-{entry.body_hash[:6]}" in answer


def _right_vectors(entry: Entry) -> list[list[float]]:
    texts = (QUESTION, [QUESTION])
    hashes = [body_hash({"model": entry.model, "input": text}) for text in texts]
    return [unit_vector(one, DIMENSIONS) for one in (*hashes, entry.body_hash)]


def vector_in(answer: str) -> list[float]:
    """Return the vector of an answer: a list, or the body that OpenAI's SDK asks for."""
    found = json.loads(answer)
    if isinstance(found, dict):
        found = found["data"][0]["embedding"]
    if isinstance(found, str):
        found = struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(found))
    return list(found)
