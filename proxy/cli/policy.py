"""`offramp policy`: prove rules before they are switched on."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

import click

from policies.cases import CaseResult, outcome, run_cases
from policies.durations import format_duration
from policies.fields import read_time
from policies.load import PolicyError, PolicyFile, policy_schema
from policies.model import Answer, Reject
from policies.reach import Idle, idle_rules
from policies.rules import RuleSet
from proxy.cli import BAD_CONFIGURATION, FAILED
from proxy.cli.options import FILE, config_option, json_option
from proxy.cli.output import plain, print_json
from proxy.core.errors import CallerError
from proxy.core.upstream import Upstream
from proxy.services.policies import BadPoliciesError, read_policies
from proxy.services.traffic.facts import recorded_call
from proxy.services.traffic.replay import Scene, Told, read_call, tell, tell_facts
from proxy.settings import Settings, load

_REQUEST_BYTES_MAX: Final = 4 << 20

_CONFIG = config_option("Configuration with the upstreams; without one the public ones.")


@click.group("policy")
def command() -> None:
    """Test and explain the rules that divert calls which nobody tagged."""


@command.command("test")
@click.argument("file", type=FILE)
@click.option("--policies", type=FILE, help="The rules, if FILE holds tests alone.")
@_CONFIG
@json_option
def run_tests(file: Path, policies: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Run the tests that stand in FILE, beside its rules.

    Ends with 0 if all passed, 1 if one failed or if there is none, 3 if a file cannot
    be used. Rules that no call can get to are noted.
    """
    scene, _ = _scene(config)
    cases = _read(file, as_json=as_json)
    rules = cases.rules if policies is None else _read(policies, as_json=as_json).rules
    if not len(rules) and cases.cases:
        raise click.UsageError(f"{file} holds no rules; name the file that does by --policies")
    results = run_cases(rules, cases.cases, obstacle_of=scene.obstacle_of)
    failed = [result for result in results if not result.passed]
    idle = list(idle_rules(rules.listed(), upstreams=scene.upstreams))
    if as_json:
        print_json({**_report(results), "idle": [_idle(one) for one in idle]})
    else:
        source = policies or file
        for one in idle:
            told = f"{source}:{one.rule.line}: {one.rule.name!r} never decides: {one.reason}"
            click.echo(plain(f"note: {told}"), err=True)
        for result in failed:
            for failure in result.failures:
                click.echo(plain(f"{file}:{result.case.line}: {result.case.name}: {failure}"))
        click.echo(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    if not results:
        # A step of CI that checks nothing, as after a mistyped path, must not look passed.
        click.echo(plain(f"offramp: {file}: holds no tests; they stand under `tests:`"), err=True)
    if failed or not results:
        raise click.exceptions.Exit(FAILED)


@command.command("explain", short_help="Say which rule decides a call, and why.")
@click.argument("request", type=click.File("rb"))
@click.option("--policies", type=FILE, help="The rules; default: those of --config.")
@click.option("--at", metavar="TIME", help="When the call arrives, RFC 3339; default: as it says.")
@_CONFIG
@json_option
def explain(
    request: BinaryIO,
    policies: Path | None,
    at: str | None,
    config: Path | None,
    *,
    as_json: bool,
) -> None:
    """Say which rule decides a call, and why every earlier one does not.

    REQUEST is JSON with method, path, headers and body, or a line of recorded
    facts; `-` reads standard input. Nothing is sent anywhere.
    """
    scene, configured = _scene(config)
    file = policies or configured
    if file is None:
        raise click.UsageError("name the rules by --policies, or a configuration that does")
    rules = _read(file, as_json=as_json).rules
    text = request.read(_REQUEST_BYTES_MAX).decode("utf-8-sig", "replace")
    told, note = _told(text, str(getattr(request, "name", "-")), rules, scene, at=_time(at))
    decision = told.decision
    shown: dict[str, object] = {
        **{name: _worded(value) for name, value in outcome(decision).items()},
        "decided_by": decision.decided_by,
        "reason": decision.message if isinstance(decision, Reject) else decision.reason,
    }
    if as_json:
        steps = [asdict(step) for step in told.steps]
        print_json({**shown, "steps": steps, **({"note": note} if note else {})})
        return
    for name, value in shown.items():
        if value is not None and value != {}:
            click.echo(f"{name}: {plain(_listed(value))}")
    for step in told.steps:
        click.echo(plain(f"  {file}:{step.line}: {step}"))
    if note:
        click.echo(f"note: {note}")


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of rule files, for editors."""
    print_json(policy_schema())


def _scene(config: Path | None) -> tuple[Scene, Path | None]:
    """Return what a service with this configuration knows, and where its rules are."""
    settings = Settings() if config is None else load(config).settings
    upstreams: Mapping[str, Upstream] = settings.parsed_upstreams()
    scene = Scene(
        upstreams=upstreams,
        max_body_bytes=settings.deferral.max_body_bytes,
        owners={token: name for name, tokens in settings.owners.items() for token in tokens},
        default_answer=Answer(settings.deferral.default_answer),
    )
    return scene, settings.policies


def _read(file: Path, *, as_json: bool) -> PolicyFile:
    try:
        return read_policies(file)
    except BadPoliciesError as exc:
        if not as_json:
            # All of it stands here already.
            exc.hint = "`offramp policy schema` prints what is allowed"
            raise
        print_json({"usable": False, "complaints": exc.complaints})
        raise click.exceptions.Exit(BAD_CONFIGURATION) from None


def _told(
    text: str, name: str, rules: RuleSet, scene: Scene, *, at: datetime | None
) -> tuple[Told, str | None]:
    try:
        recorded = recorded_call(json.loads(text))
    except (ValueError, RecursionError):
        recorded = None
    if recorded is not None:
        note = (
            "recorded facts hold no body and few header values: rules on other fields and "
            "values, and samples by call, do not match here"
        )
        return tell_facts(rules, recorded.facts(now=at), scene), note
    try:
        call = read_call(text, name, scene)
    except PolicyError as exc:
        raise CallerError(str(exc)) from exc
    now = datetime.now(UTC)  # noqa: TID251 - the moment at which somebody asks
    return tell(rules, call, scene, now=now, at=at), None


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return read_time(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--at") from exc


def _report(results: list[CaseResult]) -> dict[str, object]:
    return {
        "passed": sum(result.passed for result in results),
        "failed": sum(not result.passed for result in results),
        "tests": [
            {
                "name": result.case.name,
                "line": result.case.line,
                "passed": result.passed,
                "failures": list(result.failures),
            }
            for result in results
        ],
    }


def _idle(one: Idle) -> dict[str, object]:
    return {"rule": one.rule.name, "line": one.rule.line, "reason": one.reason}


def _worded(value: object) -> object:
    match value:
        case timedelta():
            return format_duration(value)
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
    return value


def _listed(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={text}" for name, text in value.items())
    return value
