"""Our own errors in the words of each family."""

import json

import pytest

from proxy.core.dialects import Family, error_answer, openai_error
from proxy.core.errors import CallerError, JobNotFoundError, OverloadedError, ProxyError


def test_openais_envelope_names_the_parameter_at_fault() -> None:
    error = CallerError("no", code="bad_value", param="X-Deferrable")

    answer = error_answer(Family.OPENAI, error)

    assert (answer.status, answer.headers) == (400, (("Content-Type", "application/json"),))
    assert json.loads(answer.body) == {
        "error": {
            "message": "no",
            "type": "invalid_request_error",
            "param": "X-Deferrable",
            "code": "bad_value",
        }
    }


def test_an_error_of_ours_is_the_servers_in_openais_words() -> None:
    assert openai_error(ProxyError("broken"))["type"] == "server_error"
    assert openai_error(ProxyError("broken"))["param"] is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CallerError("x"), "invalid_request_error"),
        (JobNotFoundError("job_1"), "not_found_error"),
        (OverloadedError("x"), "rate_limit_error"),
        (CallerError("x", http_status=413), "request_too_large"),
        (ProxyError("x"), "api_error"),
    ],
)
def test_anthropics_envelope_has_its_own_types(error: ProxyError, kind: str) -> None:
    body = json.loads(error_answer(Family.ANTHROPIC, error).body)

    assert body["type"] == "error"
    assert body["error"] == {"type": kind, "message": error.message, "code": error.code}


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "INVALID_ARGUMENT"),
        (404, "NOT_FOUND"),
        (429, "RESOURCE_EXHAUSTED"),
        (503, "UNAVAILABLE"),
        (502, "INTERNAL"),
        (409, "FAILED_PRECONDITION"),
        (413, "INVALID_ARGUMENT"),
    ],
)
def test_geminis_envelope_is_googles_status(status: int, name: str) -> None:
    answer = error_answer(Family.GEMINI, CallerError("x", http_status=status, code="why"))

    assert json.loads(answer.body)["error"] == {
        "code": status,
        "message": "x",
        "status": name,
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "why",
                "domain": "offramp",
            }
        ],
    }


def test_mistrals_envelope_is_flat_and_holds_openais_too() -> None:
    body = json.loads(error_answer(Family.MISTRAL, CallerError("no", code="bad_value")).body)

    told = {
        "message": "no",
        "type": "invalid_request_error",
        "param": None,
        "code": "bad_value",
    }
    assert body == {"object": "error", **told, "error": told}


@pytest.mark.parametrize("family", Family)
def test_every_family_is_told_when_to_come_back(family: Family) -> None:
    answer = error_answer(family, OverloadedError("full", retry_after_s=7))

    assert answer.status == 429
    assert ("Retry-After", "7") in answer.headers
