"""`offramp run`."""

import click

from policies.fields import read_deadline
from proxy.app import SystemClock
from proxy.cli.namesake import refuse_namesake
from proxy.cli.options import config_option
from proxy.core.dialects import DIALECTS
from proxy.core.errors import ConfigError
from proxy.core.upstream import Upstream
from proxy.run.session import RunOptions, run_command
from proxy.settings.values import hide_secrets


def _named(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    urls = {}
    for text in texts:
        name, equals, url = text.partition("=")
        if not (name and equals and url):
            raise click.BadParameter(f"{text!r} is not NAME=URL", ctx=ctx, param=param)
        try:
            # What an unknown name speaks stands in the configuration; a URL is the same to all.
            Upstream.parse(name, name if name in DIALECTS else "openai", url)
        except ConfigError as exc:
            raise click.BadParameter(f"{hide_secrets(text)!r}: {exc.message}", ctx, param) from None
        urls[name] = url
    return urls


def _checked(ctx: click.Context, param: click.Parameter, text: str | None) -> str | None:
    if text is not None:
        try:
            read_deadline(text, SystemClock().now())
        except ValueError as exc:
            raise click.BadParameter(f"{text!r}; allowed: {exc}", ctx=ctx, param=param) from None
    return text


deadline_option = click.option(
    "--deadline",
    metavar="DURATION",
    callback=_checked,
    help="Latest useful time of answers, e.g. 6h.",
)
upstream_option = click.option(
    "--upstream",
    "upstreams",
    multiple=True,
    metavar="NAME=URL",
    callback=_named,
    help="Where a provider is, without the /v1 of its paths. May be given several times.",
)


@click.command(
    "run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--resume", metavar="RUN", help="Go on with an earlier run: its ID, or `last`.")
@deadline_option
@click.option(
    "--answer",
    type=click.Choice(["wait", "job", "raise"]),
    default="wait",
    show_default=True,
    help="What calls get: their answer once it is there, a job, or an error that names the job.",
)
@upstream_option
@config_option("YAML file, as for `offramp serve`.")
@click.option("--live/--quiet", default=None, help="A line that moves, or a few that stay.")
@click.option("--json", "as_json", is_flag=True, help="Print the bill as one line of JSON.")
def command(words: tuple[str, ...], *, upstreams: dict[str, str], **options: object) -> None:
    """Run a command with its LLM calls deferred, at about half the price.

    \b
      offramp run -- python evals.py
      offramp run --deadline 6h -- npm run evals
      offramp run --resume last -- python evals.py

    The command's SDKs are told by OPENAI_BASE_URL and its like to call a proxy that
    runs beside it. If such a variable is set already, that is where calls are sent.
    Every call is held until its answer is there; the command changes nothing.
    Progress and the bill are written to standard error. The exit code is the
    command's.
    """
    refuse_namesake()
    chosen = RunOptions(base_urls=upstreams, **options)  # type: ignore[arg-type]
    code = run_command(words, chosen)
    if code:
        raise click.exceptions.Exit(code)
