"""Read the configuration from all its sources, and complain about everything at once.

Defaults < file < environment < flags. The file is YAML; `OFFRAMP_BATCHING__LINGER`
is `batching.linger`, and lists and mappings are written there as JSON or YAML
flow text; a flag is named after its key (`--log-level`).
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from proxy.core.errors import ConfigError
from proxy.settings import checks
from proxy.settings.layers import Complaint, KeyPath, Layer, Value, key_text
from proxy.settings.schema import Kind, Spot, spot_at, suggestion
from proxy.settings.section import Section
from proxy.settings.tree import Settings, default_store
from proxy.settings.upstreams import PUBLIC_UPSTREAMS
from proxy.settings.values import hide_secrets
from proxy.settings.words import problem_text, shown_value

ENVIRONMENT_PREFIX: Final = "OFFRAMP_"

NOT_SETTINGS: Final = frozenset(
    {"OFFRAMP_CONFIG", "OFFRAMP_URL", "OFFRAMP_ADMIN_URL", "OFFRAMP_ADMIN_TOKEN"}
)
"""Variables that the command line reads itself."""

# Kubernetes sets these for a Service called `offramp` or `offramp-…`, in every
# pod of its namespace (Kubernetes, "Service", section "Environment variables").
_SERVICE_LINK: Final = re.compile(
    r"(.*_)?SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?|(.*_)?PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
)

_CHARACTERS_MAX: Final = 1 << 20
"""How long a file may be: a log or a database named by mistake would be parsed for hours."""

_SHOWN_MAX: Final = 80

_IN_FILE: Final = re.compile(r"(.*):(\d+):(\d+)", re.DOTALL)


class BadConfigurationError(ConfigError):
    """The configuration cannot be used; `complaints` says why, all at once.

    They stand in the order of the files; those of variables, flags and defaults follow.
    """

    def __init__(self, complaints: Iterable[Complaint]) -> None:
        self.complaints = tuple(sorted(complaints, key=_reading_order))
        lines = [str(complaint) for complaint in self.complaints]
        super().__init__("\n".join(lines), hint="`offramp check` shows what is in effect")


def _reading_order(complaint: Complaint) -> tuple[bool, str, int, int]:
    found = _IN_FILE.fullmatch(complaint.place)
    return (False, found[1], int(found[2]), int(found[3])) if found else (True, "", 0, 0)


@dataclass(frozen=True, slots=True)
class Effective:
    """One value that is in effect, fit to be shown, and where it came from."""

    key: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings, and where each came from."""

    settings: Settings
    file: Path | None
    _origins: Mapping[KeyPath, str]

    def origin(self, *path: str | int) -> str:
        """Return `file:line:column`, the variable, the flag or `default`.

        `path` is given by steps, e.g. `"upstreams", "groq", "base_url"`.
        """
        return self._origins.get(path, "default")

    def effective(self) -> list[Effective]:
        """Return every value in the order of the tree; secrets as `***`."""
        return [
            Effective(key_text(path), shown_value(path, value), self.origin(*path))
            for path, value in _leaves(self.settings, ())
        ]


def load(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, str] | None = None,
) -> Configuration:
    """Return the configuration.

    `flags` maps keys such as `log.level` to what their flags said.

    Raises:
        BadConfigurationError: with every complaint that could be found.
    """
    configuration, complaints = examine(file, environ=environ, flags=flags)
    if complaints or configuration is None:
        raise BadConfigurationError(complaints)
    return configuration


def examine(
    file: Path | None,
    *,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, str] | None = None,
) -> tuple[Configuration | None, list[Complaint]]:
    """Return the configuration without what is wrong with it, and what that is.

    With any complaint it is only good for finding more, never for a start; nothing is returned if
    it is no tree at all.
    """
    layers = [_from_file(file), _from_environment(environ), _from_flags(flags or {})]
    merged = Layer(values={"store": default_store(environ).url})
    if not any(("upstreams",) in layer.places for layer in layers):
        # Whoever lists upstreams means these and no others; whoever changes a
        # part of one by a variable means the usual ones with that change.
        merged.values["upstreams"] = {name: {} for name in _usual_upstreams(layers)}
    for layer in layers:
        merged.merge(layer)
    complaints = list(merged.complaints)
    settings, broken = _validate(merged, complaints)
    if settings is None:
        return None, complaints
    for check in (checks.disagreements, checks.surroundings):
        for path, problem in check(settings):
            if not _is_moot(path, settings, broken):
                complaints.append(_complaint(merged, path, problem))
    return Configuration(settings, file, dict(merged.places)), complaints


