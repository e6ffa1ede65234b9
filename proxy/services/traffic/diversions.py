"""Rules that an audit proposes, as they are pasted into a rule file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from policies.globs import exactly
from proxy.core.audit import NIGHT

DEADLINE: Final = "6h"
"""Long enough for most batches, and short enough for whoever looks at it in the morning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversion:
    """One rule: which calls it takes."""

    name: str
    upstream: str
    path: str
    models: tuple[str, ...]
    """Without an empty one, which stands for calls that name none."""

    user_agent: str
    """A pattern; empty: any."""

    credential: str | None = None
    zone: str | None = None
    """Where it takes only what comes at night, if it does."""


def rules_text(diversions: Sequence[Diversion], *, shadow: bool = True) -> str:
    """Return a rule file; empty without rules. In shadow mode they count, and divert nothing."""
    if not diversions:
        return ""
    return "rules:\n" + "\n".join(_rule(one, shadow=shadow) for one in diversions)


def _rule(one: Diversion, *, shadow: bool) -> str:
    # JSON is YAML: quoted so, no name is taken for anything else.
    conditions = [
        ("upstream", json.dumps(exactly(one.upstream))),
        ("path", json.dumps(exactly(one.path))),
    ]
    models = [exactly(model) for model in one.models if model]
    if models:
        conditions.append(("model", json.dumps(models)))
    if one.user_agent:
        conditions.append(("headers", f"{{user-agent: {json.dumps(one.user_agent)}}}"))
    if one.credential is not None:
        conditions.append(("credential", json.dumps(exactly(one.credential))))
    if one.zone is not None:
        between = f"{NIGHT[0]:%H:%M}-{NIGHT[1]:%H:%M}"
        conditions.append(("time", f'{{between: "{between}", zone: {json.dumps(one.zone)}}}'))
    conditions.append(("has_tools", "false"))
    lines = [f"  - name: {json.dumps(one.name)}", "    when:"]
    lines += [f"      {name}: {value}" for name, value in conditions]
    lines.append(f"    then: {{defer: {{answer: wait, deadline: {DEADLINE}}}}}")
    if shadow:
        lines.append("    mode: shadow")
    return "\n".join(lines) + "\n"
