"""The operators' questions to several workers on one port, answered for all of them.

The system gives a question to any of the workers; that one asks the others over their sockets.
Metrics come with a label `worker`, each worker's own: a sum would fall when one restarts, and no
rate of it would be right.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.telemetry.metric_list import METRICS, PREFIX
from proxy.telemetry.metrics import Labels

SILENT: Final = "silent"

TIMEOUT_S: Final = 1.5
"""A worker whose event loop has not turned for so long holds up its callers."""

_SAMPLE: Final = re.compile(rb"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([^{}]+)")
_COMMENT: Final = re.compile(rb"# (?:HELP|TYPE) ([^ ]+)")

_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Answer = tuple[int, bytes]
"""Status and body."""


class Workers:
    """All workers of a set, as one of them sees them."""

    def __init__(self, sockets: Sequence[Path]) -> None:
        """`sockets` are where the workers answer questions, by their numbers."""
        self._sockets = sockets

    async def ask(self, path: str) -> Mapping[int, Answer | None]:
        """Return what each worker answers; nothing for one that does not in time.

        One that is just being restarted is left out.
        """
        answers = await asyncio.gather(*(self._ask(socket, path) for socket in self._sockets))
        return {number: answer for number, (there, answer) in enumerate(answers) if there}

    async def counts(self, names: Sequence[str]) -> Mapping[str, Mapping[Labels, float]]:
        """Return metrics by name, the workers' own added up; for people, who want no rates."""
        sums: dict[str, dict[Labels, float]] = {name: {} for name in names}
        for answer in (await self.ask("/metrics")).values():
            for name, labels, value in _samples(answer[1] if answer else b"", names):
                sums[name][labels] = sums[name].get(labels, 0) + value
        return sums

    async def _ask(self, socket: Path, path: str) -> tuple[bool, Answer | None]:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.UnixConnector(str(socket), force_close=True)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get(f"http://localhost{path}") as answer,
            ):
                return True, (answer.status, await answer.read())
        except aiohttp.ClientConnectorError:
            return False, None
        except (aiohttp.ClientError, TimeoutError):
            return True, None


def live(workers: Workers) -> Handler:
    """Return the handler that says whether every worker's event loop turns."""

    async def page(_request: web.Request) -> web.Response:
        states = await states_of(workers, "/livez")
        is_silent = SILENT in states.values()
        content = {"status": SILENT if is_silent else "live", "workers": states}
        return web.json_response(content, status=503 if is_silent else 200)

    return page


def metrics(workers: Workers) -> Handler:
    """Return the handler that shows the metrics of all."""

    async def page(_request: web.Request) -> web.Response:
        pages = await workers.ask("/metrics")
        body = merged({number: answer[1] for number, answer in pages.items() if answer})
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})

    return page


async def states_of(workers: Workers, path: str) -> dict[str, str]:
    """Return in a word what each worker answers, by its number."""
    answers = await workers.ask(path)
    return {
        str(number): SILENT
        if answer is None
        else "ok"
        if answer[0] == HTTPStatus.OK
        else "not ready"
        for number, answer in answers.items()
    }


def merged(pages: Mapping[int, bytes]) -> bytes:
    """Return one page of metrics with the samples of all, each with its worker's label.

    What describes a metric stands once, and the samples of one metric together, as the
    format has it (Prometheus, "Exposition formats").
    """
    families: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
    for number, page in pages.items():
        label = b'worker="%d"' % number
        for name, line, is_comment in _lines(page):
            comments, samples = families.setdefault(name, ([], []))
            if not is_comment:
                samples.append(_labelled(line, label))
            elif line not in comments:
                comments.append(line)
    return b"".join(
        line + b"\n" for comments, samples in families.values() for line in (*comments, *samples)
    )


def _lines(page: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield each line with its family: that of the comments above it."""
    family = b""
    for line in page.splitlines():
        comment = _COMMENT.match(line)
        if comment is not None:
            family = comment[1]
            yield family, line, True
        elif line and not line.startswith(b"#"):
            yield family, line, False


def _samples(page: bytes, names: Sequence[str]) -> Iterator[tuple[str, Labels, float]]:
    """Yield the samples of these metrics: name, labels in the order of the list, value."""
    wanted = {f"{PREFIX}{name}{ends}": name for name in names for ends in ("", "_total")}
    for line in page.decode().splitlines():
        if line.startswith(tuple(wanted)):
            labels, _, value = line.rpartition(" ")
            name = wanted.get(labels.partition("{")[0])
            if name is not None:
                given = {key: _unescaped(text) for key, text in _LABEL.findall(labels)}
                yield name, tuple(given[key] for key in METRICS[name].labels), float(value)


def _unescaped(text: str) -> str:
    # Prometheus, "Exposition formats": a label's value escapes these three.
    plain = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
    return re.sub(r"\\[\\\"n]", lambda found: plain[found[0]], text)


def _labelled(line: bytes, label: bytes) -> bytes:
    sample = _SAMPLE.fullmatch(line)
    assert sample is not None, line
    name, labels, value = sample.groups()
    return b"%b{%b} %b" % (name, label if not labels else label + b"," + labels, value)
