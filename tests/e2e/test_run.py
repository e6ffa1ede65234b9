"""`offramp run`: an unmodified script, the same output, half the bill; and whatever ends it."""

import asyncio
import json
import os
import re
import signal
import sys

import pyte
import pytest

from proxy.sandbox import LineFault, Sandbox, SandboxSettings
from tests.e2e.commands import (
    MANY,
    ONE_BY_ONE,
    ONE_BY_ONE_WITHOUT_FLEX,
    QUICK,
    Desk,
    killed,
)
from tests.e2e.processes import COMMAND
from tests.helpers.raw_upstream import wait_until


@pytest.fixture
async def desk(tmp_path):
    async with Sandbox(SandboxSettings(turnaround_s=0.3)).serve() as provider:
        yield Desk(tmp_path, provider)


@pytest.fixture
async def slow_desk(tmp_path):
    async with Sandbox(SandboxSettings(turnaround_s=2.5)).serve() as provider:
        yield Desk(tmp_path, provider)


async def test_five_hundred_calls_at_once_give_the_same_output_at_half_the_price(desk):
    script = desk.script(MANY)
    direct = await desk.python(script, "500")
    list_usd = desk.provider.ledger.totals().paid_micro_usd
    desk.provider.ledger.clear()

    # Without the flex tier, which on a busy machine takes care of a few that come first.
    without_flex = {"OFFRAMP_LANES__FLEX__ENABLED": "false"}
    ended = await desk.run("run", "--", sys.executable, script, "500", **without_flex)

    assert (ended.code, ended.stdout) == (0, direct.stdout)
    assert len(direct.stdout.splitlines()) == 500
    assert desk.provider.ledger.totals().paid_micro_usd * 2 == list_usd
    assert desk.bought() == {1}
    # By our own list of prices, which is not the sandbox's: half of it as well.
    (row,) = re.findall(r"in batches +500 +\$([\d.]+) +\$([\d.]+) +\$([\d.]+)", ended.stderr)
    assert float(row[1]) == pytest.approx(float(row[0]) / 2, rel=0.01)


# All forty in one batch: of a few that come first on a busy machine the flex tier takes care.
ALL_AT_ONCE = {
    "OFFRAMP_BATCHING__MAX_REQUESTS": "40",
    "OFFRAMP_BATCHING__IDLE": "60s",
    "OFFRAMP_BATCHING__LINGER": "60s",
    "OFFRAMP_BATCHING__LINGER_MAX": "60s",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_what_was_interrupted_goes_on_and_buys_nothing_twice(slow_desk, number):
    desk, script = slow_desk, slow_desk.script(MANY)
    process = await desk.offramp("run", "--", sys.executable, script, "40", **ALL_AT_ONCE)
    requests = desk.provider.ledger.requests
    await wait_until(lambda: requests["POST /v1/batches"], "the batch to be created")

    last_words = await killed(process, number)
    ended = await desk.run("run", "--resume", "last", "--", sys.executable, script, "40")

    if number is signal.SIGINT:
        assert "interrupted; 0 answers kept, 40 calls still without one" in last_words
        assert re.search(rf"offramp run --resume \S+ -- .*{script} 40\n", last_words)
        # What Python does with an interrupt that nobody catches.
        assert process.returncode == 128 + signal.SIGINT
    assert ended.code == 0
    assert ended.stdout == (await desk.python(script, "40")).stdout
    batched = list(desk.provider.ledger.entries(lane="batch"))
    assert len(batched) == 40
    assert len({entry.body_hash for entry in batched}) == 40


async def test_an_upstream_that_is_not_there_is_named_while_it_lasts_and_leaves_no_answer(desk):
    script = desk.script(MANY)
    nobody = ("--upstream", "openai=http://127.0.0.1:1", "--deadline", "6s")

    ended = await desk.run("run", *nobody, "--", sys.executable, script, "1")

    assert ended.code == 1
    assert "offramp: openai does not answer: cannot connect to upstream 'openai'" in ended.stderr
    assert "the command has ended; 0 answers kept." in ended.stderr


async def test_a_command_that_goes_on_in_the_background_is_told_that_the_proxy_does_not(desk):
    ended = await desk.run("run", "--", "sh", "-c", "sleep 3 >/dev/null 2>&1 &")

    assert ended.code == 0
    assert "no call came through the proxy before the command ended" in ended.stderr
    assert "go on in the background" in ended.stderr


async def test_the_last_run_is_the_last_that_made_calls(desk):
    script = desk.script(MANY)
    await desk.run("run", "--", sys.executable, script, "12")
    mistyped = await desk.run("run", "--", "pyhton", script, "12")
    quick = await desk.run("run", "--", "false")
    refused = await desk.run("run", "--", "true", OFFRAMP_BATCHING__LINGER="soon")

    again = await desk.run("run", "--resume", "last", "--", sys.executable, script, "12")

    assert (mistyped.code, quick.code, refused.code) == (127, 1, 3)
    assert again.code == 0
    assert desk.bought() == {1}


async def test_what_had_failed_is_tried_again_when_it_goes_on(desk):
    script = desk.script(MANY)
    desk.provider.faults.add(LineFault(outcome="status", status=400, code="bad_day"))
    first = await desk.run("run", "--", sys.executable, script, "10")

    again = await desk.run("run", "--resume", "last", "--", sys.executable, script, "14")

    assert (first.code, again.code) == (1, 0)
    assert "openai.BadRequestError" in first.stderr
    assert "1 call failed" in first.stderr
    assert "offramp run --resume" in first.stderr
    # Over both starts: the one that had failed is bought, and four that are new.
    assert re.search(r"in batches +14\b", again.stderr)
    assert len(again.stdout.splitlines()) == 14
    assert desk.bought() == {1}


async def test_a_sequential_script_takes_the_tier_that_costs_as_much_as_a_batch(desk):
    script = desk.script(ONE_BY_ONE)

    ended = await desk.run("run", "--json", "--", sys.executable, script, "6")

    assert len(ended.stdout.splitlines()) == 6
    assert json.loads(ended.stderr.splitlines()[-1])["lanes"] == {"flex": 6}
    totals = desk.provider.ledger.totals()
    assert totals.paid_micro_usd * 2 == totals.list_micro_usd
    assert desk.bought() == {1}


async def test_a_sequential_script_is_called_directly_after_three(desk):
    script = desk.script(ONE_BY_ONE_WITHOUT_FLEX)
    direct = await desk.python(script, "8")
    desk.provider.ledger.clear()

    ended = await desk.run("run", "--json", "--", sys.executable, script, "8")

    assert (ended.code, ended.stdout) == (0, direct.stdout)
    lanes = [entry.lane for entry in desk.provider.ledger.entries()]
    assert lanes == ["batch"] * 3 + ["interactive"] * 5
    assert "one call at a time" in ended.stderr
    assert desk.bought() == {1}


async def test_input_and_outputs_are_the_commands_own(desk):
    process = await desk.offramp("run", "--", "sh", "-c", "cat; echo oops >&2")

    ended = await desk.ended(process, text=b"a\nb")

    assert (ended.code, ended.stdout) == (0, "a\nb")
    assert ended.stderr.startswith("oops\n")


@pytest.mark.parametrize("code", [0, 5])
async def test_the_exit_code_is_the_commands_also_where_nobody_reads_what_is_said(desk, code):
    reader, writer = os.pipe()
    os.close(reader)
    command = f"{sys.executable} {desk.script(ONE_BY_ONE)} 1; exit {code}"

    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "run", "--", "sh", "-c", command),
        stdout=asyncio.subprocess.PIPE,
        stderr=writer,
        env={**desk.variables, **QUICK},
    )
    os.close(writer)
    ended = await desk.ended(process)

    assert ended.code == code
    assert len(ended.stdout.splitlines()) == 1


