"""What every driver has in common: it plays scenes and tells one JSON line of each.

    python -m tests.callers.drivers.DRIVER URL SCENE=KEY...

A driver runs in the environment of its client, which has nothing of this project: only the
standard library is imported here. It makes the calls as the client's documentation does, with
the client's own retries, and judges nothing.
"""

import json
import platform
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

QUESTION = "Why is the sky blue?"
CHAT_MODEL = "gpt-4o-mini"
CLAUDE_MODEL = "claude-haiku-4-5"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]


@dataclass(frozen=True)
class Call:
    """Where a scene's calls go, and as whose."""

    url: str
    key: str
    mode: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The tag, if the scene has one."""
        return {} if self.mode is None else {"X-Deferrable": self.mode}


@dataclass(frozen=True)
class Told:
    """What came of a job: its ID, and the answer that was fetched by it."""

    job: str
    answer: str


Play = Callable[[Call], str | Told]


def play(scenes: Mapping[str, Play], *packages: str) -> None:
    """Play the scenes that the command line names; a scene's name begins with its tag."""
    url, *words = sys.argv[1:]
    versions = {name: version(name) for name in packages}
    _say({"versions": versions, "runtime": f"Python {platform.python_version()}"})
    for word in words:
        name, _, key = word.partition("=")
        mode = name.partition(",")[0]
        call = Call(url, key, None if mode == "now" else mode)
        try:
            told = scenes[name](call)
        except Exception as exc:  # noqa: BLE001 - what a client raises is what is told
            _say({"scene": name, "raised": type(exc).__name__, "message": _message(exc)})
        else:
            answer = {"answer": told} if isinstance(told, str) else vars(told)
            _say({"scene": name, **answer})


def usual(ask: Play, stream: Play) -> dict[str, Play]:
    """Return the scenes that two functions are enough for."""
    return {
        "now": ask,
        "now, streamed": stream,
        "wait": ask,
        "wait, streamed": stream,
        "raise": ask,
        # Only raw SDKs know what to do with a job.
        "job, an error there": ask,
    }


def _message(exc: BaseException | None) -> str:
    """Return what a user sees of an exception, and of those that it was raised from."""
    return "".join(traceback.format_exception(exc, limit=0)) if exc is not None else ""


def _say(line: Mapping[str, Any]) -> None:
    print(json.dumps(line), flush=True)
