"""Which clients are held to which scenes, and where they are installed."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
ENVIRONMENTS: Final = ROOT / ".venv-callers"
"""Made by `deploy/setup.sh callers`: what wrappers want is not what the project wants."""

REQUIREMENTS: Final = Path(__file__).parent / "requirements"
NODE: Final = Path(__file__).parent / "node"


@dataclass(frozen=True)
class Scene:
    """One way to make a call, and what must come of it."""

    lane: str | None = "batch"
    """By which lane the provider sold it; nothing: it must not be sold at all."""

    raises: bool = False
    """Whether the client must raise."""

    names_job: bool = True
    """Whether what it raises for something that is sold must hold the job's ID."""

    posts: int = 1
    """How many POSTs it takes. One more would be a call that nobody made."""


SCENES: Final[Mapping[str, Scene]] = {
    "now": Scene("interactive"),
    "now, streamed": Scene("interactive"),
    "wait": Scene(),
    "wait, streamed": Scene(),
    "job": Scene(),
    "raise": Scene(raises=True),
}
"""What is asked of every client; the columns of the table."""

MORE: Final[Mapping[str, Scene]] = {
    "wait, asynchronous": Scene(),
    "wait, typed output": Scene(),
    "wait, tool call": Scene(),
    "wait, Responses": Scene(),
    "wait, Responses streamed": Scene(),
    "wait, Anthropic": Scene(),
    "wait, embeddings": Scene(),
    # Several texts in one call, which no batch of Gemini's takes.
    "wait, embeddings by a call": Scene("interactive"),
    "background, polled": Scene(),
    "background, fetched": Scene(),
    "job, Responses": Scene(),
    "job, an error there": Scene(raises=True, names_job=False),
    "job, refused for a stream": Scene(lane=None, raises=True),
    "job, raised for embeddings": Scene(raises=True),
    "wait, tag by environment": Scene(posts=2),
    "wait, unsent with many tokens and no timeout": Scene(lane=None, raises=True, posts=0),
    "wait, unsent with an unknown service tier": Scene(lane=None, raises=True, posts=0),
}
"""What some clients do besides."""

EVERY_SCENE: Final[Mapping[str, Scene]] = {**SCENES, **MORE}


@dataclass(frozen=True)
class Client:
    """A client, its driver and what it plays."""

    name: str
    driver: str
    """A module of `drivers`, or a file of `node`."""

    packages: tuple[str, ...]
    """Whose versions count; the first is the client itself."""

    home: str
    """The environment: a file of `requirements`, or `node`."""

    more: tuple[str, ...] = ()
    cannot: Mapping[str, str] = field(default_factory=dict)
    """Scenes of all that it does not play, and why."""

    notes: tuple[str, ...] = ()
    """What its users must know."""

    stock: bool = False
    """Whether the project's own test environment has it, so that CI always runs it."""

    @property
    def scenes(self) -> tuple[str, ...]:
        return (*(name for name in SCENES if name not in self.cannot), *self.more)

    @property
    def is_installed(self) -> bool:
        return self.command() is not None

    def command(self) -> list[str] | None:
        """Return how to start its driver; nothing if it is not installed here."""
        if self.home == "node":
            node = NODE / "node_modules" / ".bin" / "node"
            return [str(node), str(NODE / self.driver)] if node.exists() else None
        python = ENVIRONMENTS / self.home / "bin" / "python"
        module = ["-m", f"tests.callers.drivers.{self.driver}"]
        if python.exists():
            return [str(python), *module]
        return [sys.executable, *module] if self.stock else None


_NO_JOB: Final = {
    "job": "a job is no completion, and becomes an error there, an obscure one where it wraps "
    "a stock SDK without saying so; `wait` gets the answer, `raise` the ID"
}
_NO_ANSWER: Final = "job, an error there"
_TOKENS: Final = "give it a `timeout` where `max_tokens` is above 21,333, or it sends nothing"

