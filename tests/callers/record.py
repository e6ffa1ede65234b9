"""What the last whole run found, as a file, and the README's table that is made of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.callers.clients import CLIENTS, SCENES, Client
from tests.callers.run import Played

FILE: Final = Path(__file__).parent / "results.json"


@dataclass(frozen=True)
class Record:
    """One whole run: its day, and what each client did."""

    date: str
    clients: Mapping[str, Played]

    def write(self) -> None:
        """Keep it, in place of the run before."""
        FILE.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


def last_record() -> Record:
    """Return the run that is kept."""
    found: dict[str, Any] = json.loads(FILE.read_text())
    clients = {name: Played(**played) for name, played in found["clients"].items()}
    return Record(found["date"], clients)


def callers_table() -> str:
    """Return what each client can do, as it was seen, and what its users must know."""
    record = last_record()
    lines = [
        f"| client | versions | {' | '.join(SCENES)} | and besides |",
        f"|---|---|{'---|' * len(SCENES)}---|",
        *[_row(client, record.clients[client.name]) for client in CLIENTS],
        "",
        _sums(record),
        "",
        *_remarks(),
    ]
    return "\n".join(lines)


def _row(client: Client, played: Played) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in played.versions.items())
    cells = [_cell(client, played, scene) for scene in SCENES]
    return f"| {client.name} | {versions} | {' | '.join(cells)} | {_more(client, played)} |"


def _cell(client: Client, played: Played, scene: str) -> str:
    if scene in client.cannot:
        return "no"
    return "**broken**" if scene in played.failures else "yes"


def _more(client: Client, played: Played) -> str:
    """Return the other scenes, by their tags."""
    by_tag: dict[str, list[str]] = {}
    for scene in client.more:
        tag, _, rest = scene.partition(", ")
        by_tag.setdefault(tag, []).append(rest + " (**broken**)" * (scene in played.failures))
    return "; ".join(f"`{tag}`: {', '.join(rest)}" for tag, rest in by_tag.items())


def _sums(record: Record) -> str:
    everyone = record.clients.values()
    scenes = sum(len(one.posts) for one in everyone)
    right = scenes - sum(len(one.failures) for one in everyone)
    posts = sum(sum(one.posts.values()) for one in everyone)
    bought = sum(sum(one.bought.values()) for one in everyone)
    runtimes = " and ".join(sorted({one.runtime for one in everyone}))
    return (
        f"Seen on {record.date} with {runtimes}: {posts} POSTs and {bought} purchases. {right} of "
        f"{scenes} scenes had the right answer, or the right error, and neither sent nor bought "
        "anything twice."
    )


def _remarks() -> list[str]:
    """Return, as a list, what some clients cannot do and why, and what is particular to some."""
    reasons: dict[str, list[str]] = {}
    for client in CLIENTS:
        for scene, reason in client.cannot.items():
            reasons.setdefault(f"no `{scene}`: {reason}", []).append(client.name)
        for note in client.notes:
            reasons.setdefault(note, []).append(client.name)
    return [f"- {', '.join(names)}: {reason}." for reason, names in reasons.items()]
