"""`offramp jobs`: what a caller can ask of a running proxy about its own jobs."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import click

from proxy.cli import FAILED
from proxy.cli.options import json_option, limit_option, read_url
from proxy.cli.output import print_facts, print_json, print_records, print_table, shown
from proxy.cli.remote import LONG_POLL_S, AwayError, Json, Remote, RemoteError
from proxy.core.ids import is_job_id
from proxy.core.statuses import ENDED, STATUSES

_AWAY_S: Final = 120.0
"""How long a proxy that has told of a job may be away, as for a restart."""

_PAUSE_S: Final = 1.0


class JobIdType(click.ParamType[str]):
    """A job ID; its check character finds typing errors before anything is asked."""

    name = "job"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_job_id(value):
            self.fail(f"{value!r} is no job ID (mistyped?)", param, ctx)
        return str(value)


def remote_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options by which a running proxy and the caller's key are named."""
    for option in (
        json_option,
        click.option(
            "--api-key-env",
            default="OPENAI_API_KEY",
            show_default=True,
            metavar="NAME",
            help="Variable that holds the key which the jobs were made with.",
        ),
        click.option(
            "--url",
            envvar="OFFRAMP_URL",
            metavar="URL",
            callback=read_url,
            default="http://127.0.0.1:8080",
            show_default=True,
            help="Where the proxy listens. Also OFFRAMP_URL.",
        ),
    ):
        command = option(command)
    return command


def _remote(url: str, api_key_env: str) -> Remote:
    token = os.environ.get(api_key_env, "").strip()
    if not token:
        raise click.UsageError(
            f"{api_key_env} is not set; name the variable that holds your key by --api-key-env"
        )
    return Remote(url, token)


@click.group("jobs")
def command() -> None:
    """Ask a running proxy about the jobs of one key."""


@command.command("list")
@click.option("--status", type=click.Choice(STATUSES), help="Only jobs that stand so.")
@click.option("--tag", metavar="NAME=VALUE", help="Only jobs with this tag.")
@click.option("--after", type=JobIdType(), help="Go on behind this job.")
@limit_option
@remote_options
def list_jobs(*, url: str, api_key_env: str, as_json: bool, **where: object) -> None:
    """List jobs, newest first."""
    page = _remote(url, api_key_env).get("/v1/jobs", where).json()
    if as_json:
        print_json(page)
        return
    columns = ("id", "status", "model", "lane", "created_at", "deadline")
    print_records(columns, page.get("data"), cell=_cell)
    if page.get("has_more"):
        click.echo(f"more: --after {page.get('last_id')}", err=True)


@command.command("show")
@click.argument("job", type=JobIdType())
@remote_options
def show(*, job: str, url: str, api_key_env: str, as_json: bool) -> None:
    """Show one job."""
    print_facts(_remote(url, api_key_env).get(f"/v1/jobs/{job}").json(), as_json=as_json)


@command.command("wait", short_help="Wait until a job has ended.")
@click.argument("job", type=JobIdType())
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Default: none.")
@remote_options
def wait(*, job: str, timeout: float | None, url: str, api_key_env: str, as_json: bool) -> None:
    """Wait until a job has ended; fails unless it was completed."""
    found = _await_end(_remote(url, api_key_env), job, timeout)
    print_facts(found, as_json=as_json)
    if found.get("status") != "completed":
        raise click.exceptions.Exit(FAILED)


@command.command("result", short_help="Write the provider's answer to standard output.")
@click.argument("job", type=JobIdType())
@click.option("--wait/--no-wait", "patient", default=False, help="Wait until the job has ended.")
@remote_options
def result(*, job: str, patient: bool, url: str, api_key_env: str, as_json: bool) -> None:
    """Write the provider's answer to standard output, byte for byte.

    Fails if the job failed; the provider's error is written all the same. With
    --json the answer is text within an object that also holds its status.
    """
    remote = _remote(url, api_key_env)
    if patient:
        _await_end(remote, job, None)
    answer = remote.get(f"/v1/jobs/{job}/result")
    if answer.status == 202:
        raise RemoteError(f"job {job} has no result yet", hint=f"offramp jobs wait {job}")
    if answer.is_own_error:
        # A 400 too: of a job that was cancelled, which is no wrong use of the command.
        raise answer.refusal()
    if as_json:
        text = answer.body.decode(errors="replace")
        print_json({"id": job, "status_code": answer.status, "body": text})
    else:
        sys.stdout.buffer.write(answer.body)
        sys.stdout.buffer.flush()
    if answer.status >= 400:
        raise click.exceptions.Exit(FAILED)


@command.command("cancel", short_help="Cancel jobs.")
@click.argument("jobs", type=JobIdType(), nargs=-1, required=True, metavar="JOB...")
@remote_options
def cancel(*, jobs: tuple[str, ...], url: str, api_key_env: str, as_json: bool) -> None:
    """Cancel jobs; what a provider has finished by then is paid for nevertheless."""
    remote = _remote(url, api_key_env)
    cancelled: list[Json] = []
    failures: list[str] = []
    hint: str | None = None
    for job in jobs:
        try:
            cancelled.append(remote.post(f"/v1/jobs/{job}/cancel").json())
        except RemoteError as exc:
            # The others are to be cancelled all the same: each of them costs money.
            failures.append(exc.message if job in exc.message else f"{job}: {exc.message}")
            hint = exc.hint
    if as_json:
        print_json(cancelled)
    elif cancelled:
        print_table(("id", "status"), [(job.get("id"), job.get("status")) for job in cancelled])
    if failures:
        raise RemoteError("\n".join(failures), hint=hint)


def _await_end(remote: Remote, job: str, timeout: float | None) -> Json:
    give_up = None if timeout is None else time.monotonic() + timeout
    status, known_at = None, None
    while True:
        begun = time.monotonic()
        left = LONG_POLL_S if give_up is None else give_up - begun
        wanted = round(max(0, min(LONG_POLL_S, left)))
        try:
            found = _look(remote, job, wanted)
        except AwayError:
            # The job goes on while its proxy is restarted.
            if known_at is None or begun - known_at > _AWAY_S:
                raise
        else:
            status, known_at = found.get("status"), time.monotonic()
            if status in ENDED:
                return found
        now = time.monotonic()
        if give_up is not None and now >= give_up:
            raise RemoteError(f"job {job} is still {status}")
        if now - begun < _PAUSE_S:
            # Less than a second is left, or it is not held: that is not asked without a pause.
            time.sleep(_PAUSE_S if give_up is None else min(_PAUSE_S, give_up - now))


def _look(remote: Remote, job: str, wait_s: int) -> Json:
    answer = remote.get(f"/v1/jobs/{job}", {"wait": wait_s})
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        # Too many connections are held; without waiting, anybody is told how the job stands.
        answer = remote.get(f"/v1/jobs/{job}")
    return answer.json()


def _cell(job: Mapping[str, object], column: str) -> object:
    value = job.get(column)
    if column == "status" and value is None:
        return "cannot be read"
    # A lane comes with its reason.
    return value.get("name") if isinstance(value, dict) else shown(column, value)
