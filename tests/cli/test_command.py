"""The command as a whole: its exit codes, what it says of failures, and that it is quick."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

from proxy.cli import COMMANDS, batches, jobs
from proxy.core.errors import ProxyError


@pytest.fixture
def demo_fails(monkeypatch):
    """Return what lets `offramp demo` fail, whatever it would do."""

    def fails(failure):
        @click.command("demo")
        def command():
            raise failure

        # What is imported already is not imported again.
        module = ModuleType("proxy.cli.demo")
        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return fails


def test_the_command_line_starts_without_the_heavy_libraries():
    program = """
import sys
import proxy.cli
heavy = {"aiohttp", "pydantic", "openai", "structlog", "rich", "asyncio", "cryptography", "redis"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_help_loads_no_command():
    program = """
import sys
from proxy.cli import main
assert main(["--help"]) == 0
assert not [name for name in sys.modules if name.startswith("proxy.cli.")]
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

    for name in COMMANDS:
        assert f"  {name} ".encode() in done.stdout


def test_python_dash_m_proxy_is_the_command():
    command = [sys.executable, "-m", "proxy", "--version"]
    done = subprocess.run(command, check=True, capture_output=True)

    assert done.stdout.startswith(b"offramp, version ")


@pytest.mark.parametrize("words", [["nope"], ["--nope"], ["check", "--nope"], ["jobs", "show"]])
def test_wrong_usage_ends_with_2_and_says_what_is_right(run, words):
    code, output, errors = run(*words)

    assert (code, output) == (2, b"")
    assert "Usage: offramp" in errors


def test_an_expected_failure_ends_with_1_and_a_hint(run, demo_fails):
    demo_fails(ProxyError("port 80 is taken", hint="choose another"))

    code, output, errors = run("demo")

    assert (code, output) == (1, b"")
    assert errors == "offramp: port 80 is taken\nhint: choose another\n"


def test_a_bug_shows_a_traceback_to_whoever_asked_alone(run, demo_fails):
    demo_fails(KeyError("canary"))

    code, _, errors = run("demo")
    debug_code, _, debug_errors = run("--debug", "demo")

    assert (code, debug_code) == (1, 1)
    assert "Traceback" not in errors
    assert "canary" not in errors
    assert "KeyError" in errors
    assert "Traceback" in debug_errors


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_ends_as_shells_expect(run, demo_fails, failure):
    demo_fails(failure)

    code, _, errors = run("demo")

    assert (code, errors) == (130, "interrupted\n")


@pytest.mark.parametrize(
    "words", [["check"], ["check", "--json"], ["--help"], ["--version"], ["run", "--help"]]
)
def test_a_reader_that_has_seen_enough_is_told_nothing(words):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "proxy", *words]
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run(command, check=False, stdout=output, stderr=subprocess.PIPE)

    assert done.returncode == 1
    assert done.stderr == b""


@pytest.mark.parametrize("words", [["check"], ["--help"], ["policy", "schema"]])
def test_a_disk_that_is_full_is_no_bug(words):
    command = [sys.executable, "-m", "proxy", *words]
    with Path("/dev/full").open("wb") as output:
        done = subprocess.run(command, check=False, stdout=output, stderr=subprocess.PIPE)

    assert done.returncode == 1
    assert done.stderr.startswith(b"offramp: No space left on device\nhint: ")


@pytest.mark.parametrize("letters", ["ascii", "latin-1"])
def test_what_a_locale_has_no_letters_for_is_escaped_and_no_bug(tmp_path, letters):
    (tmp_path / "\N{GREEK SMALL LETTER PI}.yaml").write_text("listen: 127.0.0.1:18080\n")
    command = [sys.executable, "-m", "proxy", "check", "--config"]
    done = subprocess.run(
        [*command, tmp_path / "\N{GREEK SMALL LETTER PI}.yaml"],
        check=False,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": letters},
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u03c0.yaml:1:9" in done.stdout


def test_what_the_machine_refuses_is_named_and_its_traceback_is_for_whoever_asked(run, demo_fails):
    demo_fails(PermissionError(13, "Permission denied", "/some/place"))

    code, _, errors = run("demo")
    debug_code, _, debug_errors = run("--debug", "demo")

    assert (code, debug_code) == (1, 1)
    assert errors.startswith("offramp: /some/place: Permission denied\nhint: ")
    assert "Traceback" in debug_errors


def test_an_output_that_is_closed_from_the_start_is_no_bug():
    command = ["sh", "-c", 'exec "$0" -m proxy check >&-', sys.executable]
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE)

    assert (done.returncode, done.stderr) == (0, b"")


def test_every_command_that_prints_speaks_json():
    for group in (jobs.command, batches.command):
        for command in group.commands.values():
            options = {option for one in command.params for option in one.opts}
            assert "--json" in options, command.name