CLIENTS: Final[tuple[Client, ...]] = (
    Client(
        "openai (Python)",
        "openai_sdk",
        ("openai",),
        "current",
        more=(
            "wait, asynchronous",
            "wait, typed output",
            "wait, tool call",
            "wait, Responses",
            "wait, Responses streamed",
            "wait, embeddings",
            "job, Responses",
            "job, refused for a stream",
            "job, raised for embeddings",
            "background, fetched",
            "wait, tag by environment",
        ),
        stock=True,
    ),
    Client(
        "anthropic (Python)",
        "anthropic_sdk",
        ("anthropic",),
        "current",
        more=(
            "wait, asynchronous",
            "wait, tool call",
            "job, refused for a stream",
            "wait, tag by environment",
            "wait, unsent with many tokens and no timeout",
        ),
        notes=(_TOKENS,),
        stock=True,
    ),
    Client(
        "google-genai (Python)",
        "google_genai",
        ("google-genai",),
        "current",
        more=(
            "wait, asynchronous",
            "wait, embeddings by a call",
            "job, refused for a stream",
        ),
        notes=("its asynchronous half counts a `timeout` over the whole call: set none",),
        stock=True,
    ),
    Client(
        "langchain-openai",
        "langchain_openai_chat",
        ("langchain-openai", "openai"),
        "current",
        more=("wait, asynchronous", "wait, typed output", "wait, Responses", _NO_ANSWER),
        cannot=_NO_JOB,
    ),
    Client(
        "langchain-anthropic",
        "langchain_anthropic_chat",
        ("langchain-anthropic", "anthropic"),
        "current",
        more=("wait, asynchronous", _NO_ANSWER),
        cannot=_NO_JOB,
    ),
    Client(
        "instructor",
        "instructor_openai",
        ("instructor", "openai"),
        "openai-2",
        more=(_NO_ANSWER,),
        cannot=_NO_JOB,
    ),
    Client(
        "pydantic-ai",
        "pydantic_ai_agents",
        ("pydantic-ai-slim", "openai", "anthropic"),
        "current",
        more=(
            "wait, typed output",
            "wait, Responses",
            "wait, Anthropic",
            "background, polled",
            _NO_ANSWER,
        ),
        cannot=_NO_JOB,
    ),
    Client(
        "litellm",
        "litellm_calls",
        ("litellm", "openai"),
        "current",
        more=(
            "wait, asynchronous",
            "wait, Responses",
            "wait, Anthropic",
            "wait, embeddings",
            _NO_ANSWER,
        ),
        cannot=_NO_JOB,
    ),
    Client(
        "llama-index",
        "llama_index_openai",
        ("llama-index-llms-openai", "openai"),
        "openai-2",
        more=("wait, asynchronous", _NO_ANSWER),
        cannot=_NO_JOB,
    ),
    Client(
        "openai (Node)",
        "openai.mjs",
        ("openai",),
        "node",
        more=(
            "wait, Responses",
            "wait, embeddings",
            "job, Responses",
            "job, refused for a stream",
            "job, raised for embeddings",
            "background, fetched",
            "wait, tag by environment",
        ),
    ),
    Client(
        "@anthropic-ai/sdk (Node)",
        "anthropic.mjs",
        ("@anthropic-ai/sdk",),
        "node",
        more=(
            "job, refused for a stream",
            "wait, tag by environment",
            "wait, unsent with many tokens and no timeout",
        ),
        notes=(_TOKENS,),
    ),
    Client(
        "AI SDK (Node)",
        "ai.mjs",
        ("ai", "@ai-sdk/openai"),
        "node",
        more=(
            "wait, typed output",
            "wait, Responses",
            "wait, embeddings",
            "wait, unsent with an unknown service tier",
            _NO_ANSWER,
        ),
        cannot=_NO_JOB,
        notes=("it knows no service tier but OpenAI's own: tag by the header",),
    ),
)
