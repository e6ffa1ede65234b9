"""Whose fault an error is, and what its caller is told."""

from datetime import timedelta

import pytest

from proxy.core.errors import (
    CallerError,
    ConfigError,
    CredentialRefusedError,
    JobNotFoundError,
    OverloadedError,
    ProviderBusyError,
    ProviderError,
    ProviderRejectedError,
    ProviderUnavailableError,
    ProxyError,
    StoppingError,
    StoreCorruptError,
    StoreError,
    StoreUnavailableError,
)

# Code and status are public: callers match on them.
PUBLIC = [
    (ProxyError("x"), "proxy_error", 500),
    (CallerError("x"), "invalid_request", 400),
    (OverloadedError("x"), "too_many_jobs", 429),
    (StoppingError("x"), "draining", 503),
    (JobNotFoundError("job_1"), "job_not_found", 404),
    (StoreError("x"), "store_error", 503),
    (StoreUnavailableError("x"), "store_unavailable", 503),
    (StoreCorruptError("x"), "store_corrupt", 503),
    (ConfigError("x"), "bad_configuration", 500),
    (ProviderError("x"), "provider_error", 502),
    (ProviderUnavailableError("x"), "provider_unavailable", 502),
    (ProviderBusyError("x"), "provider_busy", 502),
    (ProviderRejectedError("x"), "provider_rejected", 502),
    (CredentialRefusedError("x"), "credential_paused", 502),
]


@pytest.mark.parametrize(("error", "code", "status"), PUBLIC, ids=lambda case: type(case).__name__)
def test_every_error_has_its_public_code(error, code, status) -> None:
    assert (error.code, error.http_status) == (code, status)
    assert error.message == str(error)


def test_a_more_specific_code_is_this_errors_alone() -> None:
    special = CallerError("no", code="bad_header", http_status=422, param="X-Deferrable", hint="h")

    assert (special.code, special.http_status, special.param) == ("bad_header", 422, "X-Deferrable")
    assert special.hint == "h"
    assert (CallerError.code, CallerError.http_status) == ("invalid_request", 400)


def test_an_overload_says_when_to_come_back() -> None:
    assert OverloadedError("full").retry_after_s == 30
    assert OverloadedError("full", retry_after_s=5, code="pool_full").retry_after_s == 5


def test_only_who_can_tell_says_when_to_come_back() -> None:
    assert StoppingError("it stops").retry_after_s == 1
    assert ProxyError("a bug").retry_after_s is None


def test_a_missing_job_is_named_and_nothing_more() -> None:
    assert JobNotFoundError("job_1").message == "no job job_1"


def test_a_failed_request_counts_as_sent_unless_the_contrary_is_known() -> None:
    assert ProviderUnavailableError("timeout").sent
    assert not ProviderUnavailableError("refused", sent=False).sent


def test_a_providers_answer_stays_with_its_error() -> None:
    pause = timedelta(seconds=1.5)
    error = CredentialRefusedError("no", status_code=401, body=b"{}", retry_after=pause)

    assert (error.status_code, error.body, error.retry_after) == (401, b"{}", pause)
