"""A local provider with real batch semantics, for the demo, tests and benchmarks.

It speaks the APIs of OpenAI, Anthropic and Gemini on one port, and below prefixes of their own
those of Azure, Groq, Together, DeepInfra, Doubleword, Mistral, OpenRouter and xAI, and Gemini's
OpenAI API. It bills what it executes in a ledger, keeps a clock that can be stopped and advanced,
and breaks on command. It knows nothing of the proxy in front of it: nothing here imports another
part of `proxy`.

    each vendor's API     openai (and its clones), anthropic, gemini
    batches of others     mistral_jobs, openrouter_batches, xai_batches; own_lines (made OpenAI's)
    what vendors share    engine, answers, interactive, keys, ledger, files
    what batches share    records, schedule, lines
    what tests turn       settings (at the start), control, faults, clock
    HTTP                  server, wire (one exchange)
"""

from proxy.sandbox.answers import answer_text, body_hash
from proxy.sandbox.faults import BatchFault, FaultBook, HttpFault, LineFault
from proxy.sandbox.ledger import Entry, Ledger, Totals, key_id
from proxy.sandbox.server import Running, Sandbox
from proxy.sandbox.settings import DEFAULT_MODELS, ModelSpec, SandboxSettings

__all__ = [
    "DEFAULT_MODELS",
    "BatchFault",
    "Entry",
    "FaultBook",
    "HttpFault",
    "Ledger",
    "LineFault",
    "ModelSpec",
    "Running",
    "Sandbox",
    "SandboxSettings",
    "Totals",
    "answer_text",
    "body_hash",
    "key_id",
]
