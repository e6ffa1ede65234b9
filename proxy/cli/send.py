"""`offramp send`."""

import shlex
import sys
from pathlib import Path

import click

from proxy.cli import FAILED
from proxy.cli.namesake import refuse_namesake
from proxy.cli.options import FILE, config_option, read_url
from proxy.cli.output import print_json
from proxy.cli.run import deadline_option, upstream_option
from proxy.send.session import SendOptions, send_file
from proxy.send.work import Tally


@click.command("send")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("-o", "--output", type=FILE, required=True, help="Where the answers go.")
@click.option(
    "--endpoint",
    default="/v1/chat/completions",
    show_default=True,
    metavar="PATH",
    help="Of lines that do not name one.",
)
@deadline_option
@click.option(
    "--url",
    envvar="OFFRAMP_URL",
    metavar="URL",
    callback=read_url,
    help="A running proxy; without one a proxy runs along. Also OFFRAMP_URL.",
)
@click.option("--api-key-env", metavar="NAME", help="Variable that holds the key of all lines.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    default=32,
    show_default=True,
    help="Lines that are sent at the same time.",
)
@click.option(
    "--buy-again",
    is_flag=True,
    help="Pay anew for lines whose answers cannot be had any more, as with another key.",
)
@upstream_option
@config_option("YAML file, as for `offramp serve`.")
@click.option("--json", "as_json", is_flag=True, help="Print what it came to as JSON.")
def command(file: Path, *, upstreams: dict[str, str], as_json: bool, **options: object) -> None:
    """Send a file of calls as deferred jobs, and collect their answers.

    \b
      offramp send calls.jsonl -o answers.jsonl
      offramp send calls.jsonl -o answers.jsonl --url http://127.0.0.1:8080

    A line of FILE is a request in the form of OpenAI's or Anthropic's batch files, or
    {"body": ..., "url": ...}, or a bare body. Line n of the output answers line n of
    FILE. Interrupted however, the same command goes on where it was and buys nothing
    twice. Keys are read from OPENAI_API_KEY, ANTHROPIC_API_KEY and so on.

    Fails if an answer is an error; all answers are in the output nevertheless.
    """
    refuse_namesake()
    chosen = SendOptions(base_urls=upstreams, quiet=as_json, **options)  # type: ignore[arg-type]
    try:
        tally = send_file(file, chosen)
    except KeyboardInterrupt:
        again = shlex.join(["offramp", *sys.argv[1:]])
        click.echo(f"offramp: what was sent and answered is kept; go on with\n  {again}", err=True)
        raise
    _tell(tally, chosen.output, as_json=as_json)
    # Whoever started it again wants to know of all, and not of the last few alone.
    if tally.failed or tally.failed_before:
        raise click.exceptions.Exit(FAILED)


def _tell(tally: Tally, output: Path, *, as_json: bool) -> None:
    if as_json:
        counts = {"answered": tally.answered, "failed": tally.failed}
        counts["failed_before"] = tally.failed_before
        print_json({**counts, "failures": tally.failures, "output": str(output)})
        return
    for failure in tally.failures:
        click.echo(failure, err=True)
    more = tally.failed - len(tally.failures)
    if more:
        click.echo(f"… and {more:,} more that failed", err=True)
    click.echo(f"offramp: new answers in {output}: {tally.answered:,}", err=True)
    if tally.failed_before:
        click.echo(f"offramp: errors among the earlier ones: {tally.failed_before:,}", err=True)
