"""A command ends with its own exit code, however it ends."""

import os
import signal

import pytest

from proxy.run.child import Child


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL),
        (["true"], 0),
    ],
)
async def test_the_exit_code_is_that_of_a_shell(command, code):
    child = Child()

    assert await child.run(command, {"PATH": os.environ["PATH"]}) == code
    assert child.failure is None
    assert not child.interrupted


@pytest.mark.parametrize(
    ("program", "code", "reason"),
    [("no-such-program", 127, "No such file"), ("/", 126, "Permission denied")],
)
async def test_what_cannot_be_run_is_told_and_has_the_code_of_a_shell(program, code, reason):
    child = Child()

    assert await child.run([program], {}) == code
    assert child.failure is not None
    assert reason in child.failure


async def test_a_signal_before_the_start_is_passed_on_after_it():
    child = Child()
    child._pass_on(signal.SIGTERM)

    assert await child.run(["sleep", "30"], {"PATH": os.environ["PATH"]}) == 128 + signal.SIGTERM
    assert child.interrupted
