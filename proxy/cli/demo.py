"""`offramp demo`."""

import click

from proxy.cli.namesake import refuse_namesake
from proxy.demo import run_demo


@click.command("demo")
@click.option(
    "--jobs",
    default=300,
    show_default=True,
    type=click.IntRange(1, 50_000),
    help="How many calls are sent.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the bill as JSON.")
def command(*, jobs: int, as_json: bool) -> None:
    """Send calls through the proxy to a provider in a sandbox, and show the bill.

    Needs no key and no network: provider, proxy and caller run in this process.
    """
    refuse_namesake()
    run_demo(jobs=jobs, as_json=as_json)