async def test_signals_reach_the_command(desk):
    trap = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    process = await desk.offramp("run", "--", "sh", "-c", trap)
    assert process.stdout is not None
    async with asyncio.timeout(30):
        await process.stdout.readline()

    process.send_signal(signal.SIGTERM)
    ended = await desk.ended(process)

    assert (ended.code, ended.stdout) == (5, "caught\n")


async def test_two_cannot_go_on_with_one_run(desk):
    trap = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    process = await desk.offramp("run", "--", "sh", "-c", trap)
    assert process.stdout is not None
    async with asyncio.timeout(30):
        await process.stdout.readline()

    second = await desk.run("run", "--resume", "last", "--", "true")
    process.send_signal(signal.SIGTERM)
    await desk.ended(process)

    assert second.code == 1
    assert "still going on in another process" in second.stderr


async def test_a_bad_configuration_ends_with_3_before_anything_is_started(desk):
    ended = await desk.run("run", "--", "echo", "hello", OFFRAMP_BATCHING__LINGER="soon")

    assert (ended.code, ended.stdout) == (3, "")
    assert "OFFRAMP_BATCHING__LINGER" in ended.stderr


# On a terminal.


class Terminal:
    """A terminal of 80 by 12 whose user sees `screen`."""

    def __init__(self) -> None:
        self.screen = pyte.Screen(80, 12)
        self._stream = pyte.ByteStream(self.screen)
        self.master, self._slave = os.openpty()
        os.set_blocking(self.master, False)

    async def start(self, desk, *words):
        def own_terminal() -> None:
            import fcntl
            import struct
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 80, 0, 0))

        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, *words),
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env={**desk.variables, **QUICK, "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=own_terminal,
        )
        os.close(self._slave)
        asyncio.get_running_loop().add_reader(self.master, self._read)
        return process

    def _read(self) -> None:
        try:
            self._stream.feed(os.read(self.master, 65_536))
        except OSError:
            asyncio.get_running_loop().remove_reader(self.master)

    @property
    def last(self) -> str:
        """The last row."""
        return str(self.screen.display[-1]).rstrip()

    def shows(self, text: str) -> bool:
        return text in "\n".join(self.screen.display)


TICKING = MANY.replace(
    "async with AsyncOpenAI() as client:",
    """async with AsyncOpenAI() as client:
        async def tick():
            for number in range(1000):
                print("tick", number, flush=True)
                await asyncio.sleep(0.05)
        ticking = asyncio.create_task(tick())""",
)


async def test_the_live_line_stands_apart_from_what_the_script_prints(slow_desk):
    terminal = Terminal()
    script = slow_desk.script(TICKING)
    process = await terminal.start(slow_desk, "run", "--", sys.executable, script, "12")

    await wait_until(lambda: "12 in 1 batch" in terminal.last, "the live line")
    seen = list(terminal.screen.display)
    os.write(terminal.master, b"\x03")
    async with asyncio.timeout(30):
        code = await process.wait()
    await wait_until(lambda: terminal.shows("--resume"), "the last words")

    ticks = [row.rstrip() for row in seen[:-1] if row.strip()]
    assert ticks
    assert all(re.fullmatch(r"tick \d+", row) for row in ticks)
    assert "0 of 12 calls answered" in seen[-1]
    # Ctrl-C reaches the script once, from the terminal.
    assert code == 128 + signal.SIGINT
    # The row was given back: the whole screen scrolls again.
    assert terminal.screen.margins is None or terminal.screen.margins.bottom == 11
