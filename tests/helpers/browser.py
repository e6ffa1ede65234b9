"""A headless Chromium, spoken to in its own protocol (Chrome DevTools Protocol).

One process for many pages. It is told to reach nothing but this machine, and it notes
what a page asked for, what it could not load and what it complained of.
"""

import asyncio
import base64
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

PHONE = (390, 844)
DESK = (1280, 900)


@dataclass
class Page:
    """One tab."""

    socket: aiohttp.ClientWebSocketResponse
    requested: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """Errors of the console, violations of the policy, requests that failed."""

    _ids: "itertools.count[int]" = field(default_factory=itertools.count)
    _waiting: dict[int, "asyncio.Future[Any]"] = field(default_factory=dict)
    _loaded: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        """Take in what the browser says, until it is closed."""
        async for message in self.socket:
            said = message.json()
            if "id" in said:
                waiting = self._waiting.pop(said["id"])
                if "error" in said:
                    waiting.set_exception(AssertionError(said["error"]))
                else:
                    waiting.set_result(said["result"])
                continue
            self._note(said["method"], said["params"])

    def _note(self, method: str, facts: dict[str, Any]) -> None:
        match method:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Network.requestWillBeSent":
                self.requested.append(facts["request"]["url"])
            case "Network.loadingFailed" if not facts.get("canceled"):
                self.complaints.append(facts["errorText"])
            case "Log.entryAdded" if facts["entry"]["level"] == "error":
                self.complaints.append(facts["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(facts["exceptionDetails"]))

    async def call(self, method: str, **facts: Any) -> Any:
        number = next(self._ids)
        self._waiting[number] = answered = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": number, "method": method, "params": facts})
        async with asyncio.timeout(30):
            return await answered

    async def go(self, url: str) -> None:
        """Open a page and wait until all of it is there."""
        await self.loads(self.call("Page.navigate", url=url))

    async def loads(self, doing: Any) -> None:
        """Do what leads to another page, and wait for that."""
        self._loaded.clear()
        await doing
        async with asyncio.timeout(30):
            await self._loaded.wait()

    async def look(self, *, size: tuple[int, int] = DESK, dark: bool = False) -> None:
        """Set the window's size and the user's preference."""
        width, height = size
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def ask(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def text(self) -> str:
        """Return what can be read on the page."""
        return str(await self.ask("document.body.innerText"))

    async def picture(self, file: Path) -> None:
        """Write the whole page, from top to bottom, as a PNG."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(answer["data"]))


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """Run a browser with one tab."""
    assert CHROMIUM, "needs chromium: apt-get install chromium"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        process = await asyncio.create_subprocess_exec(
            CHROMIUM,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", "--disable-background-networking", "--disable-sync"),
            *("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--hide-scrollbars"),
            *(f"--user-data-dir={home}", "--remote-debugging-port=0", "about:blank"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": home},
        )
        try:
            async with aiohttp.ClientSession() as session:
                port = await _port(Path(home))
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    (tab,) = [one for one in await answer.json() if one["type"] == "page"]
                async with session.ws_connect(
                    tab["webSocketDebuggerUrl"], max_msg_size=0
                ) as socket:
                    page = Page(socket)
                    reader = asyncio.get_running_loop().create_task(page.read())
                    for domain in ("Page", "Network", "Log", "Runtime"):
                        await page.call(f"{domain}.enable")
                    yield page
                    await socket.close()
                    await reader
        finally:
            process.kill()
            await process.wait()


async def _port(home: Path) -> int:
    """Return the port, which the browser writes down once it listens there."""
    file = home / "DevToolsActivePort"
    async with asyncio.timeout(30):
        while not file.exists() or not file.read_text().strip():
            await asyncio.sleep(0.02)
    return int(file.read_text().splitlines()[0])
