"""What can go wrong, told apart by whose fault it is.

The type says who must act: the caller (`CallerError`), nobody yet because it may
pass (`ProviderUnavailableError`, `StoreUnavailableError`), or the operator
(`ConfigError`, `StoreCorruptError`). Adapters translate the exceptions of their
libraries into these; nothing above an adapter names a library's exception.

A bug (`AssertionError`, an illegal transition) is none of these and is never
caught on the way up: the instance stops and is started again.
"""

from datetime import timedelta
from typing import Final


class ProxyError(Exception):
    """The base of every failure that the service expects.

    `code` is stable and public: callers match on it. `http_status` is what a
    caller is answered when nothing more specific applies. `hint` tells an
    operator what to do about it.
    """

    code: str = "proxy_error"
    http_status: int = 500
    retry_after_s: int | None = None
    """The pause that a caller is told, in seconds; nothing if coming again does not help."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        http_status: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code
        if http_status is not None:
            self.http_status = http_status


class CallerError(ProxyError):
    """The call cannot be served as it is; repeating it unchanged will not help.

    `param` names the header or body field at fault, as the caller wrote it.
    """

    code = "invalid_request"
    http_status = 400

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        http_status: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, code=code, http_status=http_status, hint=hint)
        self.param = param


class OverloadedError(ProxyError):
    """A bound of ours is reached; the same call may pass later."""

    code = "too_many_jobs"
    http_status = 429

    def __init__(self, message: str, *, retry_after_s: int = 30, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class StoppingError(ProxyError):
    """This instance stops and makes no promise that it could not keep itself."""

    code = "draining"
    http_status = 503
    retry_after_s = 1
    """Another instance, or the next process, takes the call at once."""


class JobNotFoundError(CallerError):
    """No such job, or not this caller's: the two are not told apart."""

    code = "job_not_found"
    http_status = 404

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id}")


class StoreError(ProxyError):
    """The store did not do what it was asked to."""

    code = "store_error"
    http_status = 503


class StoreUnavailableError(StoreError):
    """The store did not answer, or its disk is full; it may recover."""

    code = "store_unavailable"


class AcceptUnclearError(StoreUnavailableError):
    """The store gave no answer about a new job: it may have it, or not."""

    def __init__(self, message: str, *, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class StoreCorruptError(StoreError):
    """What the store holds cannot be read: wrong schema, broken file, unknown key."""

    code = "store_corrupt"


class StoreForgotError(StoreError):
    """The store has not got what it had acknowledged: it was emptied, or an older one took over."""

    code = "store_forgot"


class ConfigError(ProxyError):
    """The configuration cannot be used; the message names the place and the bound."""

    code = "bad_configuration"


class ProviderError(ProxyError):
    """A provider did not do what it was asked to.

    `status_code` and `body` are the provider's own, where it answered at all, and
    `retry_after` is the pause that it asked for.
    `sent` is false only if it is certain that nothing reached the provider, so
    that a repeat cannot buy anything twice. `line` is the one, counted from 1, of a
    batch that was refused for its sake, if the provider names it.
    """

    code = "provider_error"
    http_status = 502

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status_code: int | None = None,
        body: bytes | None = None,
        retry_after: timedelta | None = None,
        sent: bool = True,
        line: int | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.line = line
        self.status_code = status_code
        self.body = body
        self.retry_after = retry_after
        self.sent = sent


class ProviderUnavailableError(ProviderError):
    """No answer, or one that promises nothing: 5xx, reset, timeout. May pass.

    For a call that buys something this is ambiguous: it may have been done.
    """

    code = "provider_unavailable"


class ProviderBusyError(ProviderError):
    """The provider refused for now and did nothing: 429 of rate or of capacity."""

    code = "provider_busy"


class ProviderRejectedError(ProviderError):
    """The provider understood and refused for good: 400, 404, 413, 422."""

    code = "provider_rejected"


class CredentialRefusedError(ProviderError):
    """The credential is at fault: revoked, without scope, out of quota or unpaid.

    It pauses the lane of that credential and burns no job.
    """

    code = "credential_paused"


# OpenAI API, "Error codes" and "Spend limits", where `insufficient_quota` is a type as well;
# `blocked_api_access` is Groq's, with a 400 (Groq, "Spend limits"), `billing_error` a type of
# Anthropic's, `enforced_spend_limit_reached` a detail of its 429 ("Errors" and "Rate limits"),
# and `BILLING_DISABLED` Google's (`google.api.ErrorReason`).
MONEY_CODES: Final = frozenset(
    {
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "blocked_api_access",
        "credit_balance_exhausted",
        "enforced_spend_limit_reached",
        "insufficient_quota",
        "organization_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "project_spend_limit_exceeded",
        "BILLING_DISABLED",
    }
)
"""Error codes that mean that the account has no means left, or may spend none."""

# OpenAI API errors, section "Error codes"; where they surface (create, batch
# object or line) is not documented, so they are recognised in all three;
# `organization_restricted` is Groq's, with a 400 (songquanpeng/one-api #1764). The
# types among them are Anthropic's (Anthropic API, "Errors"), those in capitals Google's
# (`google.rpc.Code` and `google.api.ErrorReason`), which come with a 400 too.
CREDENTIAL_CODES: Final = MONEY_CODES | frozenset(
    {
        "authentication_error",
        "permission_error",
        "account_deactivated",
        "invalid_api_key",
        "invalid_organization",
        "organization_restricted",
        "ACCESS_TOKEN_EXPIRED",
        "API_KEY_INVALID",
        "API_KEY_SERVICE_BLOCKED",
        "CONSUMER_INVALID",
        "CONSUMER_SUSPENDED",
        "PERMISSION_DENIED",
        "SERVICE_DISABLED",
        "UNAUTHENTICATED",
    }
)
"""Error codes that mean the account, not the call, is at fault."""

CREDENTIAL_STATUSES: Final = frozenset({401, 402, 403})
"""Statuses that mean the same whatever the code says; 402, which is OpenRouter's for want of
credit, has none."""
