"""Parts of the documents and manifests that are made from the code, so that they stay true.

    python -m tests.deploy.generated

writes them anew; the tests compare. Each part of a document stands between a line
`<!-- generated: NAME -->` and a line `<!-- end of NAME -->`.
"""

import ast
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from proxy.core import batch, job
from proxy.core import lanes as job_lanes
from proxy.settings import tree
from proxy.settings.words import shown_value
from proxy.telemetry import METRICS
from proxy.telemetry.events import EVENTS, UNLISTED
from proxy.telemetry.metric_list import PREFIX, Kind
from tests.callers.record import callers_table
from tests.deploy.upstream_tables import batches_table, upstreams_table

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "deploy" / "chart"
FLEET: Final = ROOT / "deploy" / "kubernetes" / "fleet.yaml"


# The life of a job and of a batch.

Table = Mapping[Any, Mapping[type, object]]


def diagram(table: Table, *, first: StrEnum, begin: str) -> str:
    """Return a transition table as a Mermaid state diagram; stale events are not drawn."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first.value}: {begin}"]
    for state, row in table.items():
        arrows: dict[str, list[str]] = {}
        for event, target in row.items():
            if isinstance(target, StrEnum):
                arrows.setdefault(target.value, []).append(event.__name__)
        lines += [
            f"    {state.value} --> {target}: {', '.join(names)}"
            for target, names in arrows.items()
        ]
        if not arrows:
            lines.append(f"    {state.value} --> [*]")
    return "\n".join([*lines, "```"])


def job_diagram() -> str:
    return diagram(job.TRANSITIONS, first=job.JobState.QUEUED, begin="accepted")


def batch_diagram() -> str:
    return diagram(batch.TRANSITIONS, first=batch.BatchState.FILLING, begin="flush")


# How the parts stand to each other.

_LANES = {
    job_lanes.Lane.BATCH: "batch: half the price",
    job_lanes.Lane.FLEX: "flex: half the price",
    job_lanes.Lane.TRICKLE: "trickle: out of the way",
    job_lanes.Lane.INTERACTIVE: "direct: the deadline is near",
}


def picture() -> str:
    """Return the way of a call: each lane of the planner is an arrow to the provider."""
    assert set(_LANES) == set(job_lanes.Lane)
    lines = [
        "```mermaid",
        "flowchart LR",
        '    caller(any SDK) -->|"base URL"| proxy{{Offramp}}',
        '    proxy <-->|"interactive: byte for byte"| provider[(provider)]',
        '    proxy -->|"tagged, or by a rule"| job[durable job]',
        *(f'    job -->|"{said}"| provider' for said in _LANES.values()),
        '    job -.->|"by job ID, held open, or webhook"| caller',
        "```",
    ]
    return "\n".join(lines)


def layers_picture() -> str:
    """Return the layers, as the linter of imports holds the code to them."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    (layers,) = [
        contract["layers"]
        for contract in tools["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    rows = [row.replace(" | ", " · ") for row in layers if not row.startswith("_")]
    lines = ["```mermaid", "flowchart TB"]
    lines += [f'    l{number}["{row}"]' for number, row in enumerate([*rows, "policies"])]
    lines.append("    " + " --> ".join(f"l{number}" for number in range(len(rows) + 1)))
    return "\n".join([*lines, "```"])


# The configuration.


def docstrings(section: type[BaseModel]) -> dict[str, str]:
    """Return the text below each field of a section, as one line."""
    body = ast.parse(inspect.getsource(section)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def sections_of(annotation: object) -> Iterator[type[BaseModel]]:
    """Return the sections that an annotation holds, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from sections_of(argument)


def settings_rows(
    section: type[BaseModel] = tree.Settings, at: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, str]]:
    """Return key, default and meaning of everything that can be configured."""
    said = docstrings(section)
    for name, field in section.model_fields.items():
        path = (*at, name)
        below = next(sections_of(field.annotation), None)
        if below is None:
            yield ".".join(path), _default(path, field), said.get(name, "")
        elif isinstance(field.annotation, type | UnionType):
            # One section, perhaps left out; below a mapping there are many, by their names.
            yield from settings_rows(below, path)
        else:
            yield from settings_rows(below, (*path, f"{name.upper().removesuffix('S')}"))


def _default(path: tuple[str, ...], field: Any) -> str:
    if path == ("store",):
        return "`sqlite://$HOME/.local/state/offramp/offramp.db`"
    if field.default_factory is not None:
        return "`{}`"
    if field.default is PydanticUndefined:
        return "required"
    return f"`{shown_value(path, field.default)}`"


def settings_table() -> str:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for key, default, meaning in settings_rows():
        lines.append(f"| `{key}` | {default} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


# The metrics.


def metrics_table() -> str:
    """Return every metric as Prometheus shows it."""
    ends = {Kind.COUNTER: "_total", Kind.GAUGE: "", Kind.HISTOGRAM: ""}
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for name, metric in METRICS.items():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        shown = f"`{PREFIX}{name}{ends[metric.kind]}`"
        lines.append(f"| {shown} | {metric.kind.value} | {labels} | {metric.help} |")
    return "\n".join(lines)


# The log.


def events_table() -> str:
    """Return every event by the level at which it is logged."""
    rows: dict[str, list[str]] = {"error": [], "warning": [], "info": [], "debug": []}
    levels = {"call.deferred": {"info"}, "log.dropped": {"warning"}} | _levels()
    # Two stand for others, at the level of those.
    for event in sorted(EVENTS - {UNLISTED, "library.logged"}):
        for level in levels[event]:
            rows[level].append(f"`{event}`")
    lines = ["| level | events |", "|---|---|"]
    lines += [f"| `{level}` | {', '.join(events)} |" for level, events in rows.items()]
    return "\n".join(lines)


def _levels() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for file in sorted((ROOT / "proxy").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            first = next(iter(node.args), None)
            if isinstance(first, ast.Constant) and first.value in EVENTS:
                level = node.func.attr.replace("exception", "error")
                found.setdefault(str(first.value), set()).add(level)
    return found


# The manifests of the fleet.


def rendered(values: Mapping[str, Any]) -> str:
    """Return the chart's manifests as Helm itself renders them."""
    import helm_python

    with helm_python.Chart.load(str(CHART)) as chart:
        files = chart.render(dict(values), name="offramp", namespace="offramp")
    manifests = [text.strip() for name, text in sorted(files.items()) if name.endswith(".yaml")]
    return "\n---\n".join(text for text in manifests if text) + "\n"


def fleet_manifests() -> str:
    head = "# Written by `python -m tests.deploy.generated` from deploy/chart; do not edit.\n"
    return head + rendered({})


# Where each part stands.

PARTS: Final[Mapping[str, tuple[str, Callable[[], str]]]] = {
    "picture": ("README.md", picture),
    "layers": ("proxy/README.md", layers_picture),
    "job": ("proxy/README.md", job_diagram),
    "batch": ("proxy/README.md", batch_diagram),
    "settings": ("deploy/README.md", settings_table),
    "upstreams": ("deploy/README.md", upstreams_table),
    "callers": ("README.md", callers_table),
    "provider batches": ("deploy/README.md", batches_table),
    "metrics": ("deploy/README.md", metrics_table),
    "events": ("deploy/README.md", events_table),
}


def current(name: str, text: str) -> str:
    """Return what stands between the markers of a part."""
    return _between(name, text)[2]


def renewed(name: str, text: str, part: str) -> str:
    """Return a document with a part replaced."""
    before, mark, _, after = _between(name, text)
    return f"{before}{mark}\n{part}\n{after}"


def _between(name: str, text: str) -> tuple[str, str, str, str]:
    found = re.search(
        rf"(<!-- generated: {name} -->)\n(.*?)\n?(<!-- end of {name} -->)", text, re.DOTALL
    )
    assert found is not None, f"no markers of {name}"
    return text[: found.start()], found[1], found[2], text[found.start(3) :]


def main() -> None:
    for name, (document, make) in PARTS.items():
        path = ROOT / document
        path.write_text(renewed(name, path.read_text(), make()))
    FLEET.write_text(fleet_manifests())


if __name__ == "__main__":
    main()
