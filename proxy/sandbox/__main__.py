"""`python -m proxy.sandbox`: the sandbox as a process of its own."""

import asyncio
import re
import signal
from pathlib import Path
from typing import Any

import click

from proxy.sandbox.server import Sandbox
from proxy.sandbox.settings import SandboxSettings
from proxy.system_words import system_words

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class _Duration(click.ParamType[float]):
    """`50ms`, `5s`, `10m`, `24h`, `1d`; a bare number is seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration such as 50ms, 5s, 10m, 24h or 1d", param, ctx)
        return float(match[1]) * _UNITS[match[2] or "s"]


_DURATION = _Duration()


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=0,
    help="0 takes a free one.",
    show_default=True,
)
@click.option("--latency", type=_DURATION, default="0s", help="Of interactive answers.")
@click.option("--stream-pause", type=_DURATION, default="0s", help="Between stream events.")
@click.option("--background", type=_DURATION, default="0s", help="Of background responses.")
@click.option("--validation", type=_DURATION, default="0s", help="Of batches.")
@click.option("--turnaround", type=_DURATION, default="5s", show_default=True, help="Of batches.")
@click.option("--finalizing", type=_DURATION, default="0s", help="Of batches.")
@click.option("--cancel", type=_DURATION, default="0s", help="Time spent cancelling.")
@click.option(
    "--window", type=_DURATION, default="24h", show_default=True, help="Until a batch expires."
)
@click.option("--batch-list-lag", type=_DURATION, default="0s", help="Until a new batch is listed.")
@click.option("--batch-get-lag", type=_DURATION, default="0s", help="Until a new batch is found.")
@click.option("--file-lag", type=_DURATION, default="0s", help="Until a new file is found.")
@click.option(
    "--enqueued-tokens-max", type=int, default=None, help="In batches of one model and project."
)
@click.option(
    "--shuffle-seed", type=int, default=0, show_default=True, help="Of the order of result lines."
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where file contents live; a temporary one by default.",
)
@click.option(
    "--time-scale",
    type=click.FloatRange(min=0),
    default=1.0,
    help="Speed of its clock; 0 stops it.",
)
def main(host: str, port: int, **options: Any) -> None:
    """Serve a local provider until interrupted; its URL is the first line printed."""
    plain = {"enqueued_tokens_max", "shuffle_seed", "time_scale", "directory"}
    settings = SandboxSettings(
        **{name if name in plain else f"{name}_s": value for name, value in options.items()}
    )
    try:
        asyncio.run(_serve(settings, host, port))
    except ExceptionGroup as group:
        # What keeps it from listening comes out of the group that owns its tasks.
        (first, *others) = group.exceptions
        if others or not isinstance(first, OSError):
            raise
        message = f"cannot listen on {host}:{port}: {system_words(first)}"
        raise click.ClickException(message) from first


async def _serve(settings: SandboxSettings, host: str, port: int) -> None:
    async with Sandbox(settings).serve(host, port) as running:
        # Both signals end it in order, so that its temporary directory goes with it.
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        click.echo(running.base_url)  # echo flushes, so a parent that waits for the URL gets it
        await stop.wait()


if __name__ == "__main__":
    main()
