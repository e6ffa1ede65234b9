"""`offramp run` and the like as a user starts them: a process, a script, a provider."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from proxy.sandbox import Running as Provider
from tests.e2e.processes import COMMAND, KEY, Ended, environment

QUICK: Mapping[str, str] = {
    "OFFRAMP_BATCHING__IDLE": "400ms",
    "OFFRAMP_BATCHING__POLL_INTERVAL": "200ms",
    "OFFRAMP_BATCHING__LINGER": "200ms",
    "OFFRAMP_BATCHING__LINGER_MAX": "200ms",
    "OFFRAMP_BATCHING__CREATE_TIMEOUT": "500ms",
    "OFFRAMP_BATCHING__SEARCH_PAUSE": "500ms",
    "OFFRAMP_INSTANCE__LEASE": "3s",
}

MANY = """
import asyncio, sys
from openai import AsyncOpenAI

async def main(count):
    async with AsyncOpenAI() as client:
        async def ask(number):
            answer = await client.chat.completions.create(
                model="gpt-4o-mini",
                messages=[{"role": "user", "content": f"ticket {number}"}],
            )
            return answer.choices[0].message.content
        for text in await asyncio.gather(*map(ask, range(count))):
            print(text)

asyncio.run(main(int(sys.argv[1])))
"""

ONE_BY_ONE = """
import sys
from openai import OpenAI

with OpenAI() as client:
    for number in range(int(sys.argv[1])):
        answer = client.chat.completions.create(
            model="gpt-5.4-mini", messages=[{"role": "user", "content": f"turn {number}"}]
        )
        print(answer.choices[0].message.content)
"""

ONE_BY_ONE_WITHOUT_FLEX = """
import sys
from anthropic import Anthropic

with Anthropic() as client:
    for number in range(int(sys.argv[1])):
        answer = client.messages.create(
            model="claude-haiku-4-5",
            max_tokens=100,
            messages=[{"role": "user", "content": f"turn {number}"}],
        )
        print(answer.content[0].text)
"""


@dataclass
class Desk:
    """A folder, a provider, and a shell whose variables name both."""

    folder: Path
    provider: Provider

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a user whose SDKs call the provider in the sandbox."""
        return environment(self.folder) | {
            "XDG_STATE_HOME": str(self.folder / "state"),
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": f"{self.provider.base_url}/v1",
            "ANTHROPIC_API_KEY": KEY,
            "ANTHROPIC_BASE_URL": self.provider.base_url,
            # Whose prices hold follows from an address, which is not theirs here.
            "OFFRAMP_PRICES__PROVIDERS": "{openai: openai, anthropic: anthropic}",
        }

    def script(self, text: str) -> str:
        """Write a script down; return its path."""
        path = self.folder / f"script-{len(text)}.py"
        path.write_text(text)
        return str(path)

    async def start(self, *words: str, **more: str) -> asyncio.subprocess.Process:
        """Start a command of whatever program."""
        return await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.folder,
            env={**self.variables, **QUICK, **more},
            # As a shell with job control starts it: signals for the group reach no test.
            start_new_session=True,
        )

    async def offramp(self, *words: str, **more: str) -> asyncio.subprocess.Process:
        """Start `offramp`."""
        return await self.start(*COMMAND, *words, **more)

    async def ended(
        self, process: asyncio.subprocess.Process, *, text: bytes | None = None
    ) -> Ended:
        """Wait for the end of a command."""
        async with asyncio.timeout(60):
            stdout, stderr = await process.communicate(text)
        assert process.returncode is not None
        return Ended(process.returncode, stdout.decode(), (stderr or b"").decode())

    async def run(self, *words: str, **more: str) -> Ended:
        """Run `offramp` to its end."""
        return await self.ended(await self.offramp(*words, **more))

    async def python(self, *words: str) -> Ended:
        """Run a script directly, without any proxy."""
        return await self.ended(await self.start(sys.executable, *words))

    def bought(self) -> set[int]:
        """Return how often any body was bought: `{1}` if each was bought once."""
        return set(self.provider.ledger.purchases().values())


async def killed(process: asyncio.subprocess.Process, number: signal.Signals) -> str:
    """End a command and, by force, everything that it has started; return its last words."""
    if number is signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    async with asyncio.timeout(30):
        _, stderr = await process.communicate()
    return stderr.decode()