def _usual_upstreams(layers: Iterable[Layer]) -> Iterator[str]:
    """Return the upstreams that nobody listed.

    Where a variable gives Gemini a key, its OpenAI API has none: it is left to the same upstream,
    or it would be sent the tokens of that one's clients.
    """
    is_keyed = any(
        layer.value_at(("upstreams", "gemini", name)) is not None
        for layer in layers
        for name in ("key", "key_file")
    )
    return (name for name in PUBLIC_UPSTREAMS if not (is_keyed and name == "gemini-openai"))


def _from_file(file: Path | None) -> Layer:
    if file is None:
        return Layer()
    # Without a file the library, 60 ms to import, is not needed.
    from proxy.settings.yaml_text import read_yaml  # noqa: PLC0415

    try:
        text = _text(file)
    except ValueError as exc:
        return Layer(complaints=[Complaint(str(file), "", str(exc))])
    layer = read_yaml(text, str(file))
    _anchor(layer.values, (), file.absolute().parent)
    return layer


def _text(file: Path) -> str:
    """Return what a configuration file holds.

    Raises:
        ValueError: if it cannot be read, or is none; it says why.
    """
    try:
        if checks.is_named_pipe(file):
            raise ValueError(checks.A_PIPE)
        with file.open(encoding="utf-8") as opened:
            text = opened.read(_CHARACTERS_MAX + 1)
    except UnicodeDecodeError as exc:
        raise ValueError("cannot be read: it is not UTF-8") from exc
    except OSError as exc:
        raise ValueError(f"cannot be read: {exc.strerror}") from exc
    if len(text) > _CHARACTERS_MAX:
        raise ValueError(f"has more than {_CHARACTERS_MAX} characters: this is no configuration")
    return text


def _anchor(values: dict[str, Value], at: KeyPath, base: Path) -> None:
    """Make the relative paths of a file relative to the file, wherever we are started."""
    for key, value in values.items():
        path = (*at, key)
        if isinstance(value, dict):
            _anchor(value, path, base)
        elif isinstance(value, str) and path == ("store",):
            name = value.removeprefix("sqlite:")
            if name != value and name[:1] not in {"", "/", ":"}:
                values[key] = f"sqlite:{base / name}"
        elif isinstance(value, str) and value and (spot := spot_at(path)) and spot.is_path:
            values[key] = str(base / value)


def _from_environment(environ: Mapping[str, str]) -> Layer:
    layer = Layer()
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in NOT_SETTINGS:
            continue
        rest = name.removeprefix(ENVIRONMENT_PREFIX)
        path = tuple(rest.lower().split("__"))
        if spot_at(path) is None and _SERVICE_LINK.fullmatch(rest):
            continue
        _put_text(layer, path, environ[name], name)
    return layer


_OPTIONS: Final = {"instance.workers": "--workers"}
"""Flags that are not called as their keys; those of an upstream come of `--upstream`."""


def _from_flags(flags: Mapping[str, str]) -> Layer:
    layer = Layer()
    for key, text in flags.items():
        option = _OPTIONS.get(key, "--" + key.replace(".", "-").replace("_", "-"))
        path = tuple(key.split("."))
        if path[0] == "upstreams":
            # The name of one may hold dots.
            path, option = ("upstreams", ".".join(path[1:-1]), path[-1]), "--upstream"
        _put_text(layer, path, text, option)
    return layer


def _put_text(layer: Layer, path: tuple[str, ...], text: str, place: str) -> None:
    spot = spot_at(path)
    if spot is None:
        layer.complaints.append(Complaint(place, key_text(path), suggestion(path)))
        return
    value: Value = text
    if spot.nullable and text in {"", "null", "~"}:
        value = None
    elif spot.kind is not Kind.SCALAR:
        from proxy.settings.yaml_text import read_flow  # noqa: PLC0415 - as above

        try:
            value = read_flow(text)
        except ValueError as exc:
            layer.complaints.append(Complaint(place, key_text(path), str(exc)))
            return
    layer.put(path, value, place)


