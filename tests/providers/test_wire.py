import json

import pytest

from proxy.core.errors import (
    CREDENTIAL_CODES,
    CredentialRefusedError,
    ProviderBusyError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from proxy.providers import _wire


def envelope(code: str | None = None, kind: str = "invalid_request_error") -> bytes:
    code_json = "null" if code is None else f'"{code}"'
    return (
        f'{{"error":{{"message":"why","type":"{kind}","param":null,"code":{code_json}}}}}'.encode()
    )


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, ProviderRejectedError),
        (404, ProviderRejectedError),
        (413, ProviderRejectedError),
        (422, ProviderRejectedError),
        (401, CredentialRefusedError),
        (402, CredentialRefusedError),
        (403, CredentialRefusedError),
        (409, ProviderBusyError),
        (429, ProviderBusyError),
        (498, ProviderBusyError),
        (408, ProviderUnavailableError),
        (499, ProviderUnavailableError),
        (500, ProviderUnavailableError),
        (503, ProviderUnavailableError),
        (307, ProviderUnavailableError),
    ],
)
@pytest.mark.parametrize("body", [envelope(), b"", b"<html>", b'{"error":"text"}', b"[1]"])
def test_a_status_says_who_must_act(status, expected, body):
    error = _wire.refusal("create of b1", status=status, body=body)

    assert type(error) is expected
    assert error.status_code == status
    assert error.body == body
    assert f"HTTP {status}" in str(error)
    assert error.sent


@pytest.mark.parametrize("code", sorted(CREDENTIAL_CODES))
@pytest.mark.parametrize("status", [400, 403, 429, 500])
def test_a_code_that_blames_the_account_counts_in_whatever_status(code, status):
    for body in (envelope(code), envelope(None, kind=code), envelope("other", kind=code)):
        assert isinstance(_wire.refusal("x", status=status, body=body), CredentialRefusedError)


def test_a_model_that_is_not_open_to_an_account_blames_no_credential():
    error = _wire.refusal("create", status=403, body=envelope("model_not_found"))

    assert type(error) is ProviderRejectedError
    assert type(_wire.refusal("create", status=500, body=envelope("model_not_found"))) is (
        ProviderUnavailableError
    )


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, envelope("token_limit_exceeded"), "token_limit_exceeded"),
        (429, envelope("token_limit_exceeded"), "token_limit_exceeded"),
        (
            429,
            b'{"error":{"code":null,"message":"Enqueued token limit reached for m in org."}}',
            "token_limit_exceeded",
        ),
        (404, envelope("model_not_found"), "model_not_found"),
        (400, envelope("unsupported_model"), "unsupported_model"),
        (413, b"<html>413 Request Entity Too Large", "input_too_large"),
        (413, envelope(kind="request_too_large"), "input_too_large"),
        (400, envelope("bad_metadata"), "provider_rejected"),
    ],
)
def test_a_refused_create_is_told_in_the_words_of_a_failed_batch(status, body, code):
    error = _wire.refusal("create of b1", status=status, body=body)

    assert (type(error), error.code) == (ProviderRejectedError, code)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (
            400,
            b'{"error":{"message":"Cannot find file file-A1","param":"file_id","code":null}}',
            "input_missing",
        ),
        (404, b'{"error":{"message":"No such File object: file-A1"}}', "input_missing"),
        (404, b"", "input_missing"),
        (404, envelope("model_not_found"), "model_not_found"),
        (400, envelope("token_limit_exceeded"), "token_limit_exceeded"),
        (400, envelope(), "provider_rejected"),
    ],
)
def test_a_create_whose_input_is_not_found_says_so(status, body, code):
    refused = _wire.refusal("create of b1", status=status, body=body)
    assert isinstance(refused, ProviderRejectedError)

    error = _wire.create_refused(refused)

    assert (error.code, error.status_code, error.body) == (code, status, body)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "The input file 'file-28' is in 'pending' state. Only files with status 'Processed' …",
            ProviderBusyError,
        ),
        (
            "The specified file reference must point to a completed file import.",
            ProviderBusyError,
        ),
        ("The input file 'file-28' is in 'error' state.", ProviderRejectedError),
    ],
)
def test_a_file_that_is_still_looked_through_is_waited_for(message, expected):
    body = json.dumps({"error": {"code": "invalidPayload", "message": message}}).encode()
    refused = _wire.refusal("create of b1", status=400, body=body)
    assert isinstance(refused, ProviderRejectedError)

    assert type(_wire.create_refused(refused)) is expected


def test_a_rate_limit_is_no_limit_of_what_is_enqueued():
    error = _wire.refusal("create", status=429, body=envelope("rate_limit_exceeded"))

    assert (type(error), error.code) == (ProviderBusyError, "provider_busy")


def test_what_the_provider_echoes_of_a_credential_is_cut_out():
    body = b'{"error":{"message":"Incorrect API key: sk-secret.","code":"invalid_api_key"}}'

    error = _wire.refusal("poll", status=401, body=body, secrets=("Bearer sk-secret", "sk-secret"))

    assert "sk-secret" not in str(error)
    assert error.body == body.replace(b"sk-secret", b"[credential]")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, None),
        ("text", None),
        ({}, None),
        ({"code": ""}, None),
        ({"code": "a", "type": "b"}, "a"),
        ({"code": None, "type": "b"}, "b"),
        ({"code": 429}, "429"),
        ({"code": "x", "type": "insufficient_quota"}, "insufficient_quota"),
    ],
)
def test_the_code_of_an_error_is_its_most_telling_word(error, code):
    assert _wire.error_code(error) == code


@pytest.mark.parametrize(
    "value", [0, 1, 99, 600, 10**30, -200, True, 200.5, "2000", "-200", "٢٠٠", None, []]
)
def test_what_no_server_could_send_is_no_status(value):
    assert _wire.status(value) is None
    assert _wire.status(502) == 502


@pytest.mark.parametrize(
    "value", ["", "a b", "a\r\nset-cookie: x", "\ud800", "é", "x" * 300, 7, None]
)
def test_an_id_that_no_header_can_hold_is_none(value):
    assert _wire.request_id(value) is None
    assert _wire.request_id("req_a-1:b/2") == "req_a-1:b/2"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (None, None),
        ("Unknown name \"foo\": Cannot find field.", "Unknown name \"foo\": Cannot find field."),
        ("Invalid value at 'requests[3].text' (TYPE_STRING), 5 canary",
         "Invalid value at 'requests[3].text' (TYPE_STRING)"),
        ("Invalid JSON payload received. Unexpected token.\n{\"text\": \"canary\n ^",
         "Invalid JSON payload received. Unexpected token."),
        ("x" * 10_000, "x" * 300),
    ],
)  # fmt: skip
def test_what_a_provider_quotes_of_a_prompt_is_left_out(message, shown):
    assert _wire.shown(message) == shown


def test_a_refusal_says_no_prompt():
    body = (
        b'{"error":{"code":400,"status":"INVALID_ARGUMENT","message":'
        b"\"Invalid value at 'contents[0].parts[0].text' (TYPE_STRING), canary\"}}"
    )

    error = _wire.refusal("create of b1", status=400, body=body)

    assert "contents[0].parts[0].text" in str(error)
    assert "canary" not in str(error)
