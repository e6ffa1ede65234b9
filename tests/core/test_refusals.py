"""The one word of a provider's error, whichever provider it is."""

import json
from typing import Any

import pytest

from proxy.core.errors import CREDENTIAL_CODES
from proxy.core.outcomes import Verdict, verdict
from proxy.core.refusals import (
    FILE_REFUSED,
    INSUFFICIENT_QUOTA,
    blames_money,
    code_of,
    error_code,
)


def google(status: str, message: str, *reasons: object) -> dict[str, Any]:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": r} for r in reasons]
    return {"code": 400, "message": message, "status": status, "details": details}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "a", "type": "b"}, "a"),
        ({"code": "a", "type": "insufficient_quota"}, "insufficient_quota"),
        ({"code": None, "type": "b"}, "b"),
        ({"code": "", "type": "b"}, "b"),
        ({"code": 429}, "429"),
        ({"code": 403, "message": "no", "metadata": {"provider_name": "x"}}, "403"),
        ({"code": 403, "metadata": {"reasons": ["a"], "flagged_input": "b"}}, "input_flagged"),
        ({"code": [], "type": ""}, None),
        ({"code": [], "type": []}, None),
        ({}, None),
        ("text", None),
        (None, None),
    ],
)
def test_codes_and_types_are_read(error, code) -> None:
    assert error_code(error) == code


@pytest.mark.parametrize(
    ("status", "error", "code", "means"),
    [
        (
            400,
            "Incorrect API key provided: xa***yz. You can obtain an API key from …",
            "invalid_api_key",
            Verdict.CREDENTIAL,
        ),
        (400, "You said: incorrect API key provided", None, Verdict.PERMANENT),
        (400, "Each message must have at least one content element.", None, Verdict.PERMANENT),
        (
            403,
            "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO",
            "input_flagged",
            Verdict.PERMANENT,
        ),
        (
            429,
            "Your team 1db9c97a has either used all available credits or reached its monthly …",
            "insufficient_quota",
            Verdict.CREDENTIAL,
        ),
        (429, "Too many requests for team 1db9c97a.", None, Verdict.BUSY),
    ],
)
def test_what_is_at_fault_is_read_from_a_text_without_a_code(status, error, code, means) -> None:
    """At xAI (third-party captures of 2026): its `code` beside is but the name of a status."""
    body = json.dumps({"code": "invalid-argument", "error": error}).encode()

    assert (error_code(error), code_of(body)) == (code, code)
    assert verdict(status, code) is means


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("Your credit balance is too low to access the Anthropic API. Go to …", "billing_error"),
        ("This organization has been disabled.", "permission_error"),
        ("You have reached your specified API usage limits. You will …", "billing_error"),
        ("You have reached your specified workspace API usage limits.", "billing_error"),
        ("messages.0: your credit balance is too low", "invalid_request_error"),
        ("messages: Field required", "invalid_request_error"),
        (None, "invalid_request_error"),
    ],
)
def test_an_account_is_blamed_that_only_the_words_blame(message, code) -> None:
    error = {"type": "invalid_request_error", "message": message}

    assert error_code(error) == code
    blames = code != "invalid_request_error"
    assert verdict(400, error_code(error)) is (Verdict.CREDENTIAL if blames else Verdict.PERMANENT)
    assert error_code({**error, "code": "x"}) == "x"


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (
            {"details": {"error_code": "enforced_spend_limit_reached"}},
            "enforced_spend_limit_reached",
        ),
        ({"message": "You have reached your API usage limits: your …"}, "billing_error"),
        ({"message": "Number of request tokens has exceeded your limit"}, "rate_limit_error"),
        ({"details": {"error_code": "slow_down"}}, "rate_limit_error"),
        ({"details": {"error_code": []}}, "rate_limit_error"),
        ({"details": ["enforced_spend_limit_reached"]}, "rate_limit_error"),
    ],
)
def test_a_spend_limit_is_told_from_a_rate_limit_of_the_same_type(told, code) -> None:
    assert error_code({"type": "rate_limit_error", **told}) == code
    is_rate = code == "rate_limit_error"
    assert verdict(429, code) is (Verdict.BUSY if is_rate else Verdict.CREDENTIAL)


@pytest.mark.parametrize("status", [400, 403, 429])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("organization_spend_limit_exceeded", "server_error"),
        ("project_spend_limit_exceeded", "insufficient_quota"),
        ("organization_usage_limit_exceeded", None),
        ("credit_balance_exhausted", "insufficient_quota"),
        ("blocked_api_access", "invalid_request_error"),
    ],
)
def test_a_spend_limit_pauses_the_credential_whatever_its_status(status, code, kind) -> None:
    """What is tried again all month, or ends with a 400, was only to wait."""
    error = {"message": "no", "type": kind, "param": None, "code": code}

    assert verdict(status, error_code(error)) is Verdict.CREDENTIAL
    assert blames_money(json.dumps({"error": error}).encode())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (google("INVALID_ARGUMENT", "x"), "INVALID_ARGUMENT"),
        (google("INVALID_ARGUMENT", "API key not valid.", "API_KEY_INVALID"), "API_KEY_INVALID"),
        (google("INVALID_ARGUMENT", "x", 7, "SOMETHING_ELSE"), "INVALID_ARGUMENT"),
        (google("PERMISSION_DENIED", "x", "SERVICE_DISABLED"), "SERVICE_DISABLED"),
        (google("PERMISSION_DENIED", "x"), "PERMISSION_DENIED"),
        (google("RESOURCE_EXHAUSTED", "You exceeded your current quota"), "RESOURCE_EXHAUSTED"),
        (
            google("RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."),
            INSUFFICIENT_QUOTA,
        ),
        (
            google(
                "PERMISSION_DENIED",
                "You do not have permission to access the File abc or it may not exist.",
            ),
            FILE_REFUSED,
        ),
        ({"code": 3, "status": "INVALID_ARGUMENT", "details": [None, "x"]}, "INVALID_ARGUMENT"),
        ({"code": "mine", "status": "odd"}, "mine"),
    ],
)
def test_googles_status_is_read_with_its_reason(error, code) -> None:
    assert error_code(error) == code


def test_a_wrong_key_is_the_credentials_fault_though_it_is_a_400() -> None:
    assert verdict(400, "API_KEY_INVALID") is Verdict.CREDENTIAL
    assert INSUFFICIENT_QUOTA in CREDENTIAL_CODES


def test_a_file_that_is_gone_is_the_calls_own_fault_though_it_is_a_403() -> None:
    assert verdict(403, FILE_REFUSED) is Verdict.PERMANENT
    assert verdict(403, "PERMISSION_DENIED") is Verdict.CREDENTIAL


@pytest.mark.parametrize(
    ("body", "blames"),
    [
        (b'{"error":{"code":"billing_not_active"}}', True),
        (b'{"error":{"type":"insufficient_quota","code":null}}', True),
        (b'{"error":{"code":"invalid_api_key"}}', False),
        (b'{"error":"text"}', False),
        (b"<html>", False),
        (b"[]", False),
        (b"", False),
        (None, False),
    ],
)
def test_a_refusal_blames_the_means_of_an_account_or_not(body, blames) -> None:
    assert blames_money(body) is blames
