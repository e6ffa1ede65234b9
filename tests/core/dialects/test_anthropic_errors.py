"""Anthropic's error types: their statuses, and whose move it is after each."""

import json

import pytest

from proxy.core.dialects import ANTHROPIC_STATUS, Family, error_answer
from proxy.core.errors import CallerError, ProxyError
from proxy.core.outcomes import Answer, Verdict

VERDICTS = {
    "invalid_request_error": Verdict.PERMANENT,
    "authentication_error": Verdict.CREDENTIAL,
    "billing_error": Verdict.CREDENTIAL,
    "permission_error": Verdict.CREDENTIAL,
    "not_found_error": Verdict.PERMANENT,
    "conflict_error": Verdict.TRANSIENT,
    "request_too_large": Verdict.PERMANENT,
    "rate_limit_error": Verdict.BUSY,
    "api_error": Verdict.TRANSIENT,
    "timeout_error": Verdict.TRANSIENT,
    "overloaded_error": Verdict.TRANSIENT,
}


@pytest.mark.parametrize("kind", ANTHROPIC_STATUS)
def test_every_type_has_its_verdict(kind):
    envelope = {"type": "error", "error": {"type": kind, "message": "no"}}
    answer = Answer(status=ANTHROPIC_STATUS[kind], content=envelope)

    assert answer.error_code == kind
    assert answer.verdict is VERDICTS[kind]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "not_found_error"),
        (409, "conflict_error"),
        (410, "invalid_request_error"),
        (429, "rate_limit_error"),
        (502, "api_error"),
        (529, "overloaded_error"),
    ],
)
def test_our_own_errors_have_the_type_of_their_status(status, kind):
    error: ProxyError = CallerError("no", http_status=status)

    envelope = json.loads(error_answer(Family.ANTHROPIC, error).body)

    assert envelope["type"] == "error"
    assert (envelope["error"]["type"], envelope["error"]["message"]) == (kind, "no")


def test_all_documented_types_have_a_status():
    assert VERDICTS.keys() == ANTHROPIC_STATUS.keys()
