"""What the command line does for people: help, completion, tables that fit, a sandbox."""

import importlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from proxy.cli import COMMANDS, SECTIONS, main
from proxy.cli.output import plain, print_records, print_table

ROOT = Path(__file__).resolve().parents[2]
COMPLETE = "_OFFRAMP_COMPLETE"


def run(*words, **more):
    return subprocess.run(
        [sys.executable, "-m", "proxy", *words],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | more,
        timeout=60,
    )


def test_help_groups_the_commands_and_leaves_none_out(capsys):
    assert main(["--help"]) == 0

    shown = capsys.readouterr().out
    assert "Defer calls without changing code:\n  run " in shown
    assert [name for name in COMMANDS if f"\n  {name} " not in shown] == []
    assert [title for title in SECTIONS if f"{title}:" not in shown] == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_says_what_it_is(name):
    command = importlib.import_module(f"proxy.cli.{name}").command
    below = command.commands.values() if isinstance(command, click.Group) else ()

    options = [
        one for each in (command, *below) for one in each.params if isinstance(one, click.Option)
    ]
    assert [one.name for one in options if not one.help] == []


@pytest.mark.parametrize("name", ["jobs", "batches", "credential", "policy"])
def test_no_line_of_help_breaks_off_on_a_usual_terminal(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0

    assert "..." not in capsys.readouterr().out.replace("[ARGS]...", "")


@pytest.mark.parametrize("name", ["run", "send", "sandbox", "completion"])
def test_help_of_a_command_shows_how_it_is_used(capsys, name):
    assert main([name, "--help"]) == 0

    assert f"  offramp {name} " in capsys.readouterr().out or name == "completion"


@pytest.mark.parametrize("words", [["run", "--deadline", "soon", "--", "true"]])
def test_a_bad_deadline_is_wrong_usage_before_anything_starts(words):
    done = run(*words)

    assert done.returncode == 2
    assert "'soon'" in done.stderr


@pytest.mark.parametrize("text", ["openai", "=http://x", "openai="])
def test_a_bad_upstream_is_wrong_usage(text):
    done = run("run", "--upstream", text, "--", "true")

    assert done.returncode == 2
    assert "NAME=URL" in done.stderr


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("openai=ftp://x", "must be http(s)"),
        ("mine=http://me:canary@x", "carries credentials"),
        ("v1=http://x", "is reserved"),
    ],
)
def test_an_upstream_that_cannot_be_called_is_wrong_usage(text, problem):
    done = run("run", "--upstream", text, "--", "true")

    assert done.returncode == 2
    assert "--upstream" in done.stderr
    assert problem in done.stderr
    assert "canary" not in done.stderr


# Completion.


def test_bash_completes_commands_and_options_with_what_is_printed():
    # As a shell does: the line is split, and what the function leaves is offered.
    program = """
offer() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _offramp_completion offramp; echo "${COMPREPLY[@]}"
}
source <(offramp completion bash)
offer offramp se
offer offramp jobs ""
offer offramp run --res
"""
    tools = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
    )

    first, second, third = done.stdout.splitlines()
    assert first.split() == ["send", "serve"]
    assert second.split() == ["cancel", "list", "result", "show", "wait"]
    assert third.split() == ["--resume"]


@pytest.mark.parametrize(
    ("shell", "words", "offered"),
    [
        ("zsh", {"COMP_WORDS": "offramp ru", "COMP_CWORD": "1"}, "plain\nrun\n"),
        ("fish", {"COMP_WORDS": "offramp ru", "COMP_CWORD": "ru"}, "plain,run\t"),
    ],
)
def test_other_shells_get_their_script_and_their_answers(shell, words, offered):
    assert "offramp" in run("completion", shell).stdout
    assert run(**words, **{COMPLETE: f"{shell}_complete"}).stdout.startswith(offered)


def test_completing_a_command_imports_none():
    program = """
import sys
from proxy.cli import main
main([])
print([name for name in sys.modules if name.startswith("proxy.cli.")])
"""
    words = {"COMP_WORDS": "offramp ", "COMP_CWORD": "1", COMPLETE: "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | words,
    )

    assert done.stdout.splitlines()[-1] == "[]"
    assert "plain,jobs" in done.stdout


