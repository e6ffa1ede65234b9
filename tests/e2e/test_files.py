"""A machine that lets a process open few files."""

import asyncio
import sys
from collections import Counter

import aiohttp

from proxy.sandbox import Sandbox, SandboxSettings
from tests.e2e.commands import MANY, Desk
from tests.e2e.processes import COMMAND, KEY, body_of, proxy_and_provider, with_files

FEW = 160


async def test_a_service_outlives_more_callers_than_it_may_open_files_for(tmp_path):
    """Those who do not fit are told so; those who do get their answers, from a batch too."""
    async with proxy_and_provider(tmp_path, files=FEW) as (proxy, _):
        scarce = await proxy.event("files.scarce")
        room = scarce["callers"]
        assert (scarce["allowed"], room) == (FEW, (FEW - 96) // 2)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            for tag in ("wait", "false"):

                async def ask(number: int, tag: str = tag) -> int | None:
                    try:
                        async with session.post(
                            f"{proxy.base_url}/v1/chat/completions",
                            json=body_of(f"{tag} {number}"),
                            headers={"Authorization": f"Bearer {KEY}", "X-Deferrable": tag},
                        ) as answer:
                            return answer.status
                    except aiohttp.ClientConnectionError:
                        # It was told, and hung up on, before it had sent all.
                        return None

                told = Counter(await asyncio.gather(*map(ask, range(3 * FEW))))
                assert told[200] >= room
                assert set(told) <= {200, 503, None}

        assert not proxy.events("instance.failed")
        assert not proxy.events("library.logged")


async def test_a_script_may_have_as_many_calls_in_flight_as_its_own_files_allow(tmp_path):
    async with Sandbox(SandboxSettings(turnaround_s=0.3)).serve() as provider:
        desk = Desk(tmp_path, provider)
        # None is sent again: who is told that there is no room fails.
        many = MANY.replace("AsyncOpenAI()", "AsyncOpenAI(max_retries=0)")
        limit = "resource.getrlimit(resource.RLIMIT_NOFILE)[0]"
        script = desk.script(f"import resource\n{many}\nprint({limit})\n")
        few = with_files(FEW, soft=True)

        ended = await desk.ended(
            await desk.start(*few, *COMMAND, "run", "--", sys.executable, script, "120")
        )

    assert ended.code == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 121
    # A program may rely on what its user allows it.
    assert ended.stdout.splitlines()[-1] == str(FEW)
