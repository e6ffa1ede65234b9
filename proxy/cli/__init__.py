"""The command `offramp`: parse, call a service, print.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 bad configuration. Nobody is ever
shown a traceback who did not ask for one with `--debug`.

A command stands in the module of its name: audit, batches, bill, check, completion, credential,
demo, jobs, policy, run, sandbox, send, serve; worker is for `serve` alone. They share their
options, what speaks to a running proxy (remote), and their output. A start may be refused for
complaints about the configuration, or for a namesake of this package.

Commands are imported when they are run. `offramp --help` loads neither the
server nor a provider's library.
"""

import importlib
import io
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem, shell_complete

from proxy.core.errors import ConfigError, ProxyError

OK: Final = 0
FAILED: Final = 1
BAD_CONFIGURATION: Final = 3
_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells report it."""

COMMANDS: Final[Mapping[str, str]] = {
    "run": "Run a command with its LLM calls deferred.",
    "send": "Send a file of calls, and collect their answers.",
    "serve": "Run the proxy.",
    "demo": "Show it at work, with a provider in a sandbox and no key.",
    "sandbox": "Serve a provider in a sandbox, to try things without a key.",
    "completion": "Print what makes a shell complete commands.",
    "check": "Print the effective configuration and where each value came from.",
    "jobs": "List, show, await, fetch and cancel jobs of a running proxy.",
    "batches": "List and show batches of a running proxy.",
    "audit": "Find in recorded calls what nobody waits for, and the rules for it.",
    "bill": "Show what deferred calls cost, and what that saved.",
    "credential": "Hash tokens for the configuration.",
    "policy": "Test and explain rules, and print their schema for editors.",
}
"""Each is `command` in the module of that name here; the text stands in `--help`."""

SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "Defer calls without changing code": ("run", "send"),
    "The proxy": ("serve", "check", "policy", "credential"),
    "What it does and what it saves": ("jobs", "batches", "bill", "audit"),
    "Try it": ("demo", "sandbox"),
}
"""How `--help` groups them; whatever stands in none comes last."""

COMPLETION_VARIABLE: Final = "_OFFRAMP_COMPLETE"
"""By which a shell asks for completions: click's own form of the name."""

_HIDDEN: Final = frozenset({"worker"})
"""Not for people."""

_WHERE: Final = "`offramp --debug …` shows where"


class _LazyGroup(click.Group):
    """A group whose commands are imported only when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS.keys() | _HIDDEN:
            return None
        module = importlib.import_module(f"proxy.cli.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        placed = {name for names in SECTIONS.values() for name in names}
        others = tuple(name for name in COMMANDS if name not in placed)
        for title, names in {**SECTIONS, "Others": others}.items():
            rows = [(name, COMMANDS[name]) for name in names if name in COMMANDS]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=12)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # The group's own way would import every command for its help.
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=text)
            for name, text in COMMANDS.items()
            if name.startswith(incomplete)
        ]


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="offramp", prog_name="offramp")
@click.option("--debug", is_flag=True, help="Show a traceback if something unforeseen fails.")
def cli(*, debug: bool) -> None:
    """Interactive calls go straight through; deferrable ones into provider batches."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if args is None else args)
    _replace_closed_streams()
    _escape_foreign_letters()
    asked = os.environ.get(COMPLETION_VARIABLE)
    if asked:
        return shell_complete(cli, {}, "offramp", COMPLETION_VARIABLE, asked)
    try:
        # Help and version are printed while the words are read.
        with cli.make_context("offramp", words) as context:
            return _invoke(context)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Without this the
        # interpreter complains once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as exc:
        _explain(_failure_of_machine(exc))
        return FAILED


def _replace_closed_streams() -> None:
    """Open standard streams that were closed for us, or the next file would take their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - stays to the end


def _escape_foreign_letters() -> None:
    """Escape what a locale such as Latin-1 cannot say: names of models are of any script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _invoke(context: click.Context) -> int:
    try:
        cli.invoke(context)
    except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
        raise
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return _INTERRUPTED
    except ProxyError as exc:
        _explain(exc)
        return BAD_CONFIGURATION if isinstance(exc, ConfigError) else FAILED
    except Exception as exc:  # noqa: BLE001 - the outermost place: nobody else can tell the user
        if context.params["debug"]:
            traceback.print_exc()
        elif isinstance(exc, OSError):
            _explain(_failure_of_machine(exc))
        else:
            click.echo(f"offramp: a bug: {type(exc).__name__}; {_WHERE}", err=True)
        return FAILED
    return OK


def _failure_of_machine(error: OSError) -> ProxyError:
    """Return the error for what is the machine's fault and no bug, such as a full disk."""
    place = "" if error.filename is None else f"{error.filename}: "
    return ProxyError(f"{place}{error.strerror or type(error).__name__}", hint=_WHERE)


def _explain(error: ProxyError) -> None:
    lines = error.message.splitlines() or [error.code]
    if len(lines) == 1:
        click.echo(f"offramp: {lines[0]}", err=True)
    else:
        click.echo(f"offramp: {len(lines)} problems", err=True)
        for line in lines:
            click.echo(f"  {line}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
