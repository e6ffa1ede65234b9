"""Three instances, their store and their provider, all of which can be hurt."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.sandbox import Running as Provider
from proxy.sandbox import Sandbox, SandboxSettings
from proxy.stores.vault import Vault
from tests.chaos.cable import Cable
from tests.chaos.faults import Fault, Kind
from tests.chaos.store import Store
from tests.e2e.processes import QUICK, Proxy, settings_for

INSTANCES = 3
LEASE_S = 3.0


@dataclass
class Stage:
    """The fleet and what it stands on."""

    proxies: list[Proxy]
    cables: list[Cable]
    store: Store
    provider: Provider
    say: Callable[[str], None]
    store_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    locks: list[asyncio.Lock] = field(
        default_factory=lambda: [asyncio.Lock() for _ in range(INSTANCES)]
    )

    def any_proxy(self, chance: random.Random) -> Proxy:
        """Return an instance, whole or not."""
        return chance.choice(self.proxies)

    async def befall(self, fault: Fault) -> None:
        """Let the fault come, last, and pass."""
        self.say(f"{fault.at_s:6.1f} s  {fault.kind} {fault.instance} for {fault.lasts_s:.1f} s")
        if fault.kind is Kind.STORE:
            async with self.store_lock:
                await self.store.hurt(fault.lasts_s)
            return
        # A slow start may last into the time of the next fault.
        async with self.locks[fault.instance]:
            await self._befall(fault, self.proxies[fault.instance], self.cables[fault.instance])

    async def _befall(self, fault: Fault, proxy: Proxy, cable: Cable) -> None:
        match fault.kind:
            case Kind.KILL:
                await proxy.kill()
                await asyncio.sleep(fault.lasts_s)
                await _start(proxy)
            case Kind.FREEZE:
                assert proxy.process is not None
                proxy.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(fault.lasts_s)
                proxy.process.send_signal(signal.SIGCONT)
            case Kind.CUT | Kind.HUSH:
                cable.cut(abruptly=fault.kind is Kind.CUT)
                await asyncio.sleep(fault.lasts_s)
                cable.mend()


async def _start(proxy: Proxy) -> None:
    """Start an instance, again if the store is away just then."""
    while True:
        try:
            await proxy.start()
        except AssertionError:
            await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError("".join(["it hangs\n", *proxy.raw_logs[-30:]])) from None
        else:
            return


@asynccontextmanager
async def set_up(
    folder: Path, say: Callable[[str], None], *, make_store: Callable[[Path], Store]
) -> AsyncIterator[Stage]:
    """Run the stage, over a store that keeps its files in a folder, until the block ends."""
    Vault.load_or_create(folder / "key")
    home = folder / "redis"
    home.mkdir()
    store = make_store(home)
    async with AsyncExitStack() as stack:
        stack.callback(store.close)
        sandbox = Sandbox(SandboxSettings(turnaround_s=0.3))
        provider = await stack.enter_async_context(sandbox.serve())
        cables, proxies = [], []
        for number in range(INSTANCES):
            cable = await stack.enter_async_context(Cable(store.port or 0).laid())
            cables.append(cable)
            proxies.append(_proxy(folder, number, store.url(cable.port), provider))
        for proxy in proxies:
            stack.push_async_callback(proxy.kill)
            await proxy.start()
        yield Stage(proxies, cables, store, provider, say)


def _proxy(folder: Path, number: int, url: str, provider: Provider) -> Proxy:
    own = folder / f"instance-{number}"
    own.mkdir()
    changes: dict[str, Any] = {
        "store": url,
        "secret_key_file": str(folder / "key"),
        "batching": QUICK["batching"],
        "instance": {"lease": f"{LEASE_S}s"},
        # Everything in batches: then nothing leaves a doubt about the bill.
        "lanes": {"flex": {"enabled": False}},
    }
    return Proxy(own, settings_for(own, {"openai": provider.base_url}, changes))
