"""How the interpreter is run."""

import asyncio
import subprocess
import sys

import pytest

from proxy.runtime import random_bytes, run


def printed(script: str) -> str:
    """Run the script in a process of its own; return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(("kind", "module"), [("uvloop", "uvloop"), ("asyncio", "asyncio")])
def test_the_service_turns_on_the_loop_that_was_chosen(kind, module):
    seen = []

    async def main() -> None:
        seen.append(type(asyncio.get_running_loop()).__module__.partition(".")[0])

    run(main(), kind)

    assert seen == [module]


@pytest.mark.parametrize(("before", "heard"), [("SIG_DFL", "stopped"), ("SIG_IGN", "")])
def test_a_hangup_ends_in_order_unless_it_was_to_be_ignored(before, heard):
    # In a process of its own: the handler stays.
    script = f"""
import asyncio, os, signal
from proxy.runtime import heed_hangup

async def main():
    heard = []
    signal.signal(signal.SIGHUP, signal.{before})
    heed_hangup(reload=None, stop=lambda: heard.append("stopped"))
    os.kill(os.getpid(), signal.SIGHUP)
    # What came before is heard before this: signals are passed on in their order.
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    os.kill(os.getpid(), signal.SIGTERM)
    await told.wait()
    print(*heard)

asyncio.run(main())
"""

    assert printed(script).strip() == heard


def test_what_lives_as_long_as_the_process_is_not_looked_through_again():
    # In a process of its own: what is frozen stays so.
    script = (
        "import gc; from proxy.runtime import spare_garbage; spare_garbage();"
        "print(gc.get_freeze_count() > 1000, gc.get_threshold()[0], len(gc.get_objects()) < 1000)"
    )

    assert printed(script).split() == ["True", "20000", "True"]


def test_the_process_may_open_as_many_files_as_it_is_allowed_to():
    script = (
        "import resource as r; kind = r.RLIMIT_NOFILE; hard = r.getrlimit(kind)[1];"
        "r.setrlimit(kind, (256, hard)); from proxy.runtime import allow_files, allowed_files;"
        "allow_files(); print(allowed_files() == hard == r.getrlimit(kind)[0])"
    )

    assert printed(script).strip() == "True"


def test_no_thread_keeps_the_interpreter_from_the_event_loop_for_long():
    script = (
        "import sys; from proxy.runtime import share_fairly; share_fairly();"
        "print(sys.getswitchinterval())"
    )

    assert printed(script).strip() == "0.001"


def test_random_bytes_are_given_out_once_whatever_is_asked_for():
    taken = [random_bytes(count) for count in [10, 12] * 500 + [5000, 16]]

    assert [len(one) for one in taken[-2:]] == [5000, 16]
    assert all(len(one) >= 10 for one in taken)
    assert len({one[:10] for one in taken}) == len(taken)


def test_a_forked_process_has_random_bytes_of_its_own():
    # In a process of its own, which has one thread.
    script = (
        "import os; from proxy.runtime import random_bytes as take; take(1);"
        # One after the other: they write to one pipe.
        "child = os.fork(); child and os.wait(); print(take(16).hex(), flush=True)"
    )

    assert len(set(printed(script).split())) == 2
