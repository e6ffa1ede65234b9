"""Who cannot be answered with a job."""

import pytest

from proxy.core.dialects import Shape
from proxy.core.wrappers import takes_no_job

# As their releases of November 2026 sent them.
WRAPPERS = [
    "ai/6.0.326 ai-sdk/provider-utils/4.0.66 runtime/node.js/v20.20.2",
    "ai-sdk/openai/3.0.141 ai-sdk/provider-utils/4.0.66 runtime/node.js/v20.20.2",
    "Agents/Python 0.20.0",
    "DSPy/3.4.1",
    "langchain-anthropic/1.7.10",
    "litellm/1.110.2",
    "mistral-client-python/3.7.0",
    "pydantic-ai/2.68.0",
    # Behind the SDK that they call by, or behind the name that their user gave.
    "google-genai-sdk/3.6.1 gl-python/3.11.7 langchain-google-genai/4.4.3-ChatGoogleGenerativeAI",
    "google-genai-sdk/3.6.1 gl-python/3.11.7 pydantic-ai/2.31.1 pydantic-ai/2.31.1",
    "my-app ai/6.0.326 ai-sdk/provider-utils/4.0.66 runtime/node.js/v20.20.2",
]


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_takes_no_job(name: str) -> None:
    assert takes_no_job(name.encode(), Shape.CHAT)
    assert takes_no_job(name.encode(), Shape.RESPONSES) is ("pydantic-ai/" not in name)


@pytest.mark.parametrize(
    "name", [None, "", "OpenAI/Python 3.57.0", "Anthropic/JS 1.14.0", "curl/7.88.1", "openai/6.0"]
)
def test_all_others_take_one(name: str | None) -> None:
    assert not takes_no_job(None if name is None else name.encode(), Shape.CHAT)
