"""Upstreams of every kind, and where calls to them go."""

from proxy.core.fields import RawHeaders
from proxy.core.routing import Refusal, Route, resolve
from proxy.core.upstream import Upstream

UPSTREAMS = {
    upstream.name: upstream
    for upstream in (
        Upstream.parse("openai", "openai", "https://api.openai.com"),
        Upstream.parse("anthropic", "anthropic", "https://api.anthropic.com"),
        Upstream.parse("gemini", "gemini", "https://generativelanguage.googleapis.com"),
        Upstream.parse(
            "gemini-openai", "gemini-openai", "https://generativelanguage.googleapis.com"
        ),
        Upstream.parse("groq", "groq", "https://api.groq.com"),
        Upstream.parse("azure", "azure", "https://res.openai.azure.com"),
        Upstream.parse("azure-v1", "azure", "https://res.openai.azure.com/openai/v1/"),
        Upstream.parse("deepinfra", "deepinfra", "https://api.deepinfra.com"),
        Upstream.parse("openrouter", "openrouter", "https://openrouter.ai/api/v1"),
        Upstream.parse("xai", "xai", "https://api.x.ai/v1"),
        Upstream.parse("mine", "anthropic-compatible", "http://10.0.0.6"),
        Upstream.parse("vllm", "openai", "http://10.0.0.5:8000/v1"),
        Upstream.parse("based", "openai-compatible", "http://h/base/"),
    )
}
BEARER = ((b"Authorization", b"Bearer sk-abc"),)
VERSION = ((b"Anthropic-Version", b"2023-06-01"),)


def routed(target: str, headers: RawHeaders = ()) -> tuple[str, str]:
    route = resolve(target, headers, UPSTREAMS)
    assert isinstance(route, Route), route
    return route.upstream.name, route.upstream_target


def refused(target: str, headers: RawHeaders = ()) -> Refusal:
    refusal = resolve(target, headers, UPSTREAMS)
    assert isinstance(refusal, Refusal), refusal
    return refusal
