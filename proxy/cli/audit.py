"""`offramp audit`."""

import glob
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from policies.windows import parse_zone
from proxy.app import price_book
from proxy.cli.options import config_option, json_option
from proxy.cli.output import print_json, print_table
from proxy.core.errors import ConfigError
from proxy.core.plural import plural
from proxy.core.prices import NANO, dollar_text, usd
from proxy.services.traffic.audit import Auditor
from proxy.services.traffic.findings import MONTH, Audit, Money, Proposal, Segment
from proxy.settings import Settings, load

_SHOWN = 12
"""Segments that people are shown; `--json` has all of them."""

_DAY = timedelta(days=1)
"""The least from which a month is told: a busy minute, times 43,200, is no month."""

_EFFECTS = ("rule", "calls", "saved", "a month", "not priced")
_SHADOWS = ("shadow rule", "calls", "as ordinary", "in batches", "saved", "a month", "proposed")


@click.command("audit")
@config_option("Configuration with `recording.path` and `prices`.")
@click.option(
    "--facts",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Recorded facts, e.g. of other instances; default: those of --config.",
)
@click.option("--zone", default="UTC", show_default=True, help="Where it is night: Europe/Berlin.")
@click.option("--shadow", is_flag=True, help="Show what rules in shadow mode really counted.")
@json_option
def command(
    *, config: Path | None, facts: tuple[Path, ...], zone: str, shadow: bool, as_json: bool
) -> None:
    """Find in recorded calls what nobody waits for, and the rules that would divert it.

    Reads the facts that `recording:` writes, and sends nothing anywhere. Rules are
    proposed in shadow mode: they count, and divert nothing, until that line is taken out.
    """
    settings = load(config).settings
    auditor = Auditor(price_book(settings).price, _zone(zone))
    audit = auditor.audit(_lines(facts or _recorded(settings)))
    scale = _scale(audit, settings.recording.sample)
    if audit.unreadable and not as_json:
        click.echo(f"lines that are no recorded call: {audit.unreadable:,}", err=True)
    if as_json:
        print_json(_document(audit, scale))
    elif shadow:
        _print_shadows(audit, scale)
    else:
        _print_audit(audit, scale)


def _zone(name: str) -> ZoneInfo:
    try:
        return parse_zone(name)
    except ValueError as exc:
        raise click.BadParameter(f"{name!r} is not {exc}", param_hint="--zone") from exc


def _recorded(settings: Settings) -> list[Path]:
    path = settings.recording.path
    if path is None:
        raise ConfigError(
            "nothing is recorded: recording.path is not set",
            hint="set it, let the proxy run for a week, and ask again; or name files by --facts",
        )
    # Beside it stand the older half, and those of further processes with their number.
    found = [one for one in sorted(path.parent.glob(f"{glob.escape(path.name)}*")) if one.is_file()]
    if not found:
        raise ConfigError(f"recording.path: {path}: nothing is recorded yet")
    return found


def _lines(files: list[Path] | tuple[Path, ...]) -> list[bytes]:
    lines: list[bytes] = []
    for file in files:
        try:
            lines += file.read_bytes().splitlines()
        except OSError as exc:
            raise ConfigError(f"{file}: {exc.strerror}") from exc
    return lines


def _scale(audit: Audit, sample: float) -> float | None:
    """Return the factor from what was recorded to a month of all calls, if that tells one."""
    return MONTH / audit.span / sample if audit.span >= _DAY else None


def _document(audit: Audit, scale: float | None) -> dict[str, object]:
    return {
        "object": "audit",
        "calls": audit.calls,
        "unreadable": audit.unreadable,
        "from": audit.begun.isoformat() if audit.begun else None,
        "to": audit.ended.isoformat() if audit.ended else None,
        "month_scale": None if scale is None else round(scale, 4),
        "segments": [_segment_record(one) for one in audit.segments],
        "proposals": [_proposal_record(one) for one in audit.proposals],
        "rules": audit.rules,
        "shadow": {
            name: {**_money_record(one.money), "also_proposed": one.proposed}
            for name, one in audit.shadows.items()
        },
    }


