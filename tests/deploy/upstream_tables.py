"""What is supported of each upstream, as tables made from the dialects' rows."""

from typing import Final

from proxy.core.dialects import DIALECTS, BatchApi, Dialect, Mark
from proxy.core.lanes import rough_duration

_BATCHES_HEAD: Final = (
    "| `dialect` | `base_url` if you do not say | requests | MB | window | stopped early "
    "| found after a crash by | asked |"
)

_MARKS: Final = {
    Mark.METADATA: "our ID in it",
    Mark.INPUT_FILE: "its input file",
    Mark.NOTHING: "time and size, then its results",
}


def upstreams_table() -> str:
    """Return who can be an upstream, and which calls are deferred there and how."""
    lines = [
        "| upstream | `dialect` | deferred in batches | deferred without a batch |",
        "|---|---|---|---|",
    ]
    for dialect in DIALECTS.values():
        batched = _paths(dialect, batched=True) if dialect.batch is not None else ""
        others = _paths(dialect, batched=False) if dialect.batch is not None else _all(dialect)
        lines.append(f"| {dialect.title} | `{dialect.name}` | {batched} | {others} |")
    return "\n".join(lines)


def batches_table() -> str:
    """Return what is known, and relied on, of each provider's batches."""
    lines = [_BATCHES_HEAD, "|---|---|---|---|---|---|---|---|"]
    for dialect in DIALECTS.values():
        url = f"`{dialect.public_url}`" if dialect.public_url else "required"
        if dialect.batch is None:
            lines.append(f"| `{dialect.name}` | {url} | no batches |  |  |  |  |  |")
            continue
        facts = _facts(dialect.batch)
        lines.append(f"| `{dialect.name}` | {url} | {facts} |")
    return "\n".join(lines)


def _facts(api: BatchApi) -> str:
    stopped = "no: jobs enter it only with a window to spare"
    if api.can_cancel:
        stopped = "yes" if api.keeps_partial else "yes, but what was finished is lost"
    return " | ".join(
        [
            f"{api.max_requests:,}",
            f"{api.max_bytes / 1e6:,.0f}",
            " or ".join(map(rough_duration, api.windows)),
            stopped,
            _MARKS[api.mark],
            f"every {rough_duration(api.poll_floor)} at most"
            if api.poll_floor
            else "as configured",
        ]
    )


def _paths(dialect: Dialect, *, batched: bool) -> str:
    names = [name for name, place in dialect.endpoints.items() if place.batched is batched]
    return ", ".join(f"`{name}`" for name in names)


def _all(dialect: Dialect) -> str:
    return ", ".join(f"`{name}`" for name in dialect.endpoints)