def _validate(merged: Layer, complaints: list[Complaint]) -> tuple[Settings | None, set[KeyPath]]:
    """Return the settings without what is wrong with them, and what that was.

    The rest is built nevertheless, so that what only the whole tree can tell is
    complained about in the same run.
    """
    broken: set[KeyPath] = set()
    values = merged.values
    while True:
        try:
            return Settings.model_validate(values), broken
        except ValidationError as exc:
            for error in exc.errors(include_url=False):
                path = _data_path(error["loc"])
                # Else it is empty, say, only without what was complained about inside of it.
                if not _is_broken(path, broken):
                    problem = problem_text(error["type"], error["msg"], error.get("ctx", {}), path)
                    complaints.append(_complaint(merged, path, problem))
                broken.add(path)
            rest = _without(values, (), broken)
            if rest == values:
                return None, broken
            values = rest


def _data_path(loc: tuple[int | str, ...]) -> KeyPath:
    # A key that is refused is reported at the mapping's `[key]`.
    return tuple(step for step in loc if step != "[key]")


def _without(values: dict[str, Value], at: KeyPath, broken: set[KeyPath]) -> dict[str, Value]:
    kept: dict[str, Value] = {}
    for key, value in values.items():
        path = (*at, key)
        if path in broken or _lacks_a_part(path, value, broken):
            continue
        if isinstance(value, dict):
            kept[key] = _without(value, path, broken)
        elif isinstance(value, list):
            items = enumerate(value)
            kept[key] = [item for nth, item in items if not _is_broken((*path, nth), broken)]
        else:
            kept[key] = value
    return kept


def _lacks_a_part(path: KeyPath, value: Value, broken: set[KeyPath]) -> bool:
    if not isinstance(value, dict):
        return False
    return any(other[:-1] == path and other[-1] not in value for other in broken)


def _is_broken(path: KeyPath, broken: set[KeyPath]) -> bool:
    """Tell whether what stands at `path`, or anything inside of it, is broken."""
    return any(other[: len(path)] == path for other in broken)


def _complaint(merged: Layer, path: KeyPath, problem: str) -> Complaint:
    spot, value = spot_at(path), merged.value_at(path)
    if spot is None or value is None or isinstance(value, dict | list):
        # The key is at fault, or what it holds as a whole. An unknown key's
        # value is never shown: it may be a secret under a misspelt name. Where
        # nothing is held, YAML sees it only at the next key, lines below.
        place = merged.place_of(path)
        if not _is_of_another_kind(spot, value):
            place = merged.key_places.get(path) or place
        return Complaint(place, key_text(path), problem)
    text = repr(hide_secrets(value)) if isinstance(value, str) else str(value)
    shown = "***" if spot.is_secret or _hides_a_password(path, value) else _clipped(text)
    return Complaint(merged.place_of(path), key_text(path), problem, shown)


def _is_of_another_kind(spot: Spot | None, value: Value) -> bool:
    """Tell whether a list or a mapping stands where the tree has something else."""
    if spot is None:
        return False
    if isinstance(value, list):
        return spot.kind is not Kind.LIST
    return isinstance(value, dict) and spot.kind not in {Kind.SECTION, Kind.MAP}


def _hides_a_password(path: KeyPath, value: Value) -> bool:
    """Tell whether a store's URL lacks what it takes to find the password in it."""
    text = str(value)
    return path == ("store",) and "@" in text and "://" not in text and text[:7] != "sqlite:"


def _clipped(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def _is_moot(path: KeyPath, settings: Settings, broken: set[KeyPath]) -> bool:
    """Tell whether a complaint at `path` may be about nothing but what was left out as broken."""
    if any(_overlap(path, other) for other in broken):
        return True
    # A name that is not known may be that of something left out.
    if path[0] == "prices" and path[1] != "file":
        return _lacks_any("upstreams", settings.upstreams, broken)
    if path[0] == "webhooks" and "owners" in path[2:]:
        return _lacks_any("upstreams", settings.upstreams, broken) or _lacks_any(
            "owners", settings.owners, broken
        )
    return False


def _lacks_any(section: str, kept: Mapping[str, object], broken: set[KeyPath]) -> bool:
    return any(path[0] == section and path[1:2] and path[1] not in kept for path in broken)


def _overlap(one: KeyPath, other: KeyPath) -> bool:
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _leaves(section: object, at: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    below: Iterable[tuple[str, object]]
    if isinstance(section, Section):
        below = [(name, getattr(section, name)) for name in type(section).model_fields]
    elif isinstance(section, Mapping) and section:
        below = section.items()
    else:
        yield at, section
        return
    for key, value in below:
        yield from _leaves(value, (*at, key))