def _segment_record(one: Segment) -> dict[str, object]:
    return {
        "upstream": one.key.upstream,
        "path": one.key.path,
        "model": one.key.model,
        "application": one.key.application,
        "credential": one.key.credential,
        "nobody_waits": one.opinion.nobody_waits,
        "nights_only": one.nights_only,
        "reasons": list(one.opinion.reasons),
        **_money_record(one.money),
    }


def _proposal_record(one: Proposal) -> dict[str, object]:
    return {
        "rule": one.diversion.name,
        "wrongly_matched": one.also_matches,
        **_money_record(one.money),
    }


def _money_record(money: Money) -> dict[str, object]:
    return {
        "calls": money.calls,
        "priced": money.priced,
        "tokens": money.tokens,
        "list_usd": float(usd(money.list_nano)),
        "batch_usd": float(usd(money.batch_nano)),
        "saved_usd": float(usd(money.saved_nano)),
    }


def _print_audit(audit: Audit, scale: float | None) -> None:
    if not audit.calls:
        click.echo("nothing is recorded")
        return
    click.echo(f"{plural(audit.calls, 'recorded call')} of {_span(audit.span)}\n")
    print_table(
        (
            "nobody waits",
            "application",
            "upstream",
            "path",
            "model",
            "calls",
            "would save",
            "because",
        ),
        [_row(one) for one in audit.segments[:_SHOWN]],
        spare=("upstream", "path", "calls", "because", "model"),
    )
    if len(audit.segments) > _SHOWN:
        click.echo(f"and {len(audit.segments) - _SHOWN} more: --json shows all")
    good = [one for one in audit.proposals if not one.also_matches]
    if not good:
        click.echo("\nno rule is proposed")
        return
    click.echo("\nWhat the rules below would have done, and would do in a month:\n")
    print_table(_EFFECTS, [_effect(one, scale) for one in good])
    _explain_no_month(scale)
    click.echo(f"\n{audit.rules}", nl=False)


def _span(span: timedelta) -> str:
    if span < _DAY:
        return "less than a day"
    days = round(span / _DAY)
    return "a day" if days == 1 else f"{days} days"


def _explain_no_month(scale: float | None) -> None:
    if scale is None:
        click.echo("\na month: not told from less than a day")


def _row(one: Segment) -> list[object]:
    waits = "no" if not one.opinion.nobody_waits else "at night" if one.nights_only else "yes"
    return [
        waits,
        one.key.application or "-",
        one.key.upstream,
        one.key.path,
        one.key.model or "-",
        one.money.calls,
        _dollars(one.money.saved_nano) if one.money.priced else "-",
        "; ".join(one.opinion.reasons),
    ]


def _effect(one: Proposal, scale: float | None) -> list[object]:
    money = one.money
    unpriced = money.calls - money.priced
    saved = money.saved_nano if money.priced else None
    return [
        one.diversion.name,
        money.calls,
        _dollars(saved),
        _dollars(saved, scale),
        unpriced or "-",
    ]


def _print_shadows(audit: Audit, scale: float | None) -> None:
    if not audit.shadows:
        click.echo("no rule in shadow mode has matched a recorded call")
        return
    print_table(
        _SHADOWS,
        [
            [
                name,
                one.money.calls,
                _dollars(one.money.list_nano),
                _dollars(one.money.batch_nano),
                _dollars(one.money.saved_nano),
                _dollars(one.money.saved_nano, scale),
                f"{one.proposed} of {one.money.calls}",
            ]
            for name, one in audit.shadows.items()
        ],
    )
    click.echo("\nproposed: calls of it that nobody waits for, as far as the record tells")
    _explain_no_month(scale)


def _dollars(nano: int | None, scale: float | None = 1.0) -> str:
    if nano is None or scale is None:
        return "-"
    return dollar_text(nano * scale / NANO, digits=2)