# Tables.

ROWS = [{"id": "job_1", "status": "queued", "at": "2026-11-26T03:50:41.123Z", "why": "x" * 30}]


def shown(capsys, monkeypatch, *, columns):
    if columns is not None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        size = os.terminal_size((columns, 24))
        monkeypatch.setattr("shutil.get_terminal_size", lambda: size)
    print_records(("id", "status", "at", "why"), ROWS, cell=lambda row, name: row.get(name))
    return [line.split() for line in click.unstyle(capsys.readouterr().out).splitlines()]


def test_a_pipe_gets_everything(capsys, monkeypatch):
    header, row = shown(capsys, monkeypatch, columns=None)

    assert header == ["id", "status", "at", "why"]
    assert row == ["job_1", "queued", "2026-11-26T03:50:41.123Z", "x" * 30]


@pytest.mark.parametrize(
    ("columns", "fitting"), [(80, 4), (63, 4), (62, 3), (31, 3), (30, 2), (13, 2)]
)
def test_a_terminal_gets_the_first_columns_that_fit_and_never_a_broken_row(
    capsys, monkeypatch, columns, fitting
):
    header, *rows = shown(capsys, monkeypatch, columns=columns)

    assert header == ["id", "status", "at", "why"][:fitting]
    assert len(rows) == 1
    if fitting >= 3:
        assert rows[0][2:4] == ["2026-11-26", "03:50"]


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        (None, ["model", "jobs", "saved", "unpriced"]),
        (80, ["model", "jobs", "saved", "unpriced"]),
        (45, ["model", "jobs", "saved"]),
        (38, ["model", "saved"]),
        (10, ["model", "saved"]),
    ],
)
def test_a_narrow_terminal_goes_without_spare_columns_before_it_breaks_a_name(
    capsys, monkeypatch, columns, kept
):
    if columns is not None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        size = os.terminal_size((columns, 24))
        monkeypatch.setattr("shutil.get_terminal_size", lambda: size)

    print_table(
        ("model", "jobs", "saved", "unpriced"),
        [("gpt-4o-mini-2024-07-18-dated", 12, "$0.0001", "-")],
        spare=("unpriced", "jobs"),
    )

    header, row, *more = click.unstyle(capsys.readouterr().out).splitlines()
    if columns != 10:
        assert (header.split(), row.split()[0], more) == (kept, "gpt-4o-mini-2024-07-18-dated", [])
    else:
        assert "jobs" not in header


def test_a_name_that_fits_nowhere_takes_no_column_from_the_others(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((80, 24)))

    print_table(("model", "jobs", "saved"), [("m" * 3000, 12, "$0.0001")], spare=("jobs",))

    assert click.unstyle(capsys.readouterr().out).split()[:3] == ["model", "jobs", "saved"]


def test_what_is_no_list_of_records_is_an_empty_table(capsys):
    print_records(("id",), None, cell=lambda row, name: row.get(name))

    assert capsys.readouterr().out.split() == ["id"]


# The sandbox.


def test_the_sandbox_prints_its_url_and_answers_there():
    from openai import OpenAI

    with subprocess.Popen(
        [sys.executable, "-m", "proxy", "sandbox"], stdout=subprocess.PIPE, text=True
    ) as sandbox:
        assert sandbox.stdout is not None
        url = sandbox.stdout.readline().strip()
        with OpenAI(base_url=f"{url}/v1", api_key="any") as client:
            answer = client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello!"}]
            )
        sandbox.terminate()

    assert "Hello!" in json.dumps(answer.model_dump(), ensure_ascii=False)
    assert sandbox.returncode == 0


def test_a_port_that_the_sandbox_cannot_have_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("sandbox", "--port", port)

    assert done.returncode == 1
    assert done.stderr == f"Error: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize("words", [["--port", "65536"], ["--time-scale", "-1"]])
def test_what_no_sandbox_can_be_is_wrong_usage(words):
    assert run("sandbox", *words).returncode == 2


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\nb", "a\x07", "\u202eabc"])
def test_what_a_terminal_would_obey_is_not_printed(text):
    shown = plain(text)

    assert shown.isprintable()
    assert len(shown) == len(text)
