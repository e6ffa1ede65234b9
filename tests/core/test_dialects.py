"""The rows of the wire families: credentials, deferrable paths, error envelopes."""

import json

import pytest

from proxy.core.dialects import (
    DIALECTS,
    Dialect,
    Endpoint,
    Family,
    Shape,
    endpoint_for,
    error_answer,
    openai_error,
    pick_headers,
    presented_credential,
)
from proxy.core.errors import CallerError, JobNotFoundError, OverloadedError, ProxyError

OPENAI = DIALECTS["openai"]
ANTHROPIC = DIALECTS["anthropic"]
GEMINI = DIALECTS["gemini"]


@pytest.mark.parametrize(("name", "dialect"), DIALECTS.items())
def test_every_row_is_consistent(name: str, dialect: Dialect) -> None:
    assert dialect.name == name
    for path, endpoint in dialect.endpoints.items():
        assert endpoint.path == path
        assert path.startswith("/")
    names = (*dialect.credential_headers, *dialect.billing_headers, *dialect.batch_headers)
    assert all(header == header.lower() for header in names)


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        ("/v1/chat/completions", Shape.CHAT),
        ("/v1/chat/completions?x=1", Shape.CHAT),
        ("/v1/responses", Shape.RESPONSES),
        ("/v1/completions", Shape.COMPLETIONS),
        ("/v1/embeddings", Shape.EMBEDDINGS),
        ("/v1/moderations", Shape.MODERATIONS),
        ("/v1/chat/completions/", None),
        ("/v1/chat/completions/x", None),
        ("/v1/models", None),
        ("/v1/audio/speech", None),
        ("/", None),
    ],
)
def test_only_exact_paths_are_deferrable(target: str, shape: Shape | None) -> None:
    found = endpoint_for(OPENAI, target)

    assert (found and found.shape) == shape


@pytest.mark.parametrize(
    ("query", "idle"), [("", True), ("beta=true", True), ("beta=true&x=1", False), ("x", False)]
)
def test_a_query_that_an_sdk_adds_to_every_call_says_nothing(query: str, idle: bool) -> None:
    assert ANTHROPIC.is_idle_query(query) is idle


def test_an_endpoint_is_batched_unless_its_row_says_otherwise() -> None:
    assert Endpoint(path="/x", shape=Shape.CHAT, required=()).batched


@pytest.mark.parametrize(
    ("dialect", "headers", "token", "sent"),
    [
        (
            OPENAI,
            ((b"Authorization", b"Bearer sk-1"),),
            "sk-1",
            (("authorization", "Bearer sk-1"),),
        ),
        (
            OPENAI,
            ((b"AUTHORIZATION", b"  Bearer   sk-1 "), (b"OpenAI-Project", b"p")),
            "sk-1",
            (("authorization", "Bearer   sk-1"), ("openai-project", "p")),
        ),
        (
            OPENAI,
            ((b"authorization", b"Bearer sk-1"), (b"authorization", b"Bearer sk-2")),
            "sk-1",
            (("authorization", "Bearer sk-1"),),
        ),
        (
            ANTHROPIC,
            ((b"authorization", b"Bearer t"), (b"x-api-key", b"k")),
            "k",
            (("x-api-key", "k"),),
        ),
        (
            ANTHROPIC,
            ((b"x-api-key", b""), (b"authorization", b"Bearer t")),
            "t",
            (("authorization", "Bearer t"),),
        ),
        (GEMINI, ((b"X-Goog-Api-Key", b"AIza1"),), "AIza1", (("x-goog-api-key", "AIza1"),)),
    ],
)
def test_a_credential_is_its_tokens_value_and_the_headers_to_repeat(
    dialect, headers, token, sent
) -> None:
    found = presented_credential(dialect, headers)

    assert found is not None
    assert (found.token, found.headers) == (token, sent)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"authorization", b""),),
        ((b"authorization", b"Bearer"),),
        ((b"authorization", b"Bearer  "),),
        ((b"x-api-key", b"k"),),
        ((b"openai-organization", b"org"),),
    ],
)
def test_a_call_without_a_token_presents_nothing(headers) -> None:
    assert presented_credential(OPENAI, headers) is None


def test_who_pays_is_part_of_the_credential_in_a_fixed_order() -> None:
    headers = (
        (b"openai-project", b"p"),
        (b"authorization", b"Bearer t"),
        (b"OpenAI-Organization", b"o"),
    )

    found = presented_credential(OPENAI, headers)

    assert found is not None
    assert found.billing == (("openai-organization", "o"), ("openai-project", "p"))


def test_a_key_in_the_query_counts_where_no_header_has_one() -> None:
    header = ((b"x-goog-api-key", b"H"),)

    query = presented_credential(GEMINI, (), query_key="Q")
    both = presented_credential(GEMINI, header, query_key="Q")

    assert query is not None
    assert both is not None
    assert (query.token, query.headers) == ("Q", (("x-goog-api-key", "Q"),))
    assert both.token == "H"


def test_a_presented_credential_does_not_show_itself() -> None:
    found = presented_credential(OPENAI, ((b"authorization", b"Bearer sk-canary"),))

    assert "canary" not in f"{found!r} {found}"


def test_headers_are_picked_in_lower_case_and_sorted() -> None:
    headers = (
        (b"Anthropic-Version", b" 2023-06-01 "),
        (b"x-other", b"1"),
        (b"anthropic-beta", b"b"),
        (b"anthropic-beta", b"a"),
    )

    assert pick_headers(ANTHROPIC.batch_headers, headers) == (
        ("anthropic-beta", "a"),
        ("anthropic-beta", "b"),
        ("anthropic-version", "2023-06-01"),
    )
    assert pick_headers((), headers) == ()


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
    ],
)
def test_geminis_envelope_is_googles_status(status: int, name: str) -> None:
    answer = error_answer(Family.GEMINI, CallerError("x", http_status=status, code="why"))

    assert json.loads(answer.body)["error"] == {
        "code": status,
        "message": "x",
        "status": name,
        "details": [{"reason": "why"}],
    }


@pytest.mark.parametrize("family", Family)
def test_every_family_is_told_when_to_come_back(family: Family) -> None:
    answer = error_answer(family, OverloadedError("full", retry_after_s=7))

    assert answer.status == 429
    assert ("Retry-After", "7") in answer.headers
