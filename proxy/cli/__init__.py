"""The command `offramp`: parse, call a service, print.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 bad configuration. Nobody is ever
shown a traceback who did not ask for one with `--debug`.

Commands are imported when they are run. `offramp --help` loads neither the
server nor a provider's library.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Final

import click

from proxy.core.errors import ConfigError, ProxyError

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
BAD_CONFIGURATION: Final = 3
_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells report it."""

COMMANDS: Final[Mapping[str, str]] = {
    "run": "Run a command with its LLM calls deferred.",
    "send": "Send a file of calls, and collect their answers.",
    "serve": "Run the proxy.",
    "demo": "Show it at work, with a provider in a sandbox and no key.",
    "check": "Print the effective configuration and where each value came from.",
    "jobs": "List, show, await, fetch and cancel jobs of a running proxy.",
    "batches": "List and show batches of a running proxy.",
    "bill": "Show what deferred calls cost, and what that saved.",
    "credential": "Hash tokens for the configuration.",
    "policy": "Test and explain rules, and print their schema for editors.",
}
"""Each is `command` in the module of that name here; the text stands in `--help`."""

_HIDDEN: Final = frozenset({"worker"})
"""Not for people."""


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
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="offramp", prog_name="offramp")
@click.option("--debug", is_flag=True, help="Show a traceback if something unforeseen fails.")
def cli(*, debug: bool) -> None:
    """Interactive calls go straight through; deferrable ones into provider batches."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if args is None else args)
    try:
        with cli.make_context("offramp", words) as context:
            return _invoke(context)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        exc.show()
        return USAGE


def _invoke(context: click.Context) -> int:
    try:
        cli.invoke(context)
    except (click.ClickException, click.exceptions.Exit):
        raise
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Without this the
        # interpreter complains once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ProxyError as exc:
        _explain(exc)
        return BAD_CONFIGURATION if isinstance(exc, ConfigError) else FAILED
    except Exception as exc:  # noqa: BLE001 - the outermost place: nobody else can tell the user
        if context.params["debug"]:
            traceback.print_exc()
        else:
            click.echo(
                f"offramp: a bug: {type(exc).__name__}; `offramp --debug …` shows where", err=True
            )
        return FAILED
    return OK


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
